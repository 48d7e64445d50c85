//! Files of `mounts.d`, and the `/etc/fstab` of images: the form of fstab(5) with the options of `--container-mounts`, and
//! `${NAME}` of the job's environment. They become the mounts that an option would make, and like those they are opened with the user's rights.
#![forbid(unsafe_code)]

use super::environ::substitute;
use super::files::TextFile;
use crate::error::{Error, Result};
use crate::mount::{Create, MountOptions, MountSource, MountSpec};
use crate::request::mount_syntax;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// A mount, and when it is its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The mount.
    pub mount: MountSpec,
    /// `fs_passno`: the smaller come first.
    pub pass: i32,
}

/// Words that fstab(5) knows and that mean nothing for a mount of a container.
const WITHOUT_EFFECT: [&str; 25] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "group",
    "nogroup",
    "owner",
    "noowner",
    "_netdev",
    "async",
    "sync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "dirsync",
];
/// Types of file systems that every container has where they belong.
const OF_THE_SYSTEM: [&str; 7] = ["proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];
/// Where those are.
const SYSTEM_PLACES: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Directories that are a private tmpfs in every container, and their other names.
const SCRATCH: [&str; 4] = ["/tmp", "/run", "/var/run", "/var/lock"];
/// enroot writes this in front of an image's own directories.
const OWN_ROOT: &str = "${ENROOT_ROOTFS}";
/// What every container has of the host at its own path.
const OF_THE_HOST: [&str; 8] = [
    "/proc",
    "/sys",
    "/dev",
    "/dev/shm",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/machine-id",
];

/// Bytes of one field: more than any path may have.
const LONGEST: usize = 16 << 10;
/// Mounts of one file.
const MOST: usize = 1000;

/// The mounts of a file, in its order. `wrong` makes an error for whoever must mend the file.
pub fn parse(
    file: &TextFile,
    env: Option<&BTreeMap<String, String>>,
    wrong: impl Fn(String) -> Error,
) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let found = entry(line, env).map_err(|reason| wrong(format!("{}, line {number}: {reason}", file.path)));
        entries.extend(found?);
        if entries.len() > MOST {
            return Err(wrong(format!("{}: more than {MOST} mounts", file.path)));
        }
    }
    Ok(entries)
}

/// All mounts in the order in which they are made.
pub fn in_order(mut entries: Vec<Entry>) -> Vec<MountSpec> {
    entries.sort_by_key(|entry| entry.pass);
    entries.into_iter().map(|entry| entry.mount).collect()
}

/// One line; `None` when every container has it anyway.
fn entry(line: &str, env: Option<&BTreeMap<String, String>>) -> Result<Option<Entry>, String> {
    // Fields are told apart before variables are put in, so that a blank in one does not make more fields.
    let words = line
        .split_ascii_whitespace()
        .take_while(|word| !word.starts_with('#'))
        .collect::<Vec<_>>();
    if let [source, target, ..] = words.as_slice()
        && source.strip_prefix(OWN_ROOT) == Some(target)
    {
        // A directory of the image on itself.
        return Ok(None);
    }
    let field = |word: &&str| substitute(word, env, LONGEST).map(|word| unescape(&word));
    let fields: Option<Vec<String>> = words.iter().map(field).collect();
    let fields = fields.ok_or("a field is too long with its variables")?;
    let mut fields = fields.iter().map(String::as_str);
    let (Some(source), Some(target)) = (fields.next(), fields.next()) else {
        return Err("a mount needs a source and a target".to_owned());
    };
    let (kind, options) = match fields.next() {
        None if source == "tmpfs" => ("tmpfs", ""),
        None => ("none", "rbind,x-create=auto"),
        Some(options) if is_options(options) => ("none", options),
        Some(kind) => (kind, fields.next().unwrap_or_default()),
    };
    let number = |field: Option<&str>| match field {
        None => Ok(0),
        Some(word) => word.parse::<i32>().map_err(|_| format!("{word:?} is not a number")),
    };
    number(fields.next())?;
    let pass = number(fields.next())?;
    if is_there_anyway(source, target, kind) {
        return Ok(None);
    }
    let mount = mount(source, target, kind, options)?;
    Ok(Some(Entry { mount, pass }))
}

/// Space, tab, newline and backslash as fstab(5) writes them: `\040` and so on.
fn unescape(word: &str) -> String {
    let known = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let mut result = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(start) = rest.find('\\') {
        let (before, after) = rest.split_at(start);
        result.push_str(before);
        let escape = known.iter().find(|(escape, _)| after.starts_with(escape));
        let (text, length) = escape.map_or(("\\", 1), |(escape, text)| (*text, escape.len()));
        result.push_str(text);
        rest = after.get(length..).unwrap_or_default();
    }
    result.push_str(rest);
    result
}

