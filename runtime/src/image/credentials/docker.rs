//! Docker's `config.json` and the `auth.json` of podman and skopeo (containers-auth.json(5)): the same document. Pure.
#![forbid(unsafe_code)]

use super::{CredentialQuery, Credentials, HUB_NAMES, Proof, fits};
use crate::error::{Error, Result};
use crate::image::Secret;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The key under which docker keeps Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The document.
#[derive(Debug, Default, Deserialize)]
pub(super) struct File {
    #[serde(default)]
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "credsStore")]
    creds_store: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

impl File {
    /// Reads the document. The error tells a place and no content, which may be a password.
    pub(super) fn parse(text: &str, file: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Error::Request(format!("{file}:{line}:{column}: this is not a docker configuration"))
        })
    }

    /// The credential helper for a registry, if one is named.
    pub(super) fn helper(&self, query: &CredentialQuery) -> Option<&str> {
        let helpers = self.cred_helpers.iter().flatten();
        let own = helpers
            .filter(|(key, _)| canonical(key) == canonical(&query.registry))
            .map(|(_, name)| name);
        own.map(String::as_str)
            .next()
            .or(self.creds_store.as_deref())
            .filter(|name| !name.is_empty())
    }

    /// The credentials in the document itself: the entry for the longest part of `registry/repository` that has one.
    pub(super) fn find(&self, query: &CredentialQuery, file: &str) -> Result<Option<Credentials>> {
        let mut wanted = format!("{}/{}", canonical(&query.registry), query.repository);
        loop {
            let entries = self.auths.iter().flatten().filter(|(key, _)| canonical(key) == wanted);
            for (key, entry) in entries {
                let Some(entry) = entry else { continue };
                if let Some(found) = entry.credentials(key, file)?.filter(|found| fits(found, query)) {
                    return Ok(Some(found));
                }
            }
            match wanted.rsplit_once('/') {
                Some((shorter, _)) => wanted = shorter.to_owned(),
                None => return Ok(None),
            }
        }
    }
}

impl Entry {
    fn credentials(&self, key: &str, file: &str) -> Result<Option<Credentials>> {
        let auth = self.auth.as_ref().filter(|auth| !auth.expose().is_empty());
        let pair = auth.map(|auth| decode(auth, key, file)).transpose()?;
        let (login, password) = match (pair, &self.username, &self.password) {
            (Some((login, password)), ..) => (login, Some(password)),
            (None, Some(login), password) => (login.clone(), password.clone()),
            (None, None, _) => (String::new(), None),
        };
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.expose().is_empty()) {
            return Ok(Some(token_credentials(&login, token.clone())));
        }
        let password = password.filter(|_| !login.is_empty());
        Ok(password.map(|password| Credentials {
            login,
            proof: Proof::Password(password),
        }))
    }
}

/// Credentials of an identity token. Docker writes placeholders where it has no login.
pub(super) fn token_credentials(login: &str, token: Secret) -> Credentials {
    let placeholder = login == "<token>" || login == "00000000-0000-0000-0000-000000000000";
    let login = if placeholder { String::new() } else { login.to_owned() };
    Credentials {
        login,
        proof: Proof::IdentityToken(token),
    }
}

/// `auth`: base64 of `login:password`.
fn decode(auth: &Secret, key: &str, file: &str) -> Result<(String, Secret)> {
    let padding = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, padding)
        .decode(auth.expose().trim())
        .ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = text.as_deref().and_then(|text| text.split_once(':'));
    let (login, password) = pair.ok_or_else(|| {
        Error::Request(format!(
            "{file}: the auth of {key:?} is not base64 of LOGIN:PASSWORD: run docker login again"
        ))
    })?;
    Ok((login.to_owned(), Secret::new(password.trim_end_matches('\0'))))
}

