//! Which rung of the ladder images take on this machine: a container is made on each, of a tiny image, and goes away again.
#![forbid(unsafe_code)]

use super::{Finding, Node, ROOTS, Subject, probe, squashfs};
use crate::config::ContainerConfig;
use crate::containers;
use crate::error::{Error, Result};
use crate::image::file::{ImagesConfig, ReadBy, Trust};
use crate::namespaces::{self, Namespaces};
use crate::pack::Compression;
use crate::plan::{self, Host, Identity, Plan};
use crate::report::is_readable;
use crate::request::Request;
use crate::rootfs::reader::Reader;
use crate::rootfs::{Base, Data, Lower, Lowers, Rung, Writable};
use crate::start::rung::{Choice, Made};
use crate::sys::cgroup::Groups;
use crate::unpack::Unpacker;
use crate::worker::protocol::Accounts;
use rustix::event::Timespec;
use rustix::fd::AsFd;
use rustix::mount::MountFlags;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

const KERNEL: Subject = Subject::new("container.kernel", "container, read by the kernel");
const FUSE: Subject = Subject::new("container.fuse", "container, read by FUSE");
const UNPACK: Subject = Subject::new("container.unpack", "container, unpacked");
const REGISTRY: Subject = Subject::new("images.registry", "images of registries");
const TRUSTED: Subject = Subject::new("images.trusted_files", "image files of the site");
const FILES: Subject = Subject::new("images.user_files", "image files of users");

/// How long the reader of a container that is gone may take to end.
const LEAVE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// What came of the three containers, with how long they took in milliseconds.
struct Tried {
    kernel: Result<u64>,
    fuse: Result<u64>,
    unpack: Result<u64>,
}

impl Tried {
    /// Whether the rung holds.
    fn holds(&self, rung: ReadBy) -> bool {
        match rung {
            ReadBy::Auto | ReadBy::Kernel => self.kernel.is_ok(),
            ReadBy::Fuse => self.fuse.is_ok(),
            ReadBy::Unpack => self.unpack.is_ok(),
        }
    }
}

pub fn look(node: &Node<'_>) -> Vec<Finding> {
    if !node.is_root() {
        return [KERNEL, FUSE, UNPACK, REGISTRY, TRUSTED, FILES]
            .map(|subject| subject.skip(ROOTS))
            .into();
    }
    let images = &node.config.images;
    let user = node.somebody();
    let plan = plan(&user, &node.config.container);
    let by_kernel = |layers: &[Lower]| Ok(Rung::kernel(layers, &user)?);
    let by_fuse = |_: &[Lower]| Reader::new(&images.reader, Groups::default(), &user, "the image").map(Rung::Fuse);
    let tried = Tried {
        kernel: container(&plan, by_kernel),
        fuse: container(&plan, by_fuse),
        unpack: unpacked(&plan, &user),
    };
    judge(&tried, images)
}

/// Makes a container and lets it go.
fn container(plan: &Plan, rung: impl FnOnce(&[Lower]) -> Result<Rung>) -> Result<u64> {
    let file = squashfs::file(Compression::None, None)?;
    probe::attempt(&[file.as_fd()], || {
        let started = Instant::now();
        let layers = layers(&file)?;
        let rung = rung(&layers)?;
        let lowers = Lowers {
            layers,
            user_marks: rung.has_user_marks(),
            rung,
            own_files: None,
        };
        let base = Base::Layers {
            lowers: &lowers,
            writable: Writable::Scratch,
        };
        let Namespaces { readers, .. } = namespaces::make(plan, &base, &Data::default(), &mut |_| ())?;
        let time = milliseconds(started);
        for reader in readers {
            if !is_readable(&reader, LEAVE).map_err(|error| Error::sys("wait for the reader", "poll", error))? {
                return Err(Error::Host("the reader does not end with its container".into()));
            }
        }
        Ok(time)
    })
}

