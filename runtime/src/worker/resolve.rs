//! The `resolve` role: gets an image's manifest. All that a start of an image in the store needs.
#![forbid(unsafe_code)]

use super::protocol::{KnownCredentials, ResolveRequest, Resolved};
use super::sandbox;
use crate::error::Result;
use crate::image::{Client, CredentialQuery, CredentialSource, Credentials};
use std::sync::Mutex;

pub(super) fn run(request: ResolveRequest) -> Result<Resolved> {
    sandbox::for_network(&request.registry)?;
    let client = Client::new(request.registry);
    let source = Given::new(request.credentials);
    match client
        .repository(&request.reference, &source)
        .resolve_manifest(&request.platform)
    {
        Ok(manifest) => Ok(Resolved::Manifest(manifest)),
        Err(error) => match source.asked_for() {
            Some(query) => Ok(Resolved::NeedCredentials(query)),
            None => Err(error),
        },
    }
}

/// The credentials of the request. When nobody has asked the user's files yet, it notes what is wanted.
pub(super) struct Given {
    known: KnownCredentials,
    wanted: Mutex<Option<CredentialQuery>>,
}

impl Given {
    pub(super) fn new(known: KnownCredentials) -> Self {
        Given {
            known,
            wanted: Mutex::new(None),
        }
    }

    fn asked_for(&self) -> Option<CredentialQuery> {
        self.wanted.lock().ok().and_then(|query| query.clone())
    }
}

impl CredentialSource for Given {
    fn credentials(&self, query: &CredentialQuery) -> Result<Option<Credentials>> {
        match &self.known {
            KnownCredentials::Asked(credentials) => Ok(credentials.clone()),
            KnownCredentials::NotAsked => {
                if let Ok(mut wanted) = self.wanted.lock() {
                    *wanted = Some(query.clone());
                }
                Ok(None)
            }
        }
    }
}
