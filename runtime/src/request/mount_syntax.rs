//! The words of `--container-mounts` as data: `SRC[:DST[:FLAGS]][,...]`, flags joined with `+`.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::mount::{Create, MountOptions, MountSource, MountSpec, Propagation, PropagationKind};
use std::path::PathBuf;

/// Parses a list of mounts. Nothing is looked up: a source that does not exist is found out on the node.
pub fn parse_mounts(text: &str) -> Result<Vec<MountSpec>> {
    text.split(',').map(parse_mount).collect()
}

/// Parses one mount.
pub fn parse_mount(text: &str) -> Result<MountSpec> {
    if text.is_empty() {
        return Err(Error::Request("empty mount: write SRC[:DST[:FLAGS]]".into()));
    }
    if text.contains('\0') {
        return Err(Error::Request(format!("mount {text:?} holds a NUL character")));
    }
    let mut words = text.split(':');
    let source = words.next().unwrap_or_default();
    let target = words.next();
    let flags = words.next();
    if words.next().is_some() {
        return Err(Error::Request(format!(
            "mount {text:?} has too many parts: write SRC[:DST[:FLAGS]]"
        )));
    }
    let source = with_type(parse_source(source, text)?, flags);
    let target = parse_target(target, &source, text)?;
    let options = parse_flags(flags, &source, text)?;
    Ok(MountSpec {
        source,
        target,
        options,
    })
}

fn parse_source(word: &str, text: &str) -> Result<MountSource> {
    match word {
        "tmpfs" => Ok(MountSource::Tmpfs),
        "umount" => Ok(MountSource::Umount),
        path if path.starts_with('/') || path.starts_with('.') => Ok(MountSource::Path(PathBuf::from(path))),
        "" => Err(Error::Request(format!("mount {text:?} has an empty source"))),
        other => Err(Error::Request(format!(
            "mount source {other:?} is neither a path (it must start with / or .) nor tmpfs nor umount"
        ))),
    }
}

/// The flag that makes a file's content what is mounted.
const SQUASHFS: &str = "squashfs";

fn with_type(source: MountSource, flags: Option<&str>) -> MountSource {
    let typed = flags.is_some_and(|flags| flags.split('+').any(|flag| flag == SQUASHFS));
    match source {
        MountSource::Path(path) if typed => MountSource::Squashfs(path),
        other => other,
    }
}

fn parse_target(word: Option<&str>, source: &MountSource, text: &str) -> Result<PathBuf> {
    match (word, source) {
        (Some(path), _) if path.starts_with('/') || path.starts_with('.') => Ok(PathBuf::from(path)),
        (Some(""), _) => Err(Error::Request(format!("mount {text:?} has an empty target"))),
        (Some(path), _) => Err(Error::Request(format!("mount target {path:?} must start with / or ."))),
        (None, MountSource::Path(path) | MountSource::Squashfs(path)) => Ok(path.clone()),
        (None, MountSource::Tmpfs) => Err(Error::Request("a tmpfs needs a target: write tmpfs:/PATH".into())),
        (None, MountSource::Umount) => Err(Error::Request("umount needs a target: write umount:/PATH".into())),
    }
}

fn parse_flags(flags: Option<&str>, source: &MountSource, text: &str) -> Result<MountOptions> {
    let mut options = defaults(source);
    for flag in flags.into_iter().flat_map(|flags| flags.split('+')) {
        if flag.is_empty() {
            return Err(Error::Request(format!("mount {text:?} has an empty flag")));
        }
        let known = match source {
            MountSource::Umount => umount_flag(&mut options, flag),
            MountSource::Path(_) => mount_flag(&mut options, flag) || bind_flag(&mut options, flag),
            MountSource::Tmpfs => mount_flag(&mut options, flag) || data_flag(&mut options, flag),
            MountSource::Squashfs(_) => flag == SQUASHFS || squashfs_flag(&mut options, flag),
        };
        if !known {
            return Err(Error::Request(format!("unknown flag {flag:?} in mount {text:?}")));
        }
    }
    Ok(options)
}

