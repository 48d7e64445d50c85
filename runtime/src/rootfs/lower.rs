//! The first rung: layers that the kernel mounts, seen through a map of owners so that every file belongs to the user
//! (Linux 6.2 for squashfs).
#![forbid(unsafe_code)]

use super::Lower;
use crate::error::{Error, Result};
use crate::sys::loopdev::LoopDevice;
use crate::sys::mount::{Change, FsContext, mount_setattr};
use crate::sys::nodes::Nodes;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::FileType;
use rustix::mount::MountAttrFlags;

/// Why the kernel has not mounted a layer.
#[derive(Debug)]
pub enum Refused {
    /// It cannot on this machine, whatever the layer is: another rung may serve.
    Here(Error),
    /// The layer is wrong, or the machine is short of something. Another rung is no remedy.
    Now(Error),
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Here(error) | Refused::Now(error) => error,
        }
    }
}

impl Refused {
    /// A failure of the machine's means, unless they were only used up at the moment.
    fn means(error: Error) -> Self {
        match error.errno() {
            Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EIO | libc::EINTR) => Refused::Now(error),
            _ => Refused::Here(error),
        }
    }

    fn context(self, doing: &str) -> Self {
        match self {
            Refused::Here(error) => Refused::Here(error.context(doing)),
            Refused::Now(error) => Refused::Now(error.context(doing)),
        }
    }
}

/// Mounts squashfs layers, each attached nowhere: read-only, without devices and set-id, owner 0 seen through `idmap`.
pub fn mount(layers: &[Lower], idmap: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Refused> {
    let nodes = Nodes::default();
    let numbered = layers.iter().enumerate();
    let mounted = numbered.map(|(number, layer)| {
        squashfs(layer, idmap, &nodes)
            .map_err(|refused| refused.context(&format!("mount layer {} of {}", number + 1, layers.len())))
    });
    mounted.collect()
}

fn squashfs(layer: &Lower, idmap: BorrowedFd<'_>, nodes: &Nodes) -> Result<OwnedFd, Refused> {
    let device = LoopDevice::attach(&layer.file, layer.part, nodes).map_err(Refused::means)?;
    let context = FsContext::open("squashfs").map_err(Refused::means)?;
    let mount = mount_device(context, &device).map_err(|error| match unknown_compressor(&error) {
        true => Refused::Here(error),
        false => Refused::Now(error),
    })?;
    mount_setattr(&mount, Change::IdMap(idmap), false).map_err(|error| {
        Refused::means(match error.errno() {
            Some(libc::EINVAL) => {
                Error::Host("this kernel cannot map the owners of a squashfs file system (Linux 6.2 can)".into())
            }
            _ => error,
        })
    })?;
    Ok(mount)
}

fn mount_device(context: FsContext, device: &LoopDevice) -> Result<OwnedFd> {
    context.set_string("source", device.path())?;
    context.set_flag("ro")?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    context.mount(attributes)
}

/// The kernel was built without the layer's compressor, which it tells in words only (fs/squashfs/super.c,
/// `supported_squashfs_filesystem`).
fn unknown_compressor(error: &Error) -> bool {
    error.errno() == Some(libc::EINVAL) && error.to_string().contains("compression")
}

/// Looks at the superblock of a pack before anybody else does: one that is truncated gets a clear error.
pub(super) fn check_superblock(pack: BorrowedFd<'_>) -> Result<()> {
    let failed = |call: &str, error: rustix::io::Errno| Error::sys("look at a pack", call, error);
    let stat = rustix::fs::fstat(pack).map_err(|error| failed("fstat", error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::Image("a pack is not a regular file".into()));
    }
    let mut block = [0; 96];
    let count = rustix::io::pread(pack, &mut block, 0).map_err(|error| failed("pread", error))?;
    let bytes = |at: usize, size: usize| block.get(at..at + size).unwrap_or_default();
    let number = |at, size| {
        bytes(at, size)
            .iter()
            .rev()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    // Offsets as in the squashfs format: magic, s_major and s_minor at 28, bytes_used at 40.
    if count < block.len() || bytes(0, 4) != b"hsqs" || (number(28, 2), number(30, 2)) != (4, 0) {
        return Err(Error::Image(
            "a pack is not a squashfs 4.0 file; remove it from the store".into(),
        ));
    }
    if number(40, 8) > stat.st_size.unsigned_abs() {
        return Err(Error::Image(format!(
            "a pack is truncated ({} bytes of {}); remove it from the store",
            stat.st_size,
            number(40, 8)
        )));
    }
    Ok(())
}
