//! A look at a squashfs superblock before anything else reads the file: the kernel and squashfuse believe what stands
//! there. Pure: bytes and sizes in, an error that names what is wrong out. The format is that of
//! Documentation/filesystems/squashfs.rst of the kernel.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::pack::squashfs::format::{BLOCK_SIZES, METADATA_SIZE, NO_TABLE, SUPERBLOCK_SIZE, flag};

/// The first bytes of every squashfs file.
pub const MAGIC: &[u8; 4] = b"hsqs";
/// How many bytes [`check`] wants: the superblock and the longest block of compressor options.
pub const HEAD: usize = 128;

/// Checks the superblock in `head`, the first bytes of a file system that has `size` bytes of room.
pub fn check(head: &[u8], size: u64) -> Result<()> {
    let head = Head(head);
    if head.0.len() < usize::try_from(SUPERBLOCK_SIZE).unwrap_or(usize::MAX) {
        return Err(bad("it is shorter than a superblock"));
    }
    if head.bytes(0, 4) != MAGIC {
        return Err(bad("it does not begin as one"));
    }
    let version = (head.u16(28), head.u16(30));
    if version != (4, 0) {
        return Err(bad(&format!(
            "its version is {}.{}, and only 4.0 can be read",
            version.0, version.1
        )));
    }
    check_blocks(&head)?;
    check_compressor(&head)?;
    check_places(&head, size)
}

fn bad(why: &str) -> Error {
    Error::Image(format!("not a good squashfs file system: {why}"))
}

/// Little-endian numbers at their places; what lies outside is zero, and no place that is looked at does.
struct Head<'a>(&'a [u8]);

impl Head<'_> {
    fn bytes(&self, at: usize, length: usize) -> &[u8] {
        self.0.get(at..at + length).unwrap_or_default()
    }

    fn number(&self, at: usize, length: usize) -> u64 {
        let bytes = self.bytes(at, length).iter().rev();
        bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn u16(&self, at: usize) -> u16 {
        u16::try_from(self.number(at, 2)).unwrap_or(0)
    }

    fn u32(&self, at: usize) -> u32 {
        u32::try_from(self.number(at, 4)).unwrap_or(0)
    }

    fn u64(&self, at: usize) -> u64 {
        self.number(at, 8)
    }
}

fn check_blocks(head: &Head<'_>) -> Result<()> {
    let (size, log) = (head.u32(12), head.u16(22));
    if !size.is_power_of_two() || !BLOCK_SIZES.contains(&size) {
        return Err(bad(&format!(
            "its blocks have {size} bytes, not a power of two from 4096 to 1048576"
        )));
    }
    if u32::from(log) != size.trailing_zeros() {
        return Err(bad(&format!(
            "its block size {size} and the logarithm {log} of it contradict each other"
        )));
    }
    Ok(())
}