fn defaults(source: &MountSource) -> MountOptions {
    match source {
        MountSource::Path(_) => MountOptions {
            recursive: true,
            create: Create::Auto,
            ..MountOptions::default()
        },
        MountSource::Tmpfs | MountSource::Squashfs(_) => MountOptions {
            create: Create::Dir,
            ..MountOptions::default()
        },
        MountSource::Umount => MountOptions {
            create: Create::No,
            detach: true,
            ..MountOptions::default()
        },
    }
}

/// Flags of anything that is mounted.
pub(crate) fn mount_flag(options: &mut MountOptions, flag: &str) -> bool {
    match flag {
        "ro" => options.readonly = true,
        "rw" => options.readonly = false,
        "nosuid" => options.nosuid = true,
        "nodev" => options.nodev = true,
        "noexec" => options.noexec = true,
        "x-create=dir" => options.create = Create::Dir,
        "x-create=file" => options.create = Create::File,
        "x-create=auto" => options.create = Create::Auto,
        "x-detach" => options.detach = true,
        "nofail" => options.nofail = true,
        "silent" => options.silent = true,
        word => match propagation(word) {
            Some(propagation) => options.propagation = Some(propagation),
            None => return false,
        },
    }
    true
}

/// Flags of a bind.
pub(crate) fn bind_flag(options: &mut MountOptions, flag: &str) -> bool {
    match flag {
        "bind" => options.recursive = false,
        "rbind" => options.recursive = true,
        "x-move" => options.move_mount = true,
        _ => return false,
    }
    true
}

/// Flags of a squashfs file, which nothing can make writable.
pub(crate) fn squashfs_flag(options: &mut MountOptions, flag: &str) -> bool {
    flag != "rw" && mount_flag(options, flag)
}

/// What a file system takes as its own: `NAME=VALUE`.
pub(crate) fn data_flag(options: &mut MountOptions, flag: &str) -> bool {
    match flag.split_once('=') {
        Some((name, value)) if !name.is_empty() && !name.starts_with("x-") && !value.is_empty() => {
            options.data.push(flag.to_owned());
            true
        }
        _ => false,
    }
}

/// Flags that mean something when nothing is mounted.
pub(crate) fn umount_flag(options: &mut MountOptions, flag: &str) -> bool {
    match flag {
        "x-detach" => options.detach = true,
        "nofail" => options.nofail = true,
        "silent" => options.silent = true,
        _ => return false,
    }
    true
}

