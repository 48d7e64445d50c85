//! The `credentials` role: reads the user's registry credentials in a process that is the user, so that the file
//! system's permissions decide what can be read and the user's credential helpers can run.
#![forbid(unsafe_code)]

use super::protocol::CredentialsRequest;
use crate::error::Result;
use crate::image::{Credentials, credentials};

pub(super) fn run(request: &CredentialsRequest) -> Result<Option<Credentials>> {
    credentials::lookup(&request.query, &request.env)
}
