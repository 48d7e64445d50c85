//! Files by which an image that enroot has made describes itself, as its root file system is all there is of it:
//! `/etc/environment`, `/etc/fstab` and `/etc/rc`; and those of Singularity. Pure: bytes in, values out.
#![forbid(unsafe_code)]

use super::ImageConfig;
use super::singularity::Singularity;
use crate::config::environ::{ROOM, substitute};
use crate::config::files::TextFile;
use crate::config::fstab;
use crate::error::{Error, Result};
use crate::mount::MountSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The files, as far as the image has them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OwnFiles {
    /// `/etc/environment`: variables.
    pub environment: Vec<u8>,
    /// `/etc/fstab`: mounts.
    pub fstab: Vec<u8>,
    /// `/etc/rc`: a script that executes the entrypoint, or with arguments those.
    pub rc: Vec<u8>,
    /// What Singularity has put into it, if it has.
    pub singularity: Option<Singularity>,
}

impl OwnFiles {
    /// What they say, as the configuration of an image, with the job's variables put in.
    pub fn config(&self, env: &BTreeMap<String, String>) -> Result<ImageConfig> {
        let rc = ["/bin/sh", "/etc/rc"].iter().filter(|_| !self.rc.is_empty());
        let runscript = self.singularity.as_ref().and_then(Singularity::entrypoint);
        Ok(ImageConfig {
            env: self.variables(env)?,
            entrypoint: runscript.unwrap_or_else(|| rc.map(|word| (*word).to_owned()).collect()),
            working_dir: self.working_dir().unwrap_or_default(),
            labels: self.singularity.as_ref().map(Singularity::labels).unwrap_or_default(),
            ..ImageConfig::default()
        })
    }