fn propagation(word: &str) -> Option<Propagation> {
    let (kind, recursive) = match word {
        "private" => (PropagationKind::Private, false),
        "slave" => (PropagationKind::Slave, false),
        "shared" => (PropagationKind::Shared, false),
        "unbindable" => (PropagationKind::Unbindable, false),
        "rprivate" => (PropagationKind::Private, true),
        "rslave" => (PropagationKind::Slave, true),
        "rshared" => (PropagationKind::Shared, true),
        "runbindable" => (PropagationKind::Unbindable, true),
        _ => return None,
    };
    Some(Propagation { kind, recursive })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> MountSpec {
        parse_mount(text).unwrap()
    }

    #[test]
    fn a_source_alone_is_the_same_path_inside() {
        let mount = one("/data/with space");
        assert_eq!(mount.source, MountSource::Path("/data/with space".into()));
        assert_eq!(mount.target, PathBuf::from("/data/with space"));
        assert!(mount.options.recursive);
        assert_eq!(mount.options.create, Create::Auto);
        assert!(!mount.options.readonly);
    }

    #[test]
    fn sources_targets_and_defaults() {
        assert_eq!(one("./x:/y").source, MountSource::Path("./x".into()));
        assert_eq!(one("..").target, PathBuf::from(".."));
        assert_eq!(one("/x:../home").target, PathBuf::from("../home"));
        let tmpfs = one("tmpfs:/scratch:size=1G+huge=within_size+noexec");
        assert_eq!(tmpfs.source, MountSource::Tmpfs);
        assert_eq!(tmpfs.options.create, Create::Dir);
        assert_eq!(tmpfs.options.data, ["size=1G", "huge=within_size"]);
        assert!(tmpfs.options.noexec);
        let umount = one("umount:/mnt:nofail+silent");
        assert_eq!(umount.source, MountSource::Umount);
        assert!(umount.options.detach && umount.options.nofail && umount.options.silent);
    }

    #[test]
    fn every_flag() {
        let all = one("/a:/b:ro+nosuid+nodev+noexec+bind+rslave+x-create=file+x-detach+x-move+nofail+silent").options;
        let expected = MountOptions {
            readonly: true,
            nosuid: true,
            nodev: true,
            noexec: true,
            recursive: false,
            propagation: Some(Propagation {
                kind: PropagationKind::Slave,
                recursive: true,
            }),
            create: Create::File,
            detach: true,
            move_mount: true,
            nofail: true,
            silent: true,
            data: Vec::new(),
        };
        assert_eq!(all, expected);
        let words = ["private", "slave", "shared", "unbindable"];
        for word in words {
            let plain = one(&format!("/a:/b:{word}")).options.propagation.unwrap();
            let whole = one(&format!("/a:/b:r{word}")).options.propagation.unwrap();
            assert!(
                !plain.recursive && whole.recursive && plain.kind == whole.kind,
                "{word}"
            );
        }
    }

    #[test]
    fn the_last_of_two_opposite_flags_counts() {
        assert!(!one("/a:/b:ro+rw").options.readonly);
        assert!(one("/a:/b:bind+rbind").options.recursive);
        assert_eq!(one("/a:/b:x-create=dir+x-create=auto").options.create, Create::Auto);
    }

    #[test]
    fn squashfs_files() {
        let mount = one("/images/data.sqsh:/data:squashfs");
        assert_eq!(mount.source, MountSource::Squashfs("/images/data.sqsh".into()));
        assert_eq!((mount.options.create, mount.options.recursive), (Create::Dir, false));
        let all = one("./data.sif:/data:nosuid+noexec+squashfs+nodev+ro+x-create=dir+nofail");
        assert_eq!(all.source, MountSource::Squashfs("./data.sif".into()));
        assert!(all.options.noexec && all.options.nosuid && all.options.nodev && all.options.nofail);
    }

    #[test]
    fn lists() {
        let mounts = parse_mounts("/a,/b:/c:ro,tmpfs:/d").unwrap();
        assert_eq!(mounts.len(), 3);
        assert!(mounts[1].options.readonly);
    }

    #[test]
    fn what_is_refused_and_why() {
        for (text, reason) in [
            ("", "empty mount"),
            ("/a,", "empty mount"),
            (",/a", "empty mount"),
            (":/b", "empty source"),
            ("/a:", "empty target"),
            ("/a:b", "must start with / or ."),
            ("/a:/b:", "empty flag"),
            ("/a:/b:ro++rw", "empty flag"),
            ("/a:/b:ro:rw", "too many parts"),
            ("/a:/b:readonly", "unknown flag \"readonly\""),
            ("/a:/b:ro,rw", "neither a path"),
            ("/a:/b:size=1G", "unknown flag \"size=1G\""),
            ("/a:/b:x-create=link", "unknown flag"),
            ("tmpfs:/a:bind", "unknown flag \"bind\""),
            ("tmpfs:/a:size=", "unknown flag"),
            ("umount:/a:ro", "unknown flag \"ro\""),
            ("umount:/a:squashfs", "unknown flag \"squashfs\""),
            ("tmpfs:/a:squashfs", "unknown flag \"squashfs\""),
            ("/a:/b:squashfs+rw", "unknown flag \"rw\""),
            ("/a:/b:squashfs+rbind", "unknown flag \"rbind\""),
            ("/a:/b:squashfs+threads=1", "unknown flag \"threads=1\""),
            ("tmpfs", "needs a target"),
            ("umount", "needs a target"),
            ("devpts:/dev/pts", "neither a path"),
            ("data:/data", "neither a path"),
            ("/a\0:/b", "NUL"),
        ] {
            let error = parse_mounts(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_targets_keep_their_form(text in "[/.a:+,=x\\-\u{0}é]{0,24}|.*") {
            for mount in parse_mounts(&text).into_iter().flatten() {
                let target = mount.target.to_str().unwrap();
                prop_assert!(target.starts_with('/') || target.starts_with('.'));
            }
        }
    }
}
