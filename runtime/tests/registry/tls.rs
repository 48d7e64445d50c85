//! TLS with a private authority: what is accepted, and in which words the rest is refused.
#![forbid(unsafe_code)]

use super::fake::{Fake, Reply, Stream};
use super::image::{Image, host, one_line, pull, reference};
use super::settings;
use pyxis_runtime::image::registry::AllowHttp;
use pyxis_runtime::image::{Client, NoCredentials, RegistryConfig};
use pyxis_runtime::{Digest, Error};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// A certificate authority that only the tests know.
pub struct Authority(TempDir);

impl Authority {
    pub fn new() -> Self {
        let authority = Authority(tempfile::tempdir().unwrap());
        let subject = format!("/CN=Authority {}", authority.0.path().file_name().unwrap().display());
        let constraint = ["-addext", "basicConstraints=critical,CA:TRUE"];
        authority.request("ca", &subject, &[&["-x509", "-days", "2"][..], &constraint].concat());
        authority
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.0.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn request(&self, name: &str, subject: &str, more: &[&str]) {
        let (key, out) = (format!("{name}.key"), format!("{name}.pem"));
        let curve = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        self.openssl(&[&curve[..], &["-keyout", &key, "-out", &out, "-subj", subject], more].concat());
    }

    /// Makes `server.key` and `server.pem` for a name, valid in the given span of UTC times.
    fn certify(&self, name: &str, from: &str, to: &str) {
        self.request("request", "/CN=server", &["-new"]);
        fs::rename(self.file("request.key"), self.file("server.key")).unwrap();
        for file in ["index.txt", "index.txt.attr"] {
            fs::write(self.file(file), "").unwrap();
        }
        let configuration = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\npolicy=p\n\
             x509_extensions=x\n[p]\ncommonName=supplied\n[x]\nsubjectAltName={name}\nbasicConstraints=critical,CA:FALSE\n"
        );
        fs::write(self.file("ca.cnf"), configuration).unwrap();
        let files = [
            "-config",
            "ca.cnf",
            "-cert",
            "ca.pem",
            "-keyfile",
            "ca.key",
            "-in",
            "request.pem",
            "-out",
            "server.pem",
        ];
        let how = [
            "ca",
            "-batch",
            "-notext",
            "-rand_serial",
            "-startdate",
            from,
            "-enddate",
            to,
        ];
        self.openssl(&[&how[..], &files].concat());
    }

    /// Wraps a fake registry's connections in TLS with a good certificate for a name (`IP:127.0.0.1`).
    pub fn server(&self, name: &str) -> impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + Sync + 'static {
        self.server_between(name, "20200101000000Z", "20990101000000Z")
    }

    fn server_between(
        &self,
        name: &str,
        from: &str,
        to: &str,
    ) -> impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + Sync + 'static {
        self.certify(name, from, to);
        let certificate = CertificateDer::from_pem_file(self.file("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let config = Arc::new(config);
        move |stream| {
            let connection = rustls::ServerConnection::new(config.clone()).ok()?;
            Some(Box::new(rustls::StreamOwned::new(connection, stream)))
        }
    }

    /// Settings that trust this authority, and nobody in plain http but this machine.
    pub fn settings(&self) -> RegistryConfig {
        RegistryConfig {
            ca_file: Some(self.file("ca.pem")),
            ..settings()
        }
    }

    /// Settings that trust this authority, and nobody in plain http.
    fn strict(&self) -> RegistryConfig {
        RegistryConfig {
            allow_http: AllowHttp::Hosts(Vec::new()),
            ..self.settings()
        }
    }
}

fn error(fake: &Fake, config: RegistryConfig) -> Error {
    let (client, reference) = (Client::new(config), reference(fake));
    client
        .repository(&reference, &NoCredentials)
        .resolve_manifest(&host())
        .unwrap_err()
}

#[test]
fn a_private_authority() {
    let (authority, image) = (Authority::new(), Image::new(&[b"layer"]));
    let fake = Fake::start_with(authority.server("IP:127.0.0.1"));
    image.push(&fake);
    let (_, layers) = pull(&reference(&fake), authority.strict(), &NoCredentials).unwrap();
    assert_eq!(layers, image.layers);
    assert!(fake.seen().iter().all(|seen| seen.connection == 1));
    // As a directory of hashed names, too.
    let directory = tempfile::tempdir().unwrap();
    fs::copy(authority.file("ca.pem"), directory.path().join("0a1b2c3d.0")).unwrap();
    let config = RegistryConfig {
        ca_file: None,
        ca_dir: Some(directory.path().to_owned()),
        ..authority.strict()
    };
    pull(&reference(&fake), config, &NoCredentials).unwrap();
}

#[test]
fn a_registry_on_this_machine_may_want_tls() {
    let (authority, image) = (Authority::new(), Image::new(&[b"layer"]));
    let fake = Fake::start_with(authority.server("IP:127.0.0.1"));
    image.push(&fake);
    for allow_http in [AllowHttp::default(), AllowHttp::All] {
        let config = RegistryConfig {
            allow_http,
            ..authority.settings()
        };
        pull(&reference(&fake), config, &NoCredentials).unwrap();
    }
}

