//! The real docker-registry: what skopeo pushes to it comes back, with and without a password and TLS.
#![forbid(unsafe_code)]

use super::image::{Image, one_line, pull};
use super::server::{Layout, Registry};
use super::settings;
use super::tls::Authority;
use pyxis_runtime::image::credentials::{Proof, UserFiles};
use pyxis_runtime::image::registry::AllowHttp;
use pyxis_runtime::image::{
    Client, CredentialQuery, CredentialSource, Credentials, NoCredentials, RegistryConfig, Secret,
};
use pyxis_runtime::reference::Reference;
use pyxis_runtime::{Digest, Error, Result};
use std::fs;

impl Registry {
    fn push_test(&self, image: &Image, arguments: &[&str]) {
        let layout = Layout {
            manifest: &image.manifest,
            config: &image.config,
            layers: &image.layers,
        };
        self.push("library/test:1", &layout, arguments);
    }

    fn reference(&self, image: &str) -> Reference {
        format!("{}#{image}", self.address).parse().unwrap()
    }

    fn error(&self, image: &str, credentials: &dyn CredentialSource) -> String {
        one_line(
            &pull(&self.reference(image), settings(), credentials)
                .unwrap_err()
                .to_string(),
        )
    }
}

struct Password(&'static str);

impl CredentialSource for Password {
    fn credentials(&self, _: &CredentialQuery) -> Result<Option<Credentials>> {
        Ok(Some(Credentials {
            login: "joe".into(),
            proof: Proof::Password(Secret::new(self.0)),
        }))
    }
}

fn image() -> Image {
    let big: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    Image::new(&[b"first layer", &big])
}

#[test]
fn an_image_comes_back() {
    let (registry, image) = (Registry::start("", ""), image());
    registry.push_test(&image, &["--preserve-digests"]);
    let (resolved, layers) = pull(&registry.reference("library/test:1"), settings(), &NoCredentials).unwrap();
    assert_eq!(resolved.manifest_digest, image.digest());
    assert!(layers == image.layers);
    let reference = registry.reference("library/test:1");
    let client = Client::new(settings());
    let found = client.repository(&reference, &NoCredentials).current_digest().unwrap();
    assert_eq!(found, Some(image.digest()));
    let by_digest = registry.reference(&format!("library/test@{}", image.digest()));
    assert_eq!(pull(&by_digest, settings(), &NoCredentials).unwrap().0, resolved);
    assert_eq!(
        registry.error("library/test:2", &NoCredentials),
        "image library/test on registry HOST has no tag 2, only: 1"
    );
    assert_eq!(
        registry.error("library/nothing:1", &NoCredentials),
        "registry HOST has no image library/nothing"
    );
    let digest = Digest::of(b"nothing");
    assert_eq!(
        registry.error(&format!("library/test@{digest}"), &NoCredentials),
        format!("registry HOST has no manifest {digest} of library/test")
    );
}

#[test]
fn dockers_format_comes_back() {
    let (registry, image) = (Registry::start("", ""), image());
    registry.push_test(&image, &["--format", "v2s2"]);
    let (resolved, layers) = pull(&registry.reference("library/test:1"), settings(), &NoCredentials).unwrap();
    assert_eq!(resolved.config.env, ["A=b"]);
    assert_eq!(resolved.layers.len(), 2);
    assert!(resolved.layers.iter().all(|layer| {
        layer
            .media_type
            .starts_with("application/vnd.docker.image.rootfs.diff.tar")
    }));
    assert_eq!(layers.len(), 2);
}

#[test]
fn a_password() {
    let (registry, image) = (
        Registry::start("", "auth:\n  htpasswd:\n    realm: test\n    path: DIR/htpasswd\n"),
        image(),
    );
    registry.push_test(&image, &["--preserve-digests", "--dest-creds", "joe:secret"]);
    let name = "library/test:1";
    let error = registry.error(name, &NoCredentials);
    assert!(
        error.starts_with("registry HOST needs credentials for library/test:1: add 127.0.0.1 to"),
        "{error}"
    );
    assert_eq!(
        registry.error(name, &Password("wrong")),
        "registry HOST refused the credentials of joe"
    );
    let (_, layers) = pull(&registry.reference(name), settings(), &Password("secret")).unwrap();
    assert!(layers == image.layers);
    // With the user's files: enroot's, with the password in a variable.
    let home = tempfile::tempdir().unwrap();
    let enroot = home.path().join(".config/enroot");
    fs::create_dir_all(&enroot).unwrap();
    fs::write(
        enroot.join(".credentials"),
        "machine 127.0.0.1 login joe password $REGISTRY_PASSWORD\n",
    )
    .unwrap();
    let variables = [("HOME", home.path().to_str().unwrap()), ("REGISTRY_PASSWORD", "secret")];
    let files = UserFiles {
        variables: variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    };
    pull(&registry.reference(name), settings(), &files).unwrap();
    let other: Reference = format!("ann@{}#{name}", registry.address).parse().unwrap();
    let error = one_line(&pull(&other, settings(), &files).unwrap_err().to_string());
    assert!(
        error.starts_with("registry HOST needs credentials of ann for library/test:1: add"),
        "{error}"
    );
}

#[test]
fn tls() {
    let authority = Authority::new();
    drop(authority.server("IP:127.0.0.1"));
    let (certificate, key) = (authority.file("server.pem"), authority.file("server.key"));
    let http = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        certificate.display(),
        key.display()
    );
    let (registry, image) = (Registry::start(&http, ""), image());
    registry.push_test(&image, &["--preserve-digests"]);
    let reference = registry.reference("library/test:1");
    // It answers 400 to plain http, which is tried first on this machine.
    let (_, layers) = pull(&reference, authority.settings(), &NoCredentials).unwrap();
    assert!(layers == image.layers);
    let strict = RegistryConfig {
        allow_http: AllowHttp::Hosts(Vec::new()),
        ..authority.settings()
    };
    pull(&reference, strict, &NoCredentials).unwrap();
    let unknown = pull(&reference, Authority::new().settings(), &NoCredentials).unwrap_err();
    assert!(matches!(unknown, Error::Host(_)), "{unknown:?}");
}