/// A compressor, as the superblock numbers it.
struct Compressor {
    name: &'static str,
    /// Bytes of its options.
    options: u16,
    /// The options are believable.
    good: fn(&Head<'_>) -> bool,
}

/// Where the options begin: behind the superblock and their own length.
const OPTIONS: usize = 98;

fn compressor(number: u16) -> Option<Compressor> {
    let (name, options, good): (_, _, fn(&Head<'_>) -> bool) = match number {
        1 => ("gzip", 8, |head| {
            (1..=9).contains(&head.u32(OPTIONS)) && (8..=15).contains(&head.u16(OPTIONS + 4))
        }),
        3 => ("lzo", 8, |head| head.u32(OPTIONS) <= 4 && head.u32(OPTIONS + 4) <= 9),
        4 => ("xz", 8, |head| good_dictionary(head.u32(OPTIONS), head.u32(12))),
        5 => ("lz4", 8, |head| head.u32(OPTIONS) == 1),
        6 => ("zstd", 4, |head| (1..=22).contains(&head.u32(OPTIONS))),
        _ => return None,
    };
    Some(Compressor { name, options, good })
}

/// The kernel takes 2^n and 2^n + 2^(n+1) from 8 KiB to the block size.
fn good_dictionary(size: u32, block: u32) -> bool {
    let shape = size >> size.trailing_zeros().min(31);
    (8192..=block.max(8192)).contains(&size) && (shape == 1 || shape == 3)
}

fn check_compressor(head: &Head<'_>) -> Result<()> {
    let number = head.u16(20);
    let compressor = match compressor(number) {
        Some(compressor) => compressor,
        None if number == 2 => return Err(bad("it is compressed with lzma, which the kernel cannot read; use xz")),
        None => return Err(bad(&format!("its compressor {number} is unknown"))),
    };
    if head.u16(24) & flag::COMPRESSOR_OPTIONS == 0 {
        // lz4 has more than one format, so its options must say which.
        return match number {
            5 => Err(bad("the options of its compressor lz4 are missing")),
            _ => Ok(()),
        };
    }
    let stored = 0x8000 | compressor.options;
    if head.u16(96) != stored || head.0.len() < OPTIONS + usize::from(compressor.options) || !(compressor.good)(head) {
        return Err(bad(&format!(
            "the options of its compressor {} make no sense",
            compressor.name
        )));
    }
    Ok(())
}

/// Every table begins within the file system, in the order in which the kernel wants them.
fn check_places(head: &Head<'_>, size: u64) -> Result<()> {
    let used = head.u64(40);
    if used > size {
        return Err(Error::Image(format!("it is truncated: {size} bytes of {used}")));
    }
    let table = |name: &'static str, at: usize| (name, head.u64(at));
    let mut tables = vec![table("inode", 64), table("directory", 72)];
    if head.u32(16) != 0 {
        tables.push(table("fragment", 80));
    }
    tables.extend(
        [("export", 88)]
            .map(|(name, at)| table(name, at))
            .into_iter()
            .filter(is_there),
    );
    tables.push(table("id", 48));
    tables.extend(
        [("xattr", 56)]
            .map(|(name, at)| table(name, at))
            .into_iter()
            .filter(is_there),
    );
    let mut before = ("superblock", SUPERBLOCK_SIZE - 1);
    for (name, place) in tables {
        let ordered = place > before.1 || (place == before.1 && name == "fragment");
        if !ordered || place >= used {
            return Err(bad(&format!(
                "its {name} table at {place} is outside of it, or not behind its {} ({} bytes are used)",
                before.0, used
            )));
        }
        before = (name, place);
    }
    check_root(head)
}

fn is_there(table: &(&str, u64)) -> bool {
    table.1 != NO_TABLE
}

fn check_root(head: &Head<'_>) -> Result<()> {
    let root = head.u64(32);
    let room = head.u64(72).saturating_sub(head.u64(64));
    let offset = usize::try_from(root & 0xffff).unwrap_or(usize::MAX);
    if head.u32(4) == 0 || head.u16(26) == 0 || offset >= METADATA_SIZE || root >> 16 >= room {
        return Err(bad("it has no root directory"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What mksquashfs wrote for a small tree with fragments, export table and attributes (zstd, 128 KiB blocks).
    fn good() -> Vec<u8> {
        let mut head = vec![0; HEAD];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(4, &5_u32.to_le_bytes());
        put(12, &131_072_u32.to_le_bytes());
        put(16, &1_u32.to_le_bytes());
        put(20, &6_u16.to_le_bytes());
        put(22, &17_u16.to_le_bytes());
        put(24, &(flag::COMPRESSOR_OPTIONS | flag::EXPORTABLE).to_le_bytes());
        put(26, &1_u16.to_le_bytes());
        put(28, &[4, 0, 0, 0]);
        put(32, &0x20_u64.to_le_bytes());
        for (at, place) in [
            (40, 900_u64),
            (48, 700),
            (56, 800),
            (64, 300),
            (72, 400),
            (80, 500),
            (88, 600),
        ] {
            put(at, &place.to_le_bytes());
        }
        put(96, &0x8004_u16.to_le_bytes());
        put(98, &15_u32.to_le_bytes());
        head
    }

    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut head = good();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        head
    }

    #[test]
    fn a_good_one() {
        check(&good(), 4096).unwrap();
        check(&good(), 900).unwrap();
        for optional in [56, 88] {
            check(&with(optional, &[0xff; 8]), 4096).unwrap();
        }
        let mut stored = with(24, &[0, 0]);
        for id in [1_u16, 3, 4, 6] {
            stored[20..22].copy_from_slice(&id.to_le_bytes());
            check(&stored, 4096).unwrap();
        }
    }

    #[test]
    fn each_lie_is_named() {
        for (head, why) in [
            (with(0, b"sqsh"), "does not begin as one"),
            (with(28, &[3, 0, 1, 0]), "its version is 3.1"),
            (
                with(12, &(1_u32 << 31).to_le_bytes()),
                "its blocks have 2147483648 bytes",
            ),
            (with(12, &0_u32.to_le_bytes()), "its blocks have 0 bytes"),
            (with(22, &[63, 0]), "the logarithm 63"),
            (with(20, &[2, 0]), "lzma"),
            (with(20, &[9, 0]), "its compressor 9 is unknown"),
            (with(20, &[5, 0]), "options of its compressor lz4"),
            (with(96, &[0xff, 0x7f]), "options of its compressor zstd"),
            (with(98, &[0xff; 4]), "options of its compressor zstd"),
            (with(40, &901_u64.to_le_bytes()), "truncated: 900 bytes of 901"),
            (with(64, &95_u64.to_le_bytes()), "its inode table at 95"),
            (with(64, &u64::MAX.to_le_bytes()), "its inode table"),
            (with(72, &300_u64.to_le_bytes()), "its directory table"),
            (with(80, &(1_u64 << 63).to_le_bytes()), "its fragment table"),
            (with(88, &450_u64.to_le_bytes()), "its export table"),
            (with(48, &900_u64.to_le_bytes()), "its id table"),
            (with(56, &100_u64.to_le_bytes()), "its xattr table"),
            (with(4, &[0; 4]), "no root directory"),
            (with(26, &[0; 2]), "no root directory"),
            (with(32, &0x2000_u64.to_le_bytes()), "no root directory"),
            (with(32, &(100_u64 << 16).to_le_bytes()), "no root directory"),
            (good()[..90].to_vec(), "shorter than a superblock"),
        ] {
            let error = check(&head, 900).unwrap_err();
            assert!(matches!(error, Error::Image(_)));
            assert!(error.to_string().contains(why), "{error} lacks {why}");
        }
    }

    #[test]
    fn dictionaries_of_xz() {
        for (size, good) in [
            (8192, true),
            (12_288, true),
            (131_072, true),
            (196_608, false),
            (9000, false),
            (0, false),
        ] {
            assert_eq!(good_dictionary(size, 131_072), good, "{size}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..HEAD), size: u64) {
            let mut head = bytes;
            let _ = check(&head, size);
            if head.len() >= 4 {
                head[..4].copy_from_slice(MAGIC);
                let _ = check(&head, size);
            }
        }
    }
}
