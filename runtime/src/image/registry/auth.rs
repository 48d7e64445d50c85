//! Access to a repository: anonymous first, then what the registry's challenge asks for (distribution specification,
//! "Token Authentication", "OAuth2 Token Authentication", and HTTP Basic). Credentials go to the registry itself or to its
//! https token service, and to nobody else; tokens go to the registry alone.
#![forbid(unsafe_code)]

use super::challenge::{self, Challenge};
use super::origin::Origin;
use super::transport::{Answer, Ask};
use super::{Repository, split_port};
use crate::error::{Error, Result};
use crate::image::credentials::{CredentialQuery, Credentials, Proof};
use crate::image::{Secret, printable};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::fmt::Write as _;
use std::sync::{Arc, MutexGuard, PoisonError};
use ureq::http::Uri;

/// The largest token answer.
const MAX_TOKEN: u64 = 1 << 20;

/// The access that was granted so far.
#[derive(Default)]
pub(super) struct Grant {
    /// The `Authorization` header, once there is one.
    authorization: Option<Arc<Secret>>,
    /// How many times it was renewed: of several threads that are refused together, one asks for a new token.
    renewals: u64,
    /// What the credential source said, asked once.
    credentials: Option<Result<Option<Credentials>>>,
    /// The last challenge was HTTP Basic: the registry itself judges the password.
    basic: bool,
}

