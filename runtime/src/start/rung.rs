//! Which rung of the ladder a start takes: the kernel, processes of the user, or a directory. Decided here, once for each
//! start, by taking the first rung that holds; so a kernel that can do it is asked nothing else. The trace says which it
//! was, and why.
#![forbid(unsafe_code)]

use super::Start;
use crate::error::{Error, Result};
use crate::image::file::{ImagesConfig, ReadBy, Trust, UserImages};
use crate::namespaces::user::switched_off;
use crate::report::Trace;
use crate::rootfs::reader::Reader;
use crate::rootfs::{Lower, Refused, Rung};
use crate::rootless;
use crate::sys::cgroup::Groups;
use crate::unpack::Unpacker;

/// Layers that want somebody to read them.
pub(super) struct Wanted<'a> {
    /// The layers.
    pub layers: &'a [Lower],
    /// What they are called in messages.
    pub image: &'a str,
    /// Who has made them.
    pub made: Made,
    /// They are mounted beside the root file system.
    pub data: bool,
}

/// Who has made layers.
pub(crate) enum Made {
    /// The runtime: they are packs of its store.
    Here,
    /// Somebody whom one can trust or not.
    Elsewhere(Trust),
}

/// Rungs to try, best first, and why the better ones are not among them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub rungs: &'static [ReadBy],
    pub reason: String,
}

impl Choice {
    /// What the site's settings leave to choose from.
    pub fn new(made: &Made, images: &ImagesConfig) -> Result<Self> {
        let theirs = match made {
            Made::Here => return Ok(Self::of_trusted("the runtime wrote it", images)),
            Made::Elsewhere(Trust::Trusted) => {
                return Ok(Self::of_trusted("only root and trusted owners can change it", images));
            }
            Made::Elsewhere(Trust::Untrusted(reason)) => reason.clone(),
        };
        let rungs: &[ReadBy] = match (images.user_images, images.read_by) {
            (UserImages::Kernel, _) => return Ok(Self::of_trusted("images.user_images says so", images)),
            (UserImages::Fuse, _) | (UserImages::Auto, ReadBy::Fuse) => &[ReadBy::Fuse],
            (UserImages::Unpack, _) | (UserImages::Auto, ReadBy::Unpack) => &[ReadBy::Unpack],
            (UserImages::Auto, ReadBy::Auto | ReadBy::Kernel) => &[ReadBy::Fuse, ReadBy::Unpack],
            (UserImages::Deny, _) => {
                return Err(Error::Denied(format!(
                    "the site's images.user_images = \"deny\" forbids image files that users can change: {theirs}"
                )));
            }
        };
        Ok(Choice { rungs, reason: theirs })
    }

    /// The same for what the kernel may see.
    fn of_trusted(reason: &str, images: &ImagesConfig) -> Self {
        let (rungs, reason): (&[ReadBy], &str) = match images.read_by {
            ReadBy::Auto => (&[ReadBy::Kernel, ReadBy::Fuse, ReadBy::Unpack], reason),
            ReadBy::Kernel => (&[ReadBy::Kernel], reason),
            ReadBy::Fuse => (&[ReadBy::Fuse], "images.read_by says so"),
            ReadBy::Unpack => (&[ReadBy::Unpack], "images.read_by says so"),
        };
        let reason = reason.to_owned();
        Choice { rungs, reason }
    }
}

