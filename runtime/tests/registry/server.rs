//! A running docker-registry, and images pushed to it. The tests of the registry client and those of the command share it.
#![forbid(unsafe_code)]

use pyxis_runtime::Digest;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// bcrypt of "secret", the only form that docker-registry takes.
const HTPASSWD: &str = "joe:$2b$04$EFxI0yTWP1qA8HQrz14AnuMIbcRn8Sa4JHqagId1.RJLfEpfej2EG\n";

/// The documents and blobs of an image in OCI layout.
pub struct Layout<'a> {
    pub manifest: &'a str,
    pub config: &'a str,
    pub layers: &'a [Vec<u8>],
}

/// A running docker-registry.
pub struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    directory: TempDir,
}

impl Registry {
    /// Starts one; `more` is added to its configuration, where `DIR` stands for its directory.
    pub fn start(http: &str, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display().to_string();
        fs::write(directory.path().join("htpasswd"), HTPASSWD).unwrap();
        let configuration = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: DIR/storage\n\
             http:\n  addr: 127.0.0.1:0\n{http}\n{more}\n"
        );
        fs::write(directory.path().join("config.yml"), configuration.replace("DIR", &path)).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve", &format!("{path}/config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry runs (package docker-registry)");
        // Its log tells the port that it got.
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let listening = log
            .by_ref()
            .map(|line| line.unwrap())
            .find(|line| line.contains("listening on 127.0.0.1:"));
        let listening = listening.expect("docker-registry listens");
        let after = listening.split("listening on ").nth(1).unwrap();
        let address = after
            .split(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ':')))
            .next()
            .unwrap()
            .to_owned();
        // Somebody has to read the rest, or it blocks.
        std::thread::spawn(move || log.for_each(drop));
        Registry {
            process,
            address,
            directory,
        }
    }

    /// Pushes an image as `name`, for example `library/test:1`.
    pub fn push(&self, name: &str, image: &Layout<'_>, arguments: &[&str]) {
        let layout = tempfile::tempdir_in(&self.directory).unwrap();
        let layout = layout.path();
        write_layout(layout, image);
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .args(arguments)
            .arg(format!("oci:{}:1", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .expect("skopeo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes an image in OCI layout.
fn write_layout(layout: &Path, image: &Layout<'_>) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let documents = [image.manifest.as_bytes(), image.config.as_bytes()];
    for bytes in documents.into_iter().chain(image.layers.iter().map(Vec::as_slice)) {
        fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
    }
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"1"}}}}]}}"#,
        Digest::of(image.manifest.as_bytes()),
        image.manifest.len()
    );
    fs::write(layout.join("index.json"), index).unwrap();
}
