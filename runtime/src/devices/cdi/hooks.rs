//! Hooks of a device: programs that a vendor wants to be run. None is run. Of NVIDIA's it is known what they do, and that
//! is done without them, or need not be done.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde::de::IgnoredAny;
use std::path::{Path, PathBuf};

/// NVIDIA's program for hooks, and the one that it was a part of before.
const PROGRAMS: [&str; 2] = ["nvidia-cdi-hook", "nvidia-ctk"];

/// A hook.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    #[serde(default, rename = "hookName")]
    _hook_name: Option<IgnoredAny>,
    pub path: PathBuf,
    #[serde(default)]
    pub args: Option<Vec<String>>,
    #[serde(default, rename = "env")]
    _env: Option<IgnoredAny>,
    #[serde(default, rename = "timeout")]
    _timeout: Option<IgnoredAny>,
}

/// What a hook is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Symbolic links in the container: where, and what they say.
    Links(Vec<(PathBuf, PathBuf)>),
    /// Directories of the container in which its loader finds libraries.
    Folders(Vec<PathBuf>),
    /// Something that a container has anyway, or cannot have.
    Nothing,
}

impl Hook {
    /// What it is there for, if that is known.
    pub fn effect(&self) -> Option<Effect> {
        let program = self.path.file_name()?.to_str()?;
        if !PROGRAMS.contains(&program) {
            return None;
        }
        // The first word is the program's own name; nvidia-ctk has its hooks below "hook".
        let mut words = self.args.as_deref()?.iter().map(String::as_str).skip(1).peekable();
        words.next_if(|word| program == "nvidia-ctk" && *word == "hook");
        let verb = words.next()?;
        let options = Options::read(words)?;
        match verb {
            "create-symlinks" => options
                .only(&["link"])?
                .iter()
                .map(|text| link(text))
                .collect::<Option<_>>()
                .map(Effect::Links),
            "update-ldcache" | "create-soname-symlinks" => {
                // The host's own ldconfig is not needed.
                let folders = options.only(&["folder", "ldconfig-path"])?;
                folders
                    .iter()
                    .map(|text| absolute(text))
                    .collect::<Option<_>>()
                    .map(Effect::Folders)
            }
            // Everything of an image belongs to the user (chmod), who has no right to make device nodes (the driver's
            // wish to make its own). The image's own driver libraries are looked after for all NVIDIA GPUs alike.
            "chmod" | "enable-cuda-compat" | "disable-device-node-modification" => Some(Effect::Nothing),
            _ => None,
        }
    }
}

/// `--NAME VALUE` or `--NAME=VALUE`, in order.
struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    fn read(mut words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut options = Vec::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
            options.push(match name.split_once('=') {
                Some((name, value)) => (name, value),
                None => (name, words.next()?),
            });
        }
        Some(Options(options))
    }

    /// The values of the first name, if no other than these occur. One word may hold several values, with commas.
    fn only(&self, names: &[&str]) -> Option<Vec<&'a str>> {
        let known = self.0.iter().all(|(name, _)| names.contains(name));
        let wanted = self.0.iter().filter(|(name, _)| names.first() == Some(name));
        known.then(|| wanted.flat_map(|(_, value)| value.split(',')).collect())
    }
}

/// `TARGET::LINK`.
fn link(text: &str) -> Option<(PathBuf, PathBuf)> {
    let (target, link) = text.split_once("::")?;
    let target = PathBuf::from(target);
    (!target.as_os_str().is_empty() && !link.contains("::")).then_some((absolute(link)?, target))
}

fn absolute(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let climbs = path.components().any(|component| component.as_os_str() == "..");
    (path.is_absolute() && !climbs && !text.contains('\0')).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(words: &str) -> Option<Effect> {
        let mut words = words.split(' ').map(str::to_owned);
        let path = PathBuf::from(words.next().unwrap());
        let args = Some(words.collect());
        Hook {
            _hook_name: None,
            path,
            args,
            _env: None,
            _timeout: None,
        }
        .effect()
    }

    #[test]
    fn links_and_folders() {
        let one = ("/usr/lib/libcuda.so".into(), "libcuda.so.1".into());
        let two = ("/lib/x.so".into(), "../y.so".into());
        for program in [
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook",
            "/usr/bin/nvidia-ctk nvidia-ctk hook",
        ] {
            assert_eq!(
                effect(&format!(
                    "{program} create-symlinks --link libcuda.so.1::/usr/lib/libcuda.so --link=../y.so::/lib/x.so"
                )),
                Some(Effect::Links(vec![one.clone(), two.clone()]))
            );
            assert_eq!(
                effect(&format!(
                    "{program} update-ldcache --ldconfig-path @/sbin/ldconfig --folder /lib64 --folder /a,/b"
                )),
                Some(Effect::Folders(vec!["/lib64".into(), "/a".into(), "/b".into()]))
            );
        }
    }

    #[test]
    fn what_need_not_be_done() {
        for words in [
            "chmod --mode 755 --path /dev/dri",
            "enable-cuda-compat --host-driver-version=550.54.14",
            "disable-device-node-modification",
        ] {
            let words = format!("/usr/bin/nvidia-cdi-hook nvidia-cdi-hook {words}");
            assert_eq!(effect(&words), Some(Effect::Nothing), "{words}");
        }
    }

    #[test]
    fn anything_else_is_not_known() {
        for words in [
            "/usr/bin/other nvidia-cdi-hook create-symlinks --link a::/b",
            "/usr/bin/nvidia-cdi-hook",
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook",
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook new-verb",
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook create-symlinks --link",
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook create-symlinks --link a:/b",
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook create-symlinks --link a::b",
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook create-symlinks --link a::/../b",
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook create-symlinks --link a::/b --new x",
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook update-ldcache --folder ../lib",
            "/usr/bin/nvidia-cdi-hook nvidia-cdi-hook update-ldcache lib",
        ] {
            assert_eq!(effect(words), None, "{words}");
        }
    }
}