/// The third field may be options instead of a type: `/src /dst ro,bind`.
fn is_options(word: &str) -> bool {
    let mut options = MountOptions::default();
    word.contains(',')
        || word.contains('=')
        || WITHOUT_EFFECT.contains(&word)
        || matches!(word, "exec" | "suid" | "dev" | "loud")
        || mount_syntax::mount_flag(&mut options, word)
        || mount_syntax::bind_flag(&mut options, word)
}

/// Files that enroot itself installs list what every container has here without being told.
fn is_there_anyway(source: &str, target: &str, kind: &str) -> bool {
    let target = plain(target);
    let place = target.to_str().unwrap_or_default();
    match kind {
        "tmpfs" => SCRATCH.contains(&place),
        _ if OF_THE_SYSTEM.contains(&kind) => SYSTEM_PLACES.iter().any(|system| target.starts_with(system)),
        _ => OF_THE_HOST.contains(&place) && plain(source) == target,
    }
}

/// The path without `.` and doubled slashes.
fn plain(path: &str) -> PathBuf {
    let named = Path::new(path).components();
    named.filter(|component| *component != Component::CurDir).collect()
}

fn mount(source: &str, target: &str, kind: &str, options: &str) -> Result<MountSpec, String> {
    let words: Vec<&str> = options.split(',').filter(|word| !word.is_empty()).collect();
    let source = match kind {
        "tmpfs" => MountSource::Tmpfs,
        // Only our own form of an empty source can be meant: something is taken away.
        "none" | "bind" | "auto" if source == "none" && words.contains(&"x-detach") => MountSource::Umount,
        "none" | "bind" | "auto" if source.starts_with(['/', '.']) => MountSource::Path(PathBuf::from(source)),
        "squashfs" if source.starts_with(['/', '.']) => MountSource::Squashfs(PathBuf::from(source)),
        "none" | "bind" | "auto" | "squashfs" => {
            return Err(format!("source {source:?} is not a path: it must start with / or ."));
        }
        other => {
            return Err(format!(
                "type {other:?}: a container can have tmpfs, squashfs files, and binds (type none) of what the node has mounted"
            ));
        }
    };
    if !target.starts_with(['/', '.']) {
        return Err(format!("target {target:?} must start with / or ."));
    }
    if target.contains('\0') || options.contains('\0') {
        return Err("a NUL character".to_owned());
    }
    let options = flags(&source, &words)?;
    Ok(MountSpec {
        source,
        target: PathBuf::from(target),
        options,
    })
}

fn flags(source: &MountSource, words: &[&str]) -> Result<MountOptions, String> {
    let mut options = MountOptions {
        // As for mount(8): a target that is missing is made only when asked for.
        create: Create::No,
        ..MountOptions::default()
    };
    for word in words.iter().copied().filter(|word| !WITHOUT_EFFECT.contains(word)) {
        let known = match (word, source) {
            ("loud", _) => set(&mut options.silent, false),
            ("exec", _) => set(&mut options.noexec, false),
            ("suid", _) => set(&mut options.nosuid, false),
            ("dev", _) => set(&mut options.nodev, false),
            (_, MountSource::Umount) => {
                mount_syntax::umount_flag(&mut options, word) || mount_syntax::bind_flag(&mut options, word)
            }
            (_, MountSource::Path(_)) => {
                mount_syntax::mount_flag(&mut options, word) || mount_syntax::bind_flag(&mut options, word)
            }
            // Who mounts a file says so to mount(8).
            ("loop", MountSource::Squashfs(_)) => true,
            (_, MountSource::Squashfs(_)) => mount_syntax::squashfs_flag(&mut options, word),
            (_, MountSource::Tmpfs) => {
                mount_syntax::mount_flag(&mut options, word) || mount_syntax::data_flag(&mut options, word)
            }
        };
        if !known {
            return Err(format!("unknown option {word:?}"));
        }
    }
    if *source == MountSource::Umount {
        options.recursive = false;
    }
    Ok(options)
}