#[test]
fn an_unknown_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let fake = Fake::start_with(authority.server("IP:127.0.0.1"));
    let error = error(&fake, other.strict());
    assert!(matches!(error, Error::Host(_)), "{error:?}");
    assert_eq!(
        one_line(&error.to_string()),
        "the certificate of HOST is signed by an authority that is not known here: add that CA to the system's \
         certificates or set SSL_CERT_FILE"
    );
    assert!(fake.seen().is_empty());
}

#[test]
fn certificates_that_are_not_good() {
    for (name, from, to, expected) in [
        (
            "IP:127.0.0.2",
            "20200101000000Z",
            "20990101000000Z",
            "the certificate of HOST is not for that name",
        ),
        (
            "IP:127.0.0.1",
            "20200101000000Z",
            "20200102000000Z",
            "the certificate of HOST has expired (or the clock of this machine is wrong)",
        ),
        (
            "IP:127.0.0.1",
            "20980101000000Z",
            "20990101000000Z",
            "the certificate of HOST is not valid yet (is this machine's clock wrong?)",
        ),
    ] {
        let authority = Authority::new();
        let fake = Fake::start_with(authority.server_between(name, from, to));
        assert_eq!(one_line(&error(&fake, authority.strict()).to_string()), expected);
    }
}

#[test]
fn a_bad_certificate_is_no_reason_for_plain_http() {
    let (authority, other) = (Authority::new(), Authority::new());
    let fake = Fake::start_with(authority.server("DNS:localhost"));
    // Allowed everywhere, and yet TLS first where the registry is not an address of this machine by name.
    let config = RegistryConfig {
        allow_http: AllowHttp::All,
        ..other.settings()
    };
    let error = error(&fake, config);
    assert!(
        error
            .to_string()
            .contains("is signed by an authority that is not known here"),
        "{error}"
    );
}

#[test]
fn no_certificates_at_all() {
    let authority = Authority::new();
    let fake = Fake::start_with(authority.server("IP:127.0.0.1"));
    fs::write(authority.file("empty.pem"), "").unwrap();
    for (file, why) in [("empty.pem", ""), ("missing.pem", "")] {
        let path = authority.file(file);
        let error = error(
            &fake,
            RegistryConfig {
                ca_file: Some(path.clone()),
                ..authority.strict()
            },
        );
        assert!(matches!(error, Error::Host(_)));
        let start = format!("no CA certificates in {}{why}", path.display());
        assert!(error.to_string().starts_with(&start), "{error}");
    }
}

#[test]
fn certificates_are_not_read_for_plain_http() {
    let (fake, image) = (Fake::start(), Image::new(&[b"layer"]));
    image.push(&fake);
    let config = RegistryConfig {
        ca_file: Some("/nonexistent/ca.pem".into()),
        ..settings()
    };
    pull(&reference(&fake), config, &NoCredentials).unwrap();
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    let (authority, image, plain) = (Authority::new(), Image::new(&[b"layer"]), Fake::start());
    let fake = Fake::start_with(authority.server("IP:127.0.0.1"));
    image.push(&fake);
    plain.fixed("/layer", Reply::ok("layer"));
    let target = format!("http://{}/layer", plain.address);
    fake.fixed(&image.layer_page(0), Reply::status(307, "").header("Location", target));
    let error = pull(&reference(&fake), authority.settings(), &NoCredentials).unwrap_err();
    assert_eq!(
        one_line(&error.to_string()),
        "127.0.0.1 redirects from https to http (HOST), which is refused"
    );
    assert!(plain.seen().is_empty());
}

#[test]
fn an_https_registry_may_not_send_for_tokens_in_plain_http() {
    let (authority, image, plain) = (Authority::new(), Image::new(&[b"layer"]), Fake::start());
    let fake = Fake::start_with(authority.server("IP:127.0.0.1"));
    image.push(&fake);
    let challenge = format!(r#"Bearer realm="http://{}/token",service="s""#, plain.address);
    fake.guard(move |_| Some(Reply::status(401, "").header("WWW-Authenticate", &challenge)));
    let error = error(&fake, authority.strict()).to_string();
    assert!(
        error.contains("which is neither https nor the registry itself: refused"),
        "{error}"
    );
    assert!(plain.seen().is_empty());
}

#[test]
fn layers_from_another_https_host() {
    let (authority, image) = (Authority::new(), Image::new(&[b"layer"]));
    let cdn = Fake::start_with(authority.server("IP:127.0.0.1"));
    let fake = Fake::start_with(authority.server("IP:127.0.0.1"));
    image.push(&fake);
    cdn.fixed("/layer", Reply::ok("layer"));
    let target = format!("https://{}/layer", cdn.address);
    fake.fixed(&image.layer_page(0), Reply::status(307, "").header("Location", target));
    let (resolved, _) = pull(&reference(&fake), authority.strict(), &NoCredentials).unwrap();
    assert_eq!(resolved.layers[0].digest, Digest::of(b"layer"));
    assert_eq!(cdn.asked(), ["GET /layer"]);
}