/// A key as `host[:port][/path]`: docker once wrote whole URLs, and Docker Hub has many names.
fn canonical(key: &str) -> String {
    let key = key
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let (host, path) = key.split_once('/').map_or((key, ""), |(host, path)| (host, path));
    let host = host.to_ascii_lowercase();
    let host = if HUB_NAMES.contains(&host.as_str()) {
        "docker.io"
    } else {
        &host
    };
    match path {
        "" | "v1" | "v2" => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

/// What a credential helper is asked for.
pub(super) fn server(query: &CredentialQuery) -> String {
    match canonical(&query.registry).as_str() {
        "docker.io" => HUB_KEY.to_owned(),
        _ => query.registry.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(registry: &str, repository: &str, login: Option<&str>) -> CredentialQuery {
        CredentialQuery {
            registry: registry.into(),
            repository: repository.into(),
            token_host: None,
            login: login.map(Into::into),
        }
    }

    fn show(found: Option<Credentials>) -> String {
        match found {
            None => "none".into(),
            Some(Credentials {
                login,
                proof: Proof::Password(secret),
            }) => format!("{login}:{}", secret.expose()),
            Some(Credentials {
                login,
                proof: Proof::IdentityToken(secret),
            }) => format!("{login} token {}", secret.expose()),
        }
    }

    // am9lOnB3 is joe:pw, am9lOnA6dwAA is joe:p:w and two NUL, YW46eA is an:x without padding.
    const FILE: &str = r#"{"auths":{
        "https://index.docker.io/v1/":{"auth":"am9lOnB3"},
        "quay.io":{"auth":"am9lOnB3"}, "quay.io/ns":{"auth":"YW46eA"},
        "http://plain.org:5000/v2/":{"auth":"am9lOnA6dwAA"},
        "azure.org":{"auth":"MDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwOg==","identitytoken":"refresh"},
        "split.org":{"username":"u","password":"p"},
        "empty.org":{}, "null.org":null, "helper.org":{},
        "broken.org":{"auth":"not base64"}},
        "credHelpers":{"helper.org":"pass","https://gcr.io":"gcloud"},"HttpHeaders":{"a":"b"}}"#;

    #[test]
    fn entries() {
        let file = File::parse(FILE, "F").unwrap();
        for (registry, repository, login, expected) in [
            ("registry-1.docker.io", "library/debian", None, "joe:pw"),
            ("quay.io", "other/x", None, "joe:pw"),
            ("quay.io", "ns/x", None, "an:x"),
            ("quay.io", "ns/x", Some("joe"), "joe:pw"),
            ("quay.io", "nsx/x", None, "joe:pw"),
            ("quay.io", "x", Some("nobody"), "none"),
            ("plain.org:5000", "x", None, "joe:p:w"),
            ("plain.org", "x", None, "none"),
            ("azure.org", "x", None, " token refresh"),
            ("azure.org", "x", Some("joe"), " token refresh"),
            ("split.org", "x", None, "u:p"),
            ("empty.org", "x", None, "none"),
            ("null.org", "x", None, "none"),
        ] {
            let found = file.find(&query(registry, repository, login), "F").unwrap();
            assert_eq!(show(found), expected, "{registry}/{repository} {login:?}");
        }
        let error = file.find(&query("broken.org", "x", None), "F").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("F: the auth of \"broken.org\" is not base64"),
            "{error}"
        );
    }

    #[test]
    fn helpers() {
        let file = File::parse(FILE, "F").unwrap();
        assert_eq!(file.helper(&query("helper.org", "x", None)), Some("pass"));
        assert_eq!(file.helper(&query("gcr.io", "x", None)), Some("gcloud"));
        assert_eq!(file.helper(&query("quay.io", "x", None)), None);
        let file = File::parse(r#"{"credsStore":"desktop"}"#, "F").unwrap();
        assert_eq!(file.helper(&query("quay.io", "x", None)), Some("desktop"));
        assert_eq!(
            server(&query("registry-1.docker.io", "x", None)),
            "https://index.docker.io/v1/"
        );
        assert_eq!(server(&query("quay.io:1", "x", None)), "quay.io:1");
    }

    #[test]
    fn a_broken_document_is_not_quoted() {
        for text in [
            "",
            "{",
            r#"{"auths":"hunter2"}"#,
            r#"{"auths":{"a":{"auth":["hunter2"]}}}"#,
            "[]x",
        ] {
            let error = File::parse(text, "F").unwrap_err().to_string();
            assert!(
                error.starts_with("F:") && error.ends_with("this is not a docker configuration"),
                "{error}"
            );
            assert!(!error.contains("hunter"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}", key in "\\PC{0,30}") {
            let _ = File::parse(&text, "F");
            canonical(&key);
        }
    }
}