impl Repository<'_> {
    /// Asks for a path of the repository with the access that there is, and with more when that is not enough.
    pub(super) fn get(&self, path: &str, ask: &Ask<'_>) -> Result<Answer> {
        let (registry, path) = (
            self.reference.registry(),
            format!("{}/{path}", self.reference.repository()),
        );
        let (authorization, renewals) = {
            let grant = self.lock_grant();
            (grant.authorization.clone(), grant.renewals)
        };
        let ask = Ask {
            authorization: authorization.as_deref(),
            ..*ask
        };
        let answer = self.client.send(registry, &path, &ask)?;
        if answer.status != 401 || answer.redirected {
            return self.check_access(answer, ask.what);
        }
        let challenges: Vec<Challenge> = answer
            .headers
            .get_all("www-authenticate")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let origin = answer.origin.clone();
        answer.beginning(MAX_TOKEN);
        let authorization = self.renew(renewals, &origin, &challenges)?;
        let answer = self.client.send(
            registry,
            &path,
            &Ask {
                authorization: Some(&authorization),
                ..ask
            },
        )?;
        self.check_access(answer, ask.what)
    }

    fn lock_grant(&self) -> MutexGuard<'_, Grant> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_access(&self, answer: Answer, what: &str) -> Result<Answer> {
        match answer.status {
            401 | 403 if answer.redirected => Err(self.unexpected(answer, what)),
            401 | 403 => Err(self.no_access(answer)),
            _ => Ok(answer),
        }
    }

    /// A new `Authorization` header, unless another thread got one since `renewals` was read.
    fn renew(&self, renewals: u64, origin: &Origin, challenges: &[Challenge]) -> Result<Arc<Secret>> {
        let mut grant = self.lock_grant();
        if let (Some(authorization), true) = (&grant.authorization, grant.renewals > renewals) {
            return Ok(authorization.clone());
        }
        let find = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let header = match (find("bearer"), find("basic")) {
            (Some(bearer), _) => {
                let realm = self.realm(origin, bearer)?;
                grant.basic = false;
                self.ask_credentials(&mut grant, Some(&realm));
                self.token(&grant, origin, bearer, &realm)?
            }
            (None, Some(_)) => {
                grant.basic = true;
                self.ask_credentials(&mut grant, None);
                self.basic(&grant)?
            }
            (None, None) => {
                let offered: Vec<String> = challenges
                    .iter()
                    .map(|challenge| printable(&challenge.scheme))
                    .collect();
                let offered = if offered.is_empty() {
                    "nothing".to_owned()
                } else {
                    offered.join(", ")
                };
                return Err(Error::Image(format!(
                    "registry {} wants authentication, but by no known scheme (it offers {offered})",
                    self.reference.registry()
                )));
            }
        };
        let header = Arc::new(header);
        grant.authorization = Some(header.clone());
        grant.renewals += 1;
        Ok(header)
    }

    fn ask_credentials(&self, grant: &mut Grant, realm: Option<&Uri>) {
        if grant.credentials.is_none() {
            grant.credentials = Some(self.credentials.credentials(&CredentialQuery {
                registry: self.reference.registry().to_owned(),
                repository: self.reference.repository().to_owned(),
                token_host: realm.and_then(Uri::host).map(str::to_owned),
                login: self.reference.login().map(str::to_owned),
            }));
        }
    }

    fn basic(&self, grant: &Grant) -> Result<Secret> {
        match &grant.credentials {
            Some(Ok(Some(Credentials {
                login,
                proof: Proof::Password(password),
            }))) => Ok(basic_header(login, password)),
            Some(Ok(Some(_))) => Err(Error::Request(format!(
                "registry {} wants a password, and only an identity token is known: run docker login again",
                self.reference.registry()
            ))),
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(None)) | None => Err(self.needs_credentials()),
        }
    }

    /// The URL of the token service, if it is one that credentials may be sent to.
    fn realm(&self, origin: &Origin, challenge: &Challenge) -> Result<Uri> {
        let registry = self.reference.registry();
        let Some(text) = challenge.parameter("realm") else {
            return Err(Error::Image(format!(
                "registry {registry} wants a token but does not say from where (no realm)"
            )));
        };
        let realm = text.parse::<Uri>().ok().filter(|realm| Origin::of(realm).is_some());
        let shown = printable(text);
        let realm = realm.ok_or_else(|| {
            Error::Image(format!(
                "registry {registry} names a token service that is not a URL: {shown:?}"
            ))
        })?;
        let found = Origin::of(&realm);
        if found.as_ref().is_some_and(|found| found.https || found == origin) {
            return Ok(realm);
        }
        Err(Error::Image(format!(
            "registry {registry} sends for tokens to {shown}, which is neither https nor the registry itself: refused"
        )))
    }

    /// A token from the token service, with credentials where there are some.
    fn token(&self, grant: &Grant, origin: &Origin, challenge: &Challenge, realm: &Uri) -> Result<Secret> {
        let credentials = match &grant.credentials {
            Some(Ok(credentials)) => credentials.as_ref(),
            // A mistake in a credentials file must not keep a public image away; it is told when access is refused.
            Some(Err(_)) | None => None,
        };
        if credentials.is_none() && self.reference.login().is_some() {
            return Err(self.no_credentials(grant));
        }
        let registry = self.reference.registry();
        let parameters = self.token_parameters(origin, challenge, realm);
        let what = format!("a token for {}", self.reference.repository());
        let answer = self.ask_token(realm, &parameters, credentials, &what)?;
        match answer.status {
            200 => read_token(answer, registry),
            401 | 403 => Err(match credentials {
                Some(credentials) => refused(registry, &credentials.login),
                None => self.no_credentials(grant),
            }),
            400 | 404 if credentials.is_none() => Err(self.no_credentials(grant)),
            _ => Err(self.unexpected(answer, &what)),
        }
    }

    /// `service` and `scope`. A token service on another host is asked for this repository alone, whatever the registry
    /// says: else a hostile registry could have a token for somebody else's made.
    fn token_parameters(&self, origin: &Origin, challenge: &Challenge, realm: &Uri) -> String {
        let own_scope = format!("repository:{}:pull", self.reference.repository());
        let own_service = Origin::of(realm).as_ref() == Some(origin);
        let scopes = challenge
            .parameter("scope")
            .filter(|scope| own_service && !scope.trim().is_empty());
        let service = challenge
            .parameter("service")
            .map(|service| format!("service={}&", encode(service)));
        let scopes: Vec<String> = scopes
            .unwrap_or(&own_scope)
            .split_whitespace()
            .map(|scope| format!("scope={}", encode(scope)))
            .collect();
        format!("{}{}", service.unwrap_or_default(), scopes.join("&"))
    }

    fn ask_token(
        &self,
        realm: &Uri,
        parameters: &str,
        credentials: Option<&Credentials>,
        what: &str,
    ) -> Result<Answer> {
        let limit = Some(self.document_limit());
        let transport = &self.client.transport;
        let answer = if let Some(Credentials {
            proof: Proof::IdentityToken(token),
            ..
        }) = credentials
        {
            let form = Secret::new(format!(
                "grant_type=refresh_token&refresh_token={}&client_id=pyxis&{parameters}",
                encode(token.expose())
            ));
            transport.send(
                realm,
                &Ask {
                    what,
                    form: Some(&form),
                    limit,
                    ..Ask::default()
                },
            )
        } else {
            let separator = if realm.query().is_some() { '&' } else { '?' };
            let url = format!("{realm}{separator}{parameters}");
            let url: Uri = url
                .parse()
                .map_err(|_| Error::Image(format!("{:?} is not a URL", printable(&url))))?;
            let header = match credentials {
                Some(Credentials {
                    login,
                    proof: Proof::Password(password),
                }) => Some(basic_header(login, password)),
                _ => None,
            };
            transport.send(
                &url,
                &Ask {
                    what,
                    authorization: header.as_ref(),
                    limit,
                    ..Ask::default()
                },
            )
        };
        answer.map_err(|failure| failure.error)
    }

    /// The error for an image that may not be had with the access that there is.
    fn no_access(&self, answer: Answer) -> Error {
        let (registry, image) = (self.reference.registry(), self.reference.image());
        let status = answer.status;
        let words = answer
            .message()
            .map(|(_, message)| message)
            .filter(|message| !message.is_empty());
        let words = words.map(|message| format!(" ({message})")).unwrap_or_default();
        let grant = self.lock_grant();
        match &grant.credentials {
            Some(Ok(Some(credentials))) if grant.basic && status == 401 => refused(registry, &credentials.login),
            Some(Ok(Some(credentials))) => Error::Request(format!(
                "{} has no access to {image} on registry {registry}, or it does not exist{words}",
                name_login(&credentials.login)
            )),
            Some(Err(error)) => error.clone(),
            _ => Error::Request(format!(
                "{image} does not exist on registry {registry}, or needs credentials: {}",
                hint(registry)
            )),
        }
    }

    fn no_credentials(&self, grant: &Grant) -> Error {
        match &grant.credentials {
            Some(Err(error)) => error.clone(),
            _ => self.needs_credentials(),
        }
    }

    fn needs_credentials(&self) -> Error {
        let registry = self.reference.registry();
        let of = self
            .reference
            .login()
            .map(|login| format!(" of {login}"))
            .unwrap_or_default();
        let image = self.reference.image();
        Error::Request(format!(
            "registry {registry} needs credentials{of} for {image}: {}",
            hint(registry)
        ))
    }
}