    /// The lines of `/etc/environment`.
    fn variables(&self, env: &BTreeMap<String, String>) -> Result<Vec<String>> {
        let text = String::from_utf8_lossy(&self.environment);
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.starts_with('#') && !line.contains('\0') && line.contains('='));
        let mut room = ROOM;
        let variables = lines.map(|line| {
            let line = substitute(line, Some(env), room)?;
            room = room.saturating_sub(line.len());
            Some(line)
        });
        let variables: Option<_> = variables.collect();
        variables.ok_or_else(|| {
            let most = ROOM >> 20;
            Error::Image(format!(
                "the image's /etc/environment makes more than {most} MiB of variables"
            ))
        })
    }

    /// The directory that `/etc/rc` enters, in the one line by which enroot writes it down. The script itself runs only
    /// as an entrypoint; the directory is the image's in any case.
    fn working_dir(&self) -> Option<String> {
        let text = std::str::from_utf8(&self.rc).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("cd "))?;
        let word = line.strip_suffix(" && unset OLDPWD || exit 1")?;
        let path = match (word.strip_prefix('\''), word.strip_prefix('"')) {
            (Some(rest), _) => rest.strip_suffix('\'')?.replace(r"'\''", "'"),
            // What the shell would replace is not guessed at.
            (_, Some(rest)) => rest
                .strip_suffix('"')
                .filter(|path| !path.contains(['$', '`', '\\', '"']))?
                .to_owned(),
            _ => return None,
        };
        path.starts_with('/').then_some(path)
    }

    /// The mounts of `/etc/fstab`. They are opened with the user's rights, like those that he asks for.
    pub fn mounts(&self, env: &BTreeMap<String, String>) -> Result<Vec<MountSpec>> {
        let file = TextFile {
            path: "the image's /etc/fstab".to_owned(),
            text: String::from_utf8_lossy(&self.fstab).into_owned(),
        };
        Ok(fstab::in_order(fstab::parse(&file, Some(env), Error::Image)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::mount_syntax::parse_mounts;
    use proptest::prelude::*;

    fn env() -> BTreeMap<String, String> {
        [("HOME".to_owned(), "/home/alice".to_owned())].into()
    }

    #[test]
    fn variables_of_the_job_are_put_in() {
        let own = OwnFiles {
            environment: b"# comment\nPATH=/opt/bin:/bin\n\nDATA=${HOME}/data\nNONE=${NO_SUCH}\nnonsense\nLAST=a=b${"
                .to_vec(),
            rc: b"exec \"$@\"".to_vec(),
            ..OwnFiles::default()
        };
        let config = own.config(&env()).unwrap();
        assert_eq!(
            config.env,
            ["PATH=/opt/bin:/bin", "DATA=/home/alice/data", "NONE=", "LAST=a=b${"]
        );
        assert_eq!(config.entrypoint, ["/bin/sh", "/etc/rc"]);
        assert!(OwnFiles::default().config(&env()).unwrap().entrypoint.is_empty());
    }

    #[test]
    fn a_short_file_makes_no_huge_environment() {
        let env = [("A".to_owned(), "x".repeat(128 << 10))].into();
        let own = |lines: usize, line: &str| OwnFiles {
            environment: line.repeat(lines).into_bytes(),
            fstab: line.repeat(lines).into_bytes(),
            ..OwnFiles::default()
        };
        assert_eq!(own(15, "N=${A}\n").config(&env).unwrap().env.len(), 15);
        for many in [
            own(200_000, "N=${A}\n"),
            own(1, &format!("N={}\n", "${A}".repeat(100_000))),
        ] {
            let error = many.config(&env).unwrap_err().to_string();
            assert!(error.contains("more than 2 MiB of variables"), "{error}");
        }
        let error = own(1, "/${A} /b\n").mounts(&env).unwrap_err().to_string();
        assert!(error.contains("line 1: a field is too long"), "{error}");
        let error = own(1001, "/a /b\n").mounts(&env).unwrap_err().to_string();
        assert!(error.contains("more than 1000 mounts"), "{error}");
    }

    #[test]
    fn the_script_names_the_working_directory() {
        for (line, expected) in [
            (r#"cd "/opt/work" && unset OLDPWD || exit 1"#, "/opt/work"),
            (r"cd '/it'\''s here' && unset OLDPWD || exit 1", "/it's here"),
            (r#"cd "/$HOME" && unset OLDPWD || exit 1"#, ""),
            (r#"cd "relative" && unset OLDPWD || exit 1"#, ""),
            (r#"cd "/opt" && unset OLDPWD || exit 2"#, ""),
            ("cd /opt", ""),
        ] {
            let rc = format!("mkdir -p x 2> /dev/null\n{line}\n\nexec \"$@\"\n").into_bytes();
            let own = OwnFiles {
                rc,
                ..OwnFiles::default()
            };
            assert_eq!(own.config(&env()).unwrap().working_dir, expected, "{line}");
        }
    }

    #[test]
    fn lines_of_fstab_are_mounts() {
        let own = |text: &str| OwnFiles {
            fstab: text.as_bytes().to_vec(),
            ..OwnFiles::default()
        };
        let text = "# comment\n\n${ENROOT_ROOTFS}/data /data none x-create=dir,bind,rw,nosuid,nodev\n\
                    ${HOME}/x /x none x-create=auto,rbind,ro 0 0\ntmpfs /scratch tmpfs x-create=dir,size=1m\n/a /a\n";
        let expected =
            parse_mounts("/home/alice/x:/x:x-create=auto+rbind+ro,tmpfs:/scratch:x-create=dir+size=1m,/a:/a");
        let mut expected = expected.unwrap();
        expected[2] = parse_mounts("/a:/a:rbind+x-create=auto").unwrap().remove(0);
        assert_eq!(own(text).mounts(&env()).unwrap(), expected);
        for (text, why) in [
            ("\n/a", "line 2: a mount needs a source and a target"),
            ("/dev/sda / ext4 rw", "type \"ext4\""),
            ("/a /b none no-such-option", "no-such-option"),
            ("relative /b none bind", "line 1"),
        ] {
            let error = own(text).mounts(&env()).unwrap_err();
            assert!(
                matches!(error, Error::Image(_)) && error.to_string().contains(why),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let own = OwnFiles { environment: bytes.clone(), fstab: bytes.clone(), rc: bytes, singularity: None };
            let _ = (own.config(&env()), own.mounts(&env()));
        }
    }
}
