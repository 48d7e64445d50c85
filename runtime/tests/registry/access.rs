//! Who gets to see credentials and tokens, and what is said when access is refused.
#![forbid(unsafe_code)]

use super::fake::{Fake, Reply, Seen};
use super::image::{Image, one_line, pull, reference};
use super::settings;
use pyxis_runtime::image::credentials::Proof;
use pyxis_runtime::image::{CredentialQuery, CredentialSource, Credentials, NoCredentials, Secret};
use pyxis_runtime::reference::Reference;
use pyxis_runtime::{Error, Result};
use std::sync::Mutex;

/// Knows one password and remembers what it was asked.
struct Joe(Mutex<Vec<CredentialQuery>>);

impl Joe {
    fn new() -> Self {
        Joe(Mutex::default())
    }
}

impl CredentialSource for Joe {
    fn credentials(&self, query: &CredentialQuery) -> Result<Option<Credentials>> {
        self.0.lock().unwrap().push(query.clone());
        Ok(Some(Credentials {
            login: "joe".into(),
            proof: Proof::Password(Secret::new("hunter2")),
        }))
    }
}

struct Token;

impl CredentialSource for Token {
    fn credentials(&self, _: &CredentialQuery) -> Result<Option<Credentials>> {
        Ok(Some(Credentials {
            login: String::new(),
            proof: Proof::IdentityToken(Secret::new("refresh me&")),
        }))
    }
}

struct Broken;

impl CredentialSource for Broken {
    fn credentials(&self, _: &CredentialQuery) -> Result<Option<Credentials>> {
        Err(Error::Request("F:1: the password is a command".into()))
    }
}

/// base64 of joe:hunter2.
const JOE: &str = "Basic am9lOmh1bnRlcjI=";

fn pushed() -> (Fake, Image) {
    let (fake, image) = (Fake::start(), Image::new(&[b"one", b"two"]));
    image.push(&fake);
    (fake, image)
}

fn require(fake: &Fake, authorization: &'static str, challenge: String) {
    fake.guard(move |seen: &Seen| {
        let refuse = seen.header("authorization") != Some(authorization);
        refuse.then(|| {
            Reply::error(401, "UNAUTHORIZED", "authentication required").header("WWW-Authenticate", &challenge)
        })
    });
}

fn bearer(fake: &Fake) -> String {
    format!(
        r#"Bearer realm="http://{}/token?x=y",service="my service",scope="repository:a/b:pull""#,
        fake.address
    )
}

fn error(fake: &Fake, credentials: &dyn CredentialSource) -> String {
    let error = pull(&reference(fake), settings(), credentials).unwrap_err();
    assert!(
        !error.to_string().contains("hunter2") && !format!("{error:?}").contains("hunter2"),
        "{error}"
    );
    one_line(&error.to_string())
}

#[test]
fn basic() {
    let (fake, image) = pushed();
    require(&fake, JOE, "Basic realm=\"Registry\"".into());
    let joe = Joe::new();
    let (_, layers) = pull(&reference(&fake), settings(), &joe).unwrap();
    assert_eq!(layers, image.layers);
    // Asked once, after one refusal.
    let refused = fake
        .seen()
        .iter()
        .filter(|seen| seen.header("authorization").is_none())
        .count();
    assert_eq!((refused, joe.0.lock().unwrap().len()), (1, 1));
    let query = joe.0.lock().unwrap()[0].clone();
    assert_eq!(query.registry, fake.address.to_string());
    assert_eq!(
        (query.repository.as_str(), query.token_host, query.login),
        ("a/b", None, None)
    );
}

#[test]
fn basic_without_credentials() {
    let (fake, _) = pushed();
    require(&fake, JOE, "Basic realm=\"Registry\"".into());
    assert_eq!(
        error(&fake, &NoCredentials),
        "registry HOST needs credentials for a/b:1: add 127.0.0.1 to ~/.config/enroot/.credentials or run docker login HOST"
    );
    let reference: Reference = format!("ann@{}#a/b:1", fake.address).parse().unwrap();
    let error = pull(&reference, settings(), &NoCredentials).unwrap_err();
    assert!(
        one_line(&error.to_string()).starts_with("registry HOST needs credentials of ann for a/b:1: add"),
        "{error}"
    );
    assert!(matches!(error, Error::Request(_)));
}

#[test]
fn basic_with_wrong_credentials() {
    let (fake, _) = pushed();
    require(&fake, "Basic of somebody else", "Basic realm=\"Registry\"".into());
    assert_eq!(
        error(&fake, &Joe::new()),
        "registry HOST refused the credentials of joe"
    );
    assert!(error(&fake, &Token).starts_with("registry HOST wants a password, and only an identity token is known"));
    assert_eq!(error(&fake, &Broken), "F:1: the password is a command");
}