impl Start<'_> {
    /// Takes the first rung that holds.
    pub(super) fn rung(&self, wanted: &Wanted<'_>, trace: &mut Trace) -> Result<Rung> {
        let Choice { rungs, mut reason } = Choice::new(&wanted.made, &self.config.images)?;
        let mut refusals = Vec::new();
        for rung in rungs {
            let taken = trace.phase("rung", || self.take(*rung, wanted));
            let error = match taken {
                Ok(taken) => {
                    let name = match wanted.data {
                        true => &format!("data_read_by {}", wanted.image),
                        false => "image_read_by",
                    };
                    trace.note(name, &format!("{}: {reason}", rung.reader()));
                    return Ok(taken);
                }
                Err(Refused::Now(error)) => return Err(error),
                Err(Refused::Here(error)) => error,
            };
            reason = error.to_string();
            refusals.push((*rung, error));
        }
        Err(all_refused(refusals))
    }

    fn take(&self, rung: ReadBy, wanted: &Wanted<'_>) -> std::result::Result<Rung, Refused> {
        if rung != ReadBy::Unpack && switched_off() {
            return Err(Refused::Here(Error::Host(
                "files of an image cannot be shown as the user's without user namespaces (user.max_user_namespaces is 0)"
                    .to_owned(),
            )));
        }
        match rung {
            ReadBy::Auto | ReadBy::Kernel if rootless::entered() => Err(Refused::Here(Error::Host(
                "only root can have the kernel mount it".to_owned(),
            ))),
            ReadBy::Auto | ReadBy::Kernel => Rung::kernel(wanted.layers, &self.job.identity),
            ReadBy::Fuse => self.reader(wanted).map(Rung::Fuse),
            ReadBy::Unpack if wanted.data => Err(Refused::Here(Error::Host(
                "only images are unpacked, and not files with data".to_owned(),
            ))),
            ReadBy::Unpack => {
                let groups = self.groups().map_err(Refused::Now)?;
                let unpacker = Unpacker::new(groups, &self.job.identity, wanted.image);
                Ok(Rung::Unpack(unpacker))
            }
        }
    }

    /// Who reads layers for the user, in the control groups of his task.
    fn reader(&self, wanted: &Wanted<'_>) -> std::result::Result<Reader, Refused> {
        let groups = self.groups().map_err(Refused::Now)?;
        let reader =
            Reader::new(&self.config.images.reader, groups, &self.job.identity, wanted.image).map_err(Refused::Here)?;
        if matches!(wanted.made, Made::Here) {
            wanted
                .layers
                .iter()
                .try_for_each(Lower::let_users_read)
                .map_err(Refused::Now)?;
        }
        Ok(reader)
    }

    fn groups(&self) -> Result<Groups> {
        Groups::of_task(self.job.task, self.job.identity.uid)
    }
}

/// One error of all rungs.
fn all_refused(mut refusals: Vec<(ReadBy, Error)>) -> Error {
    if refusals.len() == 1
        && let Some((_, error)) = refusals.pop()
    {
        return error;
    }
    let told = refusals
        .iter()
        .map(|(rung, error)| format!("{}: {error}", rung.reader()));
    let told: Vec<String> = told.collect();
    Error::Host(format!("nobody can read it here: {}", told.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(made: &Made, read_by: ReadBy, user_images: UserImages) -> Result<Choice> {
        let images = ImagesConfig {
            read_by,
            user_images,
            ..ImagesConfig::default()
        };
        Choice::new(made, &images)
    }

    #[test]
    fn the_kernel_is_first_where_it_may() {
        for made in [Made::Here, Made::Elsewhere(Trust::Trusted)] {
            let chosen = choice(&made, ReadBy::Auto, UserImages::Deny).unwrap();
            assert_eq!(chosen.rungs, [ReadBy::Kernel, ReadBy::Fuse, ReadBy::Unpack]);
            for one in [ReadBy::Kernel, ReadBy::Fuse, ReadBy::Unpack] {
                assert_eq!(choice(&made, one, UserImages::Auto).unwrap().rungs, [one]);
            }
        }
    }

    #[test]
    fn files_of_users_are_kept_from_the_kernel_unless_the_site_trusts_its_users() {
        let theirs = Made::Elsewhere(Trust::Untrusted("it is alice's".to_owned()));
        for (read_by, user_images, expected) in [
            (ReadBy::Auto, UserImages::Auto, &[ReadBy::Fuse, ReadBy::Unpack][..]),
            (ReadBy::Kernel, UserImages::Auto, &[ReadBy::Fuse, ReadBy::Unpack]),
            (ReadBy::Unpack, UserImages::Auto, &[ReadBy::Unpack]),
            (ReadBy::Fuse, UserImages::Auto, &[ReadBy::Fuse]),
            (ReadBy::Kernel, UserImages::Fuse, &[ReadBy::Fuse]),
            (ReadBy::Auto, UserImages::Unpack, &[ReadBy::Unpack]),
            (ReadBy::Fuse, UserImages::Kernel, &[ReadBy::Fuse]),
            (ReadBy::Kernel, UserImages::Kernel, &[ReadBy::Kernel]),
        ] {
            let chosen = choice(&theirs, read_by, user_images).unwrap();
            assert_eq!(chosen.rungs, expected, "{read_by:?} {user_images:?}");
        }
        let denied = choice(&theirs, ReadBy::Auto, UserImages::Deny).unwrap_err();
        assert!(
            matches!(&denied, Error::Denied(text) if text.contains("it is alice's")),
            "{denied}"
        );
    }

    #[test]
    fn who_refuses_is_told_with_the_reason() {
        let error = |text: &str| Error::Host(text.to_owned());
        assert_eq!(
            all_refused(vec![(ReadBy::Fuse, error("no device"))]),
            error("no device")
        );
        assert_eq!(
            all_refused(vec![
                (ReadBy::Kernel, error("too old")),
                (ReadBy::Fuse, error("no device"))
            ])
            .to_string(),
            "nobody can read it here: kernel: too old; squashfuse_ll: no device"
        );
    }
}