fn set(flag: &mut bool, value: bool) -> bool {
    *flag = value;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env() -> BTreeMap<String, String> {
        [("PWD", "/work/of alice"), ("NUMBER", "7")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn file(text: &str) -> TextFile {
        TextFile {
            path: "x.fstab".into(),
            text: text.into(),
        }
    }

    fn one(line: &str) -> Option<MountSpec> {
        entry(line, Some(&env()))
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .map(|entry| entry.mount)
    }

    #[test]
    fn lines_say_what_an_option_would() {
        for (line, option) in [
            ("/src /dst", "/src:/dst"),
            ("/src /dst none x-create=auto,rbind,ro,nosuid", "/src:/dst:ro+nosuid"),
            ("/src /dst rbind,x-create=auto 0 0", "/src:/dst"),
            ("./src ./dst none bind,x-create=file", "./src:./dst:bind+x-create=file"),
            (
                "${PWD} /mnt none x-create=dir,bind",
                "/work/of alice:/mnt:bind+x-create=dir",
            ),
            ("/a\\040b /c\\134d none rbind,x-create=auto # why", "/a b:/c\\d"),
            (
                "tmpfs /scratch tmpfs x-create=dir,size=1G,noexec",
                "tmpfs:/scratch:size=1G+noexec",
            ),
            (
                "tmpfs /scratch tmpfs defaults,noexec,exec,x-create=dir",
                "tmpfs:/scratch",
            ),
            ("none /mnt none x-detach,nofail,silent", "umount:/mnt:nofail+silent"),
            ("/from /to none x-move,x-create=auto,rbind", "/from:/to:x-move"),
            ("/src /dst none rbind,x-create=auto,rslave,relatime", "/src:/dst:rslave"),
            (
                "/images/data.sqsh /data squashfs loop,ro,nosuid,x-create=dir,nofail 0 0",
                "/images/data.sqsh:/data:squashfs+ro+nosuid+nofail",
            ),
            ("/dev/shm /elsewhere none rbind,x-create=auto", "/dev/shm:/elsewhere"),
        ] {
            let expected = mount_syntax::parse_mount(option).unwrap();
            assert_eq!(one(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn targets_are_made_only_when_asked() {
        assert_eq!(one("/src /dst none bind").unwrap().options.create, Create::No);
        assert_eq!(one("tmpfs /dst").unwrap().options.create, Create::No);
    }

    /// The lines that enroot's own packages install.
    #[test]
    fn what_every_container_has_is_left_out() {
        for line in [
            "/proc /proc none x-create=dir,rbind,rw,nosuid,nodev,noexec 0 -1",
            "/sys  /sys  none x-create=dir,rbind,ro,nosuid,nodev,noexec",
            "/dev  /dev/ none x-create=dir,rbind,rw,nosuid,noexec",
            "/dev/shm /dev/shm none x-create=dir,bind,rw,nosuid,nodev,noexec",
            "tmpfs /tmp tmpfs x-create=dir,rw,nosuid,nodev,mode=755",
            "tmpfs /var/run tmpfs x-create=dir,rw,nosuid,nodev,mode=755",
            "devpts /dev/pts devpts x-create=dir,newinstance,ptmxmode=666",
            "mqueue /dev/mqueue mqueue x-create=dir",
            "/etc/hosts //etc/./hosts none x-create=file,bind,ro,nosuid,nodev,noexec,nofail,silent",
        ] {
            assert_eq!(one(line), None, "{line}");
        }
    }

    #[test]
    fn order() {
        let text = "/a /a none bind 0 1\n/b /b none bind 0 -1\n# /x /x\n\n/c /c none bind\n/d /d none bind 0 -1\n/e /e none bind 0 0\n";
        let mounts = in_order(parse(&file(text), Some(&env()), Error::Host).unwrap());
        let targets: Vec<_> = mounts.iter().map(|mount| mount.target.to_str().unwrap()).collect();
        assert_eq!(targets, ["/b", "/d", "/c", "/e", "/a"]);
    }

    #[test]
    fn what_is_wrong_and_where() {
        for (line, reason) in [
            ("/src", "needs a source and a target"),
            ("/src /dst ext4 ro", "type \"ext4\""),
            ("src /dst none bind", "source \"src\" is not a path"),
            ("/src dst none bind", "target \"dst\" must start"),
            ("/src /dst none bind,wild", "unknown option \"wild\""),
            ("/src /dst none bind,size=1G", "unknown option \"size=1G\""),
            ("/src /dst none remount,bind,ro", "unknown option \"remount\""),
            ("/src /dst none bind 0 first", "\"first\" is not a number"),
            ("none /dst none bind", "source \"none\" is not a path"),
            ("data.sqsh /dst squashfs ro", "source \"data.sqsh\" is not a path"),
            ("/data.sqsh /dst squashfs rw", "unknown option \"rw\""),
        ] {
            let error = parse(&file(&format!("\n{line}\n")), Some(&env()), Error::Host)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("x.fstab, line 2: ") && error.contains(reason),
                "{line}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z/.\\\\0-9${}#, =\t-]{0,60}|\\PC*") {
            let _ = parse(&file(&text), Some(&env()), Error::Request);
        }
    }
}