#[test]
fn bearer_with_a_password() {
    let (fake, image) = pushed();
    require(&fake, "Bearer t0ken", bearer(&fake));
    fake.page("/token", |seen| match seen.header("authorization") {
        Some(JOE) => Reply::ok(r#"{"token":"t0ken","expires_in":300}"#),
        _ => Reply::status(401, ""),
    });
    let joe = Joe::new();
    let (_, layers) = pull(&reference(&fake), settings(), &joe).unwrap();
    assert_eq!(layers, image.layers);
    assert_eq!(joe.0.lock().unwrap()[0].token_host.as_deref(), Some("127.0.0.1"));
    let asked = fake.asked();
    assert_eq!(
        asked[1],
        "GET /token?x=y&service=my%20service&scope=repository%3Aa%2Fb%3Apull"
    );
    assert_eq!(
        asked.iter().filter(|path| path.contains("/token")).count(),
        1,
        "{asked:?}"
    );
    assert_eq!(error(&fake, &NoCredentials), error_without_login());
}

fn error_without_login() -> String {
    "registry HOST needs credentials for a/b:1: add 127.0.0.1 to ~/.config/enroot/.credentials or run docker login HOST"
        .into()
}

#[test]
fn bearer_anonymously() {
    let (fake, image) = pushed();
    require(&fake, "Bearer anonymous", bearer(&fake));
    fake.fixed("/token", Reply::ok(r#"{"access_token":"anonymous"}"#));
    let (_, layers) = pull(&reference(&fake), settings(), &NoCredentials).unwrap();
    assert_eq!(layers, image.layers);
    // A mistake in a credentials file does not keep a public image away.
    pull(&reference(&fake), settings(), &Broken).unwrap();
    // But a login that was asked for is not left out.
    let reference: Reference = format!("ann@{}#a/b:1", fake.address).parse().unwrap();
    let error = pull(&reference, settings(), &NoCredentials).unwrap_err();
    assert!(
        one_line(&error.to_string()).starts_with("registry HOST needs credentials of ann"),
        "{error}"
    );
}

#[test]
fn bearer_with_an_identity_token() {
    let (fake, image) = pushed();
    require(&fake, "Bearer fresh", bearer(&fake));
    fake.page("/token", |seen| match (seen.method.as_str(), seen.body.as_str()) {
        (
            "POST",
            "grant_type=refresh_token&refresh_token=refresh%20me%26&client_id=pyxis&service=my%20service&scope=repository%3Aa%2Fb%3Apull",
        ) => Reply::ok(r#"{"access_token":"fresh"}"#),
        _ => Reply::status(401, seen.body.clone()),
    });
    let (_, layers) = pull(&reference(&fake), settings(), &Token).unwrap();
    assert_eq!(layers, image.layers);
    fake.fixed("/token", Reply::status(401, ""));
    assert_eq!(
        error(&fake, &Token),
        "registry HOST refused the credentials of this user (an identity token)"
    );
}

#[test]
fn bearer_refusals() {
    let (fake, _) = pushed();
    require(&fake, "Bearer never", bearer(&fake));
    fake.fixed("/token", Reply::status(403, ""));
    assert_eq!(
        error(&fake, &Joe::new()),
        "registry HOST refused the credentials of joe"
    );
    assert_eq!(error(&fake, &Broken), "F:1: the password is a command");
    // The token is given, and is not enough: that is how Docker Hub treats images that do not exist.
    fake.fixed("/token", Reply::ok(r#"{"token":"weak"}"#));
    assert_eq!(
        error(&fake, &Joe::new()),
        "joe has no access to a/b:1 on registry HOST, or it does not exist (authentication required)"
    );
    assert_eq!(
        error(&fake, &NoCredentials),
        "a/b:1 does not exist on registry HOST, or needs credentials: add 127.0.0.1 to ~/.config/enroot/.credentials or \
         run docker login HOST"
    );
    assert_eq!(error(&fake, &Broken), "F:1: the password is a command");
    fake.fixed("/token", Reply::status(418, "no"));
    assert_eq!(
        error(&fake, &Joe::new()),
        "HOST answers 418 when asked for a token for a/b"
    );
    for answer in [
        "",
        "[]",
        "{}",
        r#"{"token":""}"#,
        r#"{"token":"hunter2\nX: y"}"#,
        r#"{"token":["hunter2"]}"#,
    ] {
        fake.fixed("/token", Reply::ok(answer));
        let expected = "the token service HOST of registry HOST does not answer with a token";
        assert_eq!(error(&fake, &Joe::new()), expected, "{answer}");
    }
}

#[test]
fn a_token_service_on_another_host_gets_nothing() {
    let (fake, _) = pushed();
    let thief = Fake::start();
    thief.fixed("/token", Reply::ok(r#"{"token":"x"}"#));
    require(&fake, "Bearer x", bearer(&thief));
    let error = error(&fake, &Joe::new());
    assert_eq!(
        error,
        "registry HOST sends for tokens to http://HOST/token?x=y, which is neither https nor the registry itself: refused"
    );
    assert!(thief.seen().is_empty());
}

#[test]
fn challenges_that_make_no_sense() {
    let (fake, _) = pushed();
    for (challenge, expected) in [
        (
            "",
            "registry HOST wants authentication, but by no known scheme (it offers nothing)",
        ),
        (
            "Negotiate, NTLM",
            "registry HOST wants authentication, but by no known scheme (it offers negotiate, ntlm)",
        ),
        (
            "Bearer service=\"x\"",
            "registry HOST wants a token but does not say from where (no realm)",
        ),
        (
            "Bearer realm=\"/token\"",
            "registry HOST names a token service that is not a URL: \"/token\"",
        ),
        (
            "Bearer realm=\"file:///etc/passwd\"",
            "registry HOST names a token service that is not a URL: \"file:///etc/passwd\"",
        ),
        (
            "Bearer realm=\"https://a@b/\"",
            "registry HOST names a token service that is not a URL: \"https://a@b/\"",
        ),
    ] {
        fake.fixed(
            "/v2/a/b/manifests/1",
            Reply::status(401, "").header("WWW-Authenticate", challenge),
        );
        assert_eq!(error(&fake, &Joe::new()), expected);
    }
}

#[test]
fn an_expired_token_is_renewed() {
    let (fake, image) = pushed();
    // Each token is good for one request.
    let good = std::sync::Arc::new(Mutex::new(0));
    let (challenge, current) = (bearer(&fake), good.clone());
    fake.guard(move |seen: &Seen| {
        let mut current = current.lock().unwrap();
        if seen.header("authorization") == Some(&format!("Bearer t{current}")) {
            *current += 1;
            return None;
        }
        Some(Reply::status(401, "").header("WWW-Authenticate", &challenge))
    });
    fake.page("/token", move |_| {
        Reply::ok(format!(r#"{{"token":"t{}"}}"#, good.lock().unwrap()))
    });
    let joe = Joe::new();
    let (_, layers) = pull(&reference(&fake), settings(), &joe).unwrap();
    assert_eq!(layers, image.layers);
    assert_eq!(fake.asked().iter().filter(|path| path.contains("/token")).count(), 4);
    assert_eq!(joe.0.lock().unwrap().len(), 1);
}

#[test]
fn redirects_leave_the_credentials_behind() {
    let (fake, image) = pushed();
    let cdn = Fake::start();
    for number in 0..2 {
        let layer = image.layers[number].clone();
        cdn.fixed(&format!("/cdn/{number}"), Reply::ok(layer));
        let target = format!("http://{}/cdn/{number}?signature=s", cdn.address);
        fake.fixed(
            &image.layer_page(number),
            Reply::status(307, "moved").header("Location", target),
        );
    }
    let config = image.config.clone();
    fake.fixed("/elsewhere", Reply::ok(config));
    fake.fixed(
        &image.config_page(),
        Reply::status(302, "").header("Location", "/elsewhere"),
    );
    require(&fake, JOE, "Basic realm=\"Registry\"".into());
    let (_, layers) = pull(&reference(&fake), settings(), &Joe::new()).unwrap();
    assert_eq!(layers, image.layers);
    let seen = cdn.seen();
    assert_eq!(
        seen.iter().map(|seen| seen.path.as_str()).collect::<Vec<_>>(),
        ["/cdn/0?signature=s", "/cdn/1?signature=s"]
    );
    assert!(
        seen.iter().all(|seen| seen.header("authorization").is_none()),
        "{seen:?}"
    );
    // On the same host they are kept.
    let same_host = fake.seen().into_iter().find(|seen| seen.path == "/elsewhere").unwrap();
    assert_eq!(same_host.header("authorization"), Some(JOE));
}

#[test]
fn a_redirect_target_cannot_ask_for_credentials() {
    let (fake, image) = pushed();
    let cdn = Fake::start();
    cdn.fixed(
        "/x",
        Reply::status(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    );
    let target = format!("http://{}/x", cdn.address);
    fake.fixed(&image.layer_page(0), Reply::status(307, "").header("Location", target));
    let error = error(&fake, &Joe::new());
    assert!(
        error.starts_with("HOST answers 401 when asked for layer sha256:"),
        "{error}"
    );
    assert!(cdn.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn forbidden() {
    let (fake, _) = pushed();
    fake.fixed("/v2/a/b/manifests/1", Reply::error(403, "DENIED", "ask\\nthe boss"));
    let error = error(&fake, &Joe::new());
    assert!(
        error.starts_with("a/b:1 does not exist on registry HOST, or needs credentials: add"),
        "{error}"
    );
}

#[test]
fn a_token_service_elsewhere_is_asked_for_this_image_alone() {
    let tls = super::tls::Authority::new();
    let service = Fake::start_with(tls.server("IP:127.0.0.1"));
    service.fixed("/token", Reply::ok(r#"{"token":"t0ken"}"#));
    let (fake, _) = pushed();
    let challenge = format!(
        r#"Bearer realm="https://{}/token",service="s",scope="repository:victim/secret:pull,push""#,
        service.address
    );
    require(&fake, "Bearer t0ken", challenge);
    pull(&reference(&fake), tls.settings(), &Joe::new()).unwrap();
    assert_eq!(
        service.asked(),
        ["GET /token?service=s&scope=repository%3Aa%2Fb%3Apull"]
    );
    assert_eq!(service.seen()[0].header("authorization"), Some(JOE));
}
