//! Docker's credential helpers: programs `docker-credential-NAME` of the user's PATH that are told a server on standard
//! input and answer in JSON (docker-credential-helpers, "Development"). They run as the user, who chose them.
#![forbid(unsafe_code)]

use super::docker::token_credentials;
use super::{Credentials, Proof};
use crate::error::Error;
use crate::image::Result;
use crate::image::{Secret, printable};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A helper that needs longer waits for a person, who is not there.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer.
const MAX_ANSWER: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// Asks the helper `name`, which `file` names, for the credentials of `server`.
pub(super) fn ask(
    name: &str,
    server: &str,
    file: &str,
    variables: &BTreeMap<String, String>,
) -> Result<Option<Credentials>> {
    let program = find(name, file, variables.get("PATH").map_or("", String::as_str))?;
    let failed = |why: &str| {
        let program = program.display();
        Error::Request(format!(
            "{program} (named in {file}) gives no credentials for {server}: {}",
            printable(why)
        ))
    };
    let (status, output) = run(&program, server, variables, LIMIT).map_err(|error| failed(&error))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&output);
        // The helpers' library says so on standard output, with status 1.
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(if text.trim().is_empty() {
            "it failed without a word"
        } else {
            &text
        }));
    }
    // Neither the answer nor the parser's error is shown: both may have the secret.
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| failed("its answer cannot be read"))?;
    Ok(match answer.username.as_str() {
        "" => None,
        "<token>" => Some(token_credentials("<token>", answer.secret)),
        _ => Some(Credentials {
            login: answer.username,
            proof: Proof::Password(answer.secret),
        }),
    })
}

/// The helper's program. Its name comes from a file and becomes part of a path.
fn find(name: &str, file: &str, path: &str) -> Result<PathBuf> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(good) {
        return Err(Error::Request(format!(
            "{file}: {:?} is not the name of a credential helper",
            printable(name)
        )));
    }
    let program = format!("docker-credential-{name}");
    let runs = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let directories = path.split(':').filter(|directory| directory.starts_with('/'));
    directories
        .map(|directory| Path::new(directory).join(&program))
        .find(runs)
        .ok_or_else(|| {
            Error::Request(format!(
                "{program}, the credential helper that {file} names, is not in PATH"
            ))
        })
}

fn run(
    program: &Path,
    server: &str,
    variables: &BTreeMap<String, String>,
    limit: Duration,
) -> Result<(ExitStatus, Vec<u8>), String> {
    let words = |error: std::io::Error| error.to_string();
    let deadline = Instant::now() + limit;
    let mut child = Command::new(program)
        .arg("get")
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(words)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read the server's name fails by its own answer.
        let _ = stdin.write_all(server.as_bytes());
    }
    let output = child.stdout.take().and_then(|stdout| read_until(stdout, deadline));
    let status = output.as_ref().and_then(|_| wait_until(&mut child, deadline));
    match (status, output) {
        (Some(status), Some(output)) => Ok((status, output)),
        _ => {
            // It may have ended meanwhile, which is as good.
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("no answer within {} s", limit.as_secs()))
        }
    }
}

/// All output, unless it takes too long. The thread that is then left behind ends with this process.
fn read_until(stdout: ChildStdout, deadline: Instant) -> Option<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.take(MAX_ANSWER).read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
        .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        .ok()
}

fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(script: &str) -> (tempfile::TempDir, BTreeMap<String, String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("relative:{}:/usr/bin:/bin", directory.path().display());
        (
            directory,
            [("PATH".to_owned(), path), ("WHO".to_owned(), "joe".to_owned())].into(),
        )
    }

    #[test]
    fn answers() {
        let (_directory, variables) = helper(
            r#"read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"$WHO\",\"Secret\":\"$1 $server\"}""#,
        );
        let found = ask("test", "a.b:5000", "F", &variables).unwrap().unwrap();
        assert_eq!(found.login, "joe");
        assert_eq!(found.proof, Proof::Password(Secret::new("get a.b:5000")));
        let (_directory, variables) = helper(r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        let found = ask("test", "a.b", "F", &variables).unwrap().unwrap();
        assert_eq!(
            found,
            Credentials {
                login: String::new(),
                proof: Proof::IdentityToken(Secret::new("t"))
            }
        );
        let (_directory, variables) = helper("echo 'credentials not found in native keychain'; exit 1");
        assert_eq!(ask("test", "a.b", "F", &variables).unwrap(), None);
    }

    #[test]
    fn failures() {
        for (script, expected) in [
            ("echo locked; exit 1", "gives no credentials for a.b: locked"),
            ("exit 3", "gives no credentials for a.b: it failed without a word"),
            (
                "echo '{\"Secret\":\"hunter2\"}'",
                "gives no credentials for a.b: its answer cannot be read",
            ),
        ] {
            let (_directory, variables) = helper(script);
            let error = ask("test", "a.b", "F", &variables).unwrap_err().to_string();
            assert!(
                error.contains("docker-credential-test (named in F)") && error.ends_with(expected),
                "{error}"
            );
        }
        let (_directory, variables) = helper("");
        let error = ask("missing", "a.b", "F", &variables).unwrap_err().to_string();
        assert_eq!(
            error,
            "docker-credential-missing, the credential helper that F names, is not in PATH"
        );
        for name in ["", "../test", "a/b", "a b"] {
            let error = ask(name, "a.b", "F", &variables).unwrap_err().to_string();
            assert!(error.contains("is not the name of a credential helper"), "{error}");
        }
    }

    #[test]
    fn a_helper_that_waits_is_stopped() {
        let (directory, variables) = helper("exec sleep 1000");
        let program = directory.path().join("docker-credential-test");
        let error = run(&program, "a.b", &variables, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error, "no answer within 0 s");
    }
}
