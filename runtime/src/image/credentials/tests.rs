//! The files together: order, absence, rights, and what is said when one cannot be used.
#![forbid(unsafe_code)]

use super::*;
use std::fs;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Home(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn variables(&self) -> BTreeMap<String, String> {
        let path = |rest: &str| self.0.path().join(rest).display().to_string();
        [
            ("HOME", path("")),
            ("XDG_RUNTIME_DIR", path("run")),
            ("REGISTRY_AUTH_FILE", path("auth.json")),
            ("PATH", "/usr/bin:/bin".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn lookup(&self) -> Result<Option<String>> {
        let query = CredentialQuery {
            registry: "a.b:5000".into(),
            repository: "x/y".into(),
            token_host: None,
            login: None,
        };
        let files = UserFiles {
            variables: self.variables(),
        };
        files.credentials(&query).map(|found| found.map(|found| found.login))
    }
}

fn docker(login: &str) -> String {
    use base64::Engine as _;
    let auth = base64::prelude::BASE64_STANDARD.encode(format!("{login}:pw"));
    format!(r#"{{"auths":{{"a.b:5000":{{"auth":"{auth}"}}}}}}"#)
}

#[test]
fn the_files_count_in_order() {
    let home = Home::new();
    assert_eq!(home.lookup().unwrap(), None);
    home.write("run/containers/auth.json", &docker("runtime"));
    assert_eq!(home.lookup().unwrap().as_deref(), Some("runtime"));
    home.write("auth.json", &docker("authfile"));
    assert_eq!(home.lookup().unwrap().as_deref(), Some("authfile"));
    home.write(".docker/config.json", &docker("docker"));
    assert_eq!(home.lookup().unwrap().as_deref(), Some("docker"));
    home.write(".config/enroot/.credentials", "machine a.b login enroot password pw");
    assert_eq!(home.lookup().unwrap().as_deref(), Some("enroot"));
}

#[test]
fn variables_move_the_files() {
    let variables: BTreeMap<String, String> = [("HOME", "/h"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let expected = [
        Place::Netrc("/c/enroot/.credentials".into()),
        Place::Docker("/d/config.json".into()),
    ];
    assert_eq!(places(&variables), expected);
    let variables = [("ENROOT_CONFIG_PATH".to_owned(), "/e".to_owned())].into();
    assert_eq!(places(&variables), [Place::Netrc("/e/.credentials".into())]);
    assert_eq!(places(&BTreeMap::new()), []);
}

#[test]
fn a_broken_file_is_told_only_when_no_other_has_an_answer() {
    let home = Home::new();
    home.write(
        ".config/enroot/.credentials",
        "machine a.b login x password $(pass show a.b)",
    );
    let error = home.lookup().unwrap_err().to_string();
    let file = home.0.path().join(".config/enroot/.credentials");
    assert!(
        error.starts_with(&format!("{}:1: the password is a command", file.display())),
        "{error}"
    );
    home.write(".docker/config.json", &docker("docker"));
    assert_eq!(home.lookup().unwrap().as_deref(), Some("docker"));
}

#[test]
fn a_missing_helper_is_told_unless_the_file_itself_has_an_answer() {
    let home = Home::new();
    home.write(".docker/config.json", r#"{"credsStore":"nowhere"}"#);
    let error = home.lookup().unwrap_err().to_string();
    assert!(
        error.starts_with("docker-credential-nowhere, the credential helper that"),
        "{error}"
    );
    home.write(
        ".docker/config.json",
        &docker("docker").replacen('{', r#"{"credsStore":"nowhere","#, 1),
    );
    assert_eq!(home.lookup().unwrap().as_deref(), Some("docker"));
}

#[test]
fn files_that_are_no_files() {
    let home = Home::new();
    fs::create_dir_all(home.0.path().join(".docker/config.json")).unwrap();
    assert_eq!(home.lookup().unwrap(), None);
    home.write("auth.json", &" ".repeat(1 << 21));
    let error = home.lookup().unwrap_err().to_string();
    assert!(
        error.ends_with("auth.json cannot be read: it is larger than 1 MiB"),
        "{error}"
    );
    fs::write(home.0.path().join("auth.json"), b"\xff").unwrap();
    let error = home.lookup().unwrap_err().to_string();
    assert!(error.ends_with("auth.json cannot be read: it is not text"), "{error}");
}
