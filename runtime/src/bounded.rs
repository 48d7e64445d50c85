//! Reading what somebody else wrote: never more than a bound.
#![forbid(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Read, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Opens a regular file, without waiting for anybody; `None` when it cannot be opened, or is something else.
pub fn open(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    file.metadata().ok()?.is_file().then_some(file)
}

/// All of `from`; `None` when it is more than `most` bytes.
pub fn read(from: impl Read, most: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// Pieces of a file: as many bytes from an offset, or fewer at its end; `None` when it cannot be read.
pub fn at(file: &File) -> impl Fn(u64, usize) -> Option<Vec<u8>> {
    |offset, length| {
        let mut bytes = vec![0; length];
        let read = file.read_at(&mut bytes, offset).ok()?;
        bytes.truncate(read);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_more_than_allowed_is_not_given() {
        assert_eq!(read(&b"1234"[..], 4).unwrap().as_deref(), Some(&b"1234"[..]));
        assert_eq!(read(&b"12345"[..], 4).unwrap(), None);
        assert_eq!(read(std::io::repeat(0), 4).unwrap(), None);
    }
}
