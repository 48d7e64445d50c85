//! The image configuration (OCI image specification, config.md; Docker's is the same shape): what a container gets from
//! its image besides files. Pure: bytes in, values out.
#![forbid(unsafe_code)]

use super::platform::Platform;
use crate::digest::Digest;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What this project uses of an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// What the image runs on, when it says so.
    pub platform: Option<Platform>,
    /// `NAME=VALUE` entries in the image's order.
    pub env: Vec<String>,
    /// The working directory; empty when the image has none.
    pub working_dir: String,
    /// The entrypoint's words.
    pub entrypoint: Vec<String>,
    /// The default command's words.
    pub cmd: Vec<String>,
    /// The user that the image asks for (not honoured: containers run as the job's user).
    pub user: String,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// The digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
}

/// The document. Docker writes `null` where others leave a field out, so every field is optional.
#[derive(Deserialize)]
struct Document {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    config: Option<Execution>,
    rootfs: Option<Rootfs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Execution {
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    entrypoint: Option<Words>,
    cmd: Option<Words>,
    user: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
}

/// Old builders wrote a single string where a list belongs.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    List(Vec<String>),
    One(String),
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Option<Vec<Digest>>,
}

impl ImageConfig {
    /// Reads a configuration. Errors are [`Error::Image`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|error| Error::Image(format!("the image's configuration cannot be read: {error}")))?;
        let execution = document.config.unwrap_or_default();
        let architecture = document.architecture.filter(|architecture| !architecture.is_empty());
        let os = document
            .os
            .filter(|os| !os.is_empty())
            .unwrap_or_else(|| "linux".into());
        let config = ImageConfig {
            platform: architecture.map(|name| Platform::new(&os, &name, document.variant.as_deref())),
            env: execution.env.unwrap_or_default(),
            working_dir: execution.working_dir.unwrap_or_default(),
            entrypoint: words(execution.entrypoint),
            cmd: words(execution.cmd),
            user: execution.user.unwrap_or_default(),
            labels: execution
                .labels
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| (name, value.unwrap_or_default()))
                .collect(),
            diff_ids: document.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default(),
        };
        config.check()
    }

    /// These strings become arguments of system calls, where a NUL byte would silently cut them.
    fn check(self) -> Result<Self> {
        let lists = [("Env", &self.env), ("Entrypoint", &self.entrypoint), ("Cmd", &self.cmd)];
        let in_lists = lists
            .iter()
            .find(|(_, list)| list.iter().any(|word| word.contains('\0')));
        let bad = in_lists
            .map(|(name, _)| *name)
            .or(self.working_dir.contains('\0').then_some("WorkingDir"));
        match bad {
            Some(name) => Err(Error::Image(format!(
                "the image's configuration has a NUL byte in {name}"
            ))),
            None => Ok(self),
        }
    }
}

fn words(words: Option<Words>) -> Vec<String> {
    match words {
        None => Vec::new(),
        Some(Words::List(list)) => list,
        Some(Words::One(word)) => vec![word],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dockers_configuration() {
        let bytes =
            br#"{"architecture":"arm64","variant":"v8","os":"linux","created":"2024-01-01T00:00:00Z","history":[{}],
            "config":{"Hostname":"","User":"1000","Env":["PATH=/bin","A=b=c"],"Cmd":["sh","-c","x"],"Entrypoint":null,
            "WorkingDir":"/w","Labels":{"a":"b","c":null},"Volumes":null,"OnBuild":null,"ExposedPorts":{"80/tcp":{}}},
            "rootfs":{"type":"layers","diff_ids":
            ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
        let config = ImageConfig::parse(bytes).unwrap();
        assert_eq!(config.platform.unwrap().to_string(), "linux/arm64");
        assert_eq!(config.env, ["PATH=/bin", "A=b=c"]);
        assert_eq!(config.cmd, ["sh", "-c", "x"]);
        assert!(config.entrypoint.is_empty());
        assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/w", "1000"));
        assert_eq!(config.labels.get("a").unwrap(), "b");
        assert_eq!(config.diff_ids, [Digest::of(b"")]);
    }

    #[test]
    fn little_is_needed() {
        assert_eq!(ImageConfig::parse(b"{}").unwrap(), ImageConfig::default());
        let config = ImageConfig::parse(br#"{"config":null,"rootfs":{"diff_ids":null},"architecture":""}"#).unwrap();
        assert_eq!(config, ImageConfig::default());
        assert_eq!(
            ImageConfig::parse(br#"{"config":{"Entrypoint":"/init"}}"#)
                .unwrap()
                .entrypoint,
            ["/init"]
        );
    }

    #[test]
    fn wrong_configurations_say_why() {
        for (text, why) in [
            ("", "cannot be read"),
            ("[]x", "cannot be read"),
            (r#"{"config":{"Env":[1]}}"#, "cannot be read"),
            (r#"{"config":{"Env":["A=\u0000"]}}"#, "has a NUL byte in Env"),
            (r#"{"config":{"WorkingDir":"/\u0000"}}"#, "has a NUL byte in WorkingDir"),
            (
                r#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#,
                "is not a sha256 digest",
            ),
        ] {
            let error = ImageConfig::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Image(_)), "{text}");
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ImageConfig::parse(&bytes);
        }
    }
}