/// The same, unpacked: in memory, as what the disk is like is said elsewhere.
fn unpacked(plan: &Plan, user: &Identity) -> Result<u64> {
    let file = squashfs::file(Compression::None, None)?;
    probe::attempt(&[file.as_fd()], || {
        let started = Instant::now();
        probe::own_mounts()?;
        let place = Path::new("/tmp");
        rustix::mount::mount("tmpfs", place, "tmpfs", MountFlags::empty(), Some(c"mode=0755"))
            .map_err(|error| Error::sys("make room for a container", "mount(tmpfs)", error))?;
        let data = containers::Data::open(place, user)?;
        let unnamed = data.unnamed("check")?;
        let unpacker = Unpacker::new(Groups::default(), user, "the image");
        unpacker.unpack(&layers(&file)?, &unnamed.kept().root()?, |_| ())?;
        let base = Base::Directory {
            mount: unnamed.kept().root_mount()?,
            own_files: None,
        };
        namespaces::make(plan, &base, &Data::default(), &mut |_| ())?;
        Ok(milliseconds(started))
    })
}

fn layers(file: &File) -> Result<Vec<Lower>> {
    let copy = file
        .try_clone()
        .map_err(|error| Error::sys("copy a descriptor", "fcntl", error))?;
    Ok(vec![Lower::pack(copy.into())?])
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A container as a job gets it that asks for nothing.
fn plan(user: &Identity, site: &ContainerConfig) -> Plan {
    let host = Host {
        identity: user.clone(),
        accounts: Accounts::default(),
        env: BTreeMap::new(),
        cwd: PathBuf::from("/"),
        script: None,
        stand_ins: Vec::new(),
        localtime: None,
        device_mounts: Vec::new(),
    };
    plan::plan(&Request::default(), site, &host)
}

/// What that means for images. Pure.
fn judge(tried: &Tried, images: &ImagesConfig) -> Vec<Finding> {
    let made = |subject: Subject, result: &Result<u64>, advice: &str| match result {
        Ok(time) => subject.ok(format!("made in {time} ms")),
        Err(error) => subject.warn(error.to_string(), advice),
    };
    let users = Trust::Untrusted("users can change them".to_owned());
    vec![
        made(
            KERNEL,
            &tried.kernel,
            "see squashfs.* and overlay.root; Linux 6.2 has all that is needed",
        ),
        made(
            FUSE,
            &tried.fuse,
            "see fuse.* and overlay.user; the package squashfuse and the module fuse are needed",
        ),
        made(UNPACK, &tried.unpack, "see kernel.landlock and data.directory"),
        taken(REGISTRY, &Made::Here, tried, images),
        taken(TRUSTED, &Made::Elsewhere(Trust::Trusted), tried, images),
        taken(FILES, &Made::Elsewhere(users), tried, images),
    ]
}

/// The rung that a start takes for such images, among those that the site's settings leave.
fn taken(subject: Subject, made: &Made, tried: &Tried, images: &ImagesConfig) -> Finding {
    let Choice { rungs, reason } = match Choice::new(made, images) {
        Ok(choice) => choice,
        Err(_) => return subject.ok("are refused: images.user_images in pyxis.toml says so"),
    };
    let theirs = matches!(made, Made::Elsewhere(Trust::Untrusted(_)));
    let best = rungs.first();
    match rungs.iter().find(|rung| tried.holds(**rung)) {
        Some(ReadBy::Kernel) if theirs => subject.warn(
            format!("the kernel mounts them: {reason}. A hostile file can crash it"),
            "set images.user_images = \"auto\" in pyxis.toml, unless all users are trusted with that",
        ),
        Some(rung) if Some(rung) == best => subject.ok(format!("{}: {reason}", does(*rung))),
        Some(rung) => subject.warn(
            format!("{}, which is slower: the better way does not work", does(*rung)),
            format!("see container.{}", best.map_or("kernel", |best| best.name())),
        ),
        None => {
            let ways: Vec<_> = rungs.iter().map(|rung| format!("container.{}", rung.name())).collect();
            let (fact, advice) = ("nothing reads them here", format!("see {}", ways.join(" and ")));
            // Files of users may matter to nobody; images of registries are what everybody has.
            match subject == REGISTRY {
                true => subject.fail(fact, advice),
                false => subject.warn(fact, advice),
            }
        }
    }
}

fn does(rung: ReadBy) -> &'static str {
    match rung {
        ReadBy::Auto | ReadBy::Kernel => "the kernel mounts them",
        ReadBy::Fuse => "squashfuse_ll reads them, as the user",
        ReadBy::Unpack => "they are unpacked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::image::file::UserImages;

    fn found([kernel, fuse, unpack]: [bool; 3], user_images: UserImages, read_by: ReadBy) -> Vec<Finding> {
        let result = |good: bool| match good {
            true => Ok(3),
            false => Err(Error::Host("no".into())),
        };
        let tried = Tried {
            kernel: result(kernel),
            fuse: result(fuse),
            unpack: result(unpack),
        };
        let images = ImagesConfig {
            user_images,
            read_by,
            ..ImagesConfig::default()
        };
        judge(&tried, &images)
    }

    fn statuses(found: &[Finding]) -> [Status; 3] {
        [REGISTRY, TRUSTED, FILES].map(|subject| found.iter().find(|found| found.id == subject.id).unwrap().status)
    }

    #[test]
    fn each_kind_of_image_takes_the_best_rung_that_there_is() {
        use Status::{Fail, Ok, Warn};
        for (kernel, fuse, unpack, policy, read_by, expected) in [
            (true, true, true, UserImages::Auto, ReadBy::Auto, [Ok, Ok, Ok]),
            (false, true, true, UserImages::Auto, ReadBy::Auto, [Warn, Warn, Ok]),
            (true, false, true, UserImages::Auto, ReadBy::Auto, [Ok, Ok, Warn]),
            (true, false, false, UserImages::Deny, ReadBy::Auto, [Ok, Ok, Ok]),
            (true, true, true, UserImages::Kernel, ReadBy::Auto, [Ok, Ok, Warn]),
            (false, false, true, UserImages::Auto, ReadBy::Auto, [Warn, Warn, Warn]),
            (false, false, false, UserImages::Auto, ReadBy::Auto, [Fail, Warn, Warn]),
            (false, true, true, UserImages::Auto, ReadBy::Fuse, [Ok, Ok, Ok]),
            (true, false, true, UserImages::Auto, ReadBy::Fuse, [Fail, Warn, Warn]),
            (false, true, true, UserImages::Auto, ReadBy::Kernel, [Fail, Warn, Ok]),
            (true, true, true, UserImages::Auto, ReadBy::Unpack, [Ok, Ok, Ok]),
            (true, true, false, UserImages::Auto, ReadBy::Unpack, [Fail, Warn, Warn]),
        ] {
            let found = found([kernel, fuse, unpack], policy, read_by);
            assert_eq!(
                statuses(&found),
                expected,
                "{kernel} {fuse} {unpack} {policy:?} {read_by:?}: {found:?}"
            );
        }
    }

    #[test]
    fn the_advice_leads_to_what_does_not_work() {
        let text = |found: &[Finding], subject: Subject| {
            let found = found.iter().find(|found| found.id == subject.id).unwrap();
            format!("{}; {}", found.fact, found.advice.as_deref().unwrap_or_default())
        };
        let slower = found([false, true, true], UserImages::Auto, ReadBy::Auto);
        assert!(text(&slower, REGISTRY).ends_with("; see container.kernel"));
        let none = found([false; 3], UserImages::Auto, ReadBy::Auto);
        assert!(text(&none, REGISTRY).ends_with("; see container.kernel and container.fuse and container.unpack"));
    }
}