fn hint(registry: &str) -> String {
    let host = split_port(registry).0;
    format!("add {host} to ~/.config/enroot/.credentials or run docker login {registry}")
}

fn refused(registry: &str, login: &str) -> Error {
    Error::Request(format!(
        "registry {registry} refused the credentials of {}",
        name_login(login)
    ))
}

fn name_login(login: &str) -> String {
    if login.is_empty() {
        "this user (an identity token)".to_owned()
    } else {
        printable(login)
    }
}

fn basic_header(login: &str, password: &Secret) -> Secret {
    let pair = Secret::new(format!("{login}:{}", password.expose()));
    Secret::new(format!("Basic {}", BASE64_STANDARD.encode(pair.expose())))
}

/// The `Authorization` header out of a token service's answer.
fn read_token(answer: Answer, registry: &str) -> Result<Secret> {
    #[derive(serde::Deserialize)]
    struct Document {
        token: Option<Secret>,
        access_token: Option<Secret>,
    }
    let service = answer.origin.clone();
    // The parser's error may quote the token: it is not shown.
    let document: Option<Document> = serde_json::from_slice(&answer.beginning(MAX_TOKEN)).ok();
    let token = document.and_then(|document| document.token.or(document.access_token));
    let printable = |token: &Secret| !token.expose().is_empty() && token.expose().bytes().all(|b| b.is_ascii_graphic());
    match token.filter(printable) {
        Some(token) => Ok(Secret::new(format!("Bearer {}", token.expose()))),
        None => Err(Error::Image(format!(
            "the token service {service} of registry {registry} does not answer with a token"
        ))),
    }
}

/// Percent-encoding for a query or form (RFC 3986, unreserved characters stay).
fn encode(text: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut encoded, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                let _ = write!(encoded, "%{byte:02X}");
            }
            encoded
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding() {
        assert_eq!(encode("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
        assert_eq!(encode("a-b._~ ü&="), "a-b._~%20%C3%BC%26%3D");
    }

    #[test]
    fn basic() {
        let header = basic_header("Aladdin", &Secret::new("open sesame"));
        assert_eq!(header.expose(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
