//! The site's importer: an executable that gets images in a way of its own. `PATH get docker://IMAGE` prints the path of
//! a squashfs file, `PATH release` ends its use and may be called more than once. It runs as the job's user.
#![forbid(unsafe_code)]

use crate::errand::{Errand, Outcome, Patience, Rights, open_trusted};
use crate::error::{Error, Result};
use crate::image::printable;
use crate::plan::Identity;
use crate::report::{PATIENCE, Report};
use crate::sys::cgroup::Groups;
use crate::sys::process::Exit;
use rustix::event::Timespec;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A release that takes longer is ended: nobody can be told of it any more.
const RELEASE_TIME: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// The importer that the site has chosen.
#[derive(Debug, Clone)]
pub struct Importer {
    /// The executable.
    pub path: PathBuf,
    /// Its environment, whole.
    pub env: Vec<(String, String)>,
}

/// The importer with everything that starting it needs.
#[derive(Debug)]
pub struct Call<'a>(Errand<'a>);

impl Importer {
    /// Makes ready to run it as `user`, where the process `task` of his is.
    pub fn call<'a>(&'a self, user: &'a Identity, task: Option<i32>) -> Result<Call<'a>> {
        Ok(Call(Errand {
            what: "importer",
            path: self.path.clone(),
            program: open_trusted("importer", &self.path)?,
            env: &self.env,
            groups: Some(Groups::of_task(task, user.uid)?),
            user: Some(user),
            rights: Rights::NoNew,
        }))
    }
}

impl Call<'_> {
    /// The path of a file with the image.
    pub fn get(&self, image: &str, report: &mut dyn FnMut(Report)) -> Result<PathBuf> {
        let uri = match image.contains("://") {
            true => image.to_owned(),
            false => format!("docker://{image}"),
        };
        let started = Instant::now();
        let name = self.0.path.display().to_string();
        let outcome = self.0.run(&["get", &uri], None, PATIENCE, || {
            let seconds = started.elapsed().as_secs();
            report(Report::Progress(format!(
                "waiting for the importer {name} since {seconds} s"
            )));
            Patience::Go
        });
        let path = outcome.and_then(|outcome| self.path(outcome));
        if path.is_err() {
            // The first error counts.
            let _ = self.release();
        }
        path
    }

    fn path(&self, outcome: Outcome) -> Result<PathBuf> {
        must_be_good(&outcome, "get", &self.0.path)?;
        let text = String::from_utf8(outcome.output).unwrap_or_default();
        let path = PathBuf::from(text.lines().next().unwrap_or_default().trim_end());
        if path.is_absolute() && !text.contains('\0') {
            return Ok(path);
        }
        Err(Error::Host(format!(
            "the importer {} printed {:?}, which is not an absolute path",
            self.0.path.display(),
            printable(&text)
        )))
    }

    /// Tells it that its file is not used any more.
    pub fn release(&self) -> Result<()> {
        let outcome = self.0.run(&["release"], None, RELEASE_TIME, || Patience::Stop)?;
        must_be_good(&outcome, "release", &self.0.path)
    }
}

fn must_be_good(outcome: &Outcome, verb: &str, path: &Path) -> Result<()> {
    match outcome.exit {
        Exit::Code(0) => Ok(()),
        exit => Err(Error::Image(format!(
            "the importer {} {verb} ended with {exit}: {}",
            path.display(),
            outcome.last_words()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn importer(script: &str) -> (tempfile::TempDir, Importer) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("importer");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let env = vec![("WHAT".to_owned(), "x".to_owned())];
        (directory, Importer { path, env })
    }

    fn user() -> Identity {
        Identity {
            uid: 23_456,
            gid: 23_457,
            groups: vec![23_457],
        }
    }

    fn get(script: &str) -> Result<PathBuf> {
        let (_directory, importer) = importer(script);
        let user = user();
        importer.call(&user, None)?.get("a.b/image:1", &mut |_| ())
    }

    #[test]
    fn its_path_is_taken_and_it_is_the_user() {
        let found = get(
            r#"[ "$1 $2 $WHAT" = "get docker://a.b/image:1 x" ] && echo "/images/$(id -u)/$(id -G)"; echo noise >&2"#,
        );
        assert_eq!(found.unwrap(), Path::new("/images/23456/23457"));
        let found = get("[ -z \"$HOME\" ] && read line; echo /closed$line");
        assert_eq!(found.unwrap(), Path::new("/closed"));
    }

    #[test]
    fn failures_say_why_and_release() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let mark = directory.path().join("released");
        let release = format!("[ $1 = release ] && exec touch {}\n", mark.display());
        for (script, why) in [
            (
                "echo no space left >&2; exit 3",
                "get ended with exit code 3: no space left",
            ),
            ("kill -9 $$", "get ended with signal 9: it said nothing"),
            (
                "echo relative/path",
                "printed \"relative/path\", which is not an absolute path",
            ),
            ("true", "printed \"\""),
        ] {
            let error = get(&format!("{release}{script}")).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            std::fs::remove_file(&mark).unwrap();
        }
    }

    #[test]
    fn who_else_could_change_it_is_not_trusted() {
        let (_directory, importer) = importer("echo /x");
        let user = user();
        for (mode, why) in [(0o775, "must belong to root"), (0o644, "not an executable")] {
            std::fs::set_permissions(&importer.path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = importer.call(&user, None).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        std::fs::set_permissions(&importer.path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&importer.path, Some(23_456), None).unwrap();
        assert!(importer.call(&user, None).is_err());
        std::fs::remove_file(&importer.path).unwrap();
        let error = importer.call(&user, None).unwrap_err();
        assert!(matches!(error, Error::Host(_)), "{error}");
    }
}
