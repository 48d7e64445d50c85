//! The squashfs 4.0 format as constants and plain structures (the kernel's fs/squashfs/squashfs_fs.h and
//! Documentation/filesystems/squashfs.rst are the reference). Nothing here does any input or output.
#![forbid(unsafe_code)]

/// "hsqs" in little endian, the first four bytes of every image.
pub const MAGIC: u32 = 0x7371_7368;
/// Bytes of the superblock.
pub const SUPERBLOCK_SIZE: u64 = 96;
/// Uncompressed bytes of a full metadata block.
pub const METADATA_SIZE: usize = 8192;
/// Set in a metadata block's length word when the block is stored as it is.
pub const METADATA_STORED: u16 = 0x8000;
/// Set in a data block's or fragment's size word when it is stored as it is.
pub const DATA_STORED: u32 = 1 << 24;
/// The fragment index of a file without a tail in a fragment.
pub const NO_FRAGMENT: u32 = u32::MAX;
/// The xattr index of an inode without extended attributes.
pub const NO_XATTRS: u32 = u32::MAX;
/// The place of a table that is not there.
pub const NO_TABLE: u64 = u64::MAX;
/// Entries under one directory header.
pub const DIRECTORY_RUN: usize = 256;
/// The longest file name (NAME_MAX of Linux; the format could hold 256).
pub const NAME_MAX: usize = 255;
/// Smallest and largest data block.
pub const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4096..=1 << 20;
/// Images are padded to this, so that a loop device sees whole sectors of any size.
pub const PADDING: u64 = 4096;

/// Superblock flags.
pub mod flag {
    /// Inodes are stored as they are.
    pub const STORED_INODES: u16 = 0x0001;
    /// Data blocks are stored as they are.
    pub const STORED_DATA: u16 = 0x0002;
    /// Fragments are stored as they are.
    pub const STORED_FRAGMENTS: u16 = 0x0008;
    /// There are no fragments.
    pub const NO_FRAGMENTS: u16 = 0x0010;
    /// Tails of files longer than a block go to fragments as well.
    pub const ALWAYS_FRAGMENTS: u16 = 0x0020;
    /// There is an export (NFS lookup) table.
    pub const EXPORTABLE: u16 = 0x0080;
    /// Extended attributes are stored as they are.
    pub const STORED_XATTRS: u16 = 0x0100;
    /// There are no extended attributes.
    pub const NO_XATTRS: u16 = 0x0200;
    /// Compressor options follow the superblock.
    pub const COMPRESSOR_OPTIONS: u16 = 0x0400;
    /// Ids are stored as they are.
    pub const STORED_IDS: u16 = 0x0800;
}

/// Inode types; the extended form of a basic type is `basic + EXTENDED`.
pub mod kind {
    /// Directory.
    pub const DIRECTORY: u16 = 1;
    /// Regular file.
    pub const FILE: u16 = 2;
    /// Symbolic link.
    pub const SYMLINK: u16 = 3;
    /// Block device.
    pub const BLOCK_DEVICE: u16 = 4;
    /// Character device.
    pub const CHAR_DEVICE: u16 = 5;
    /// Named pipe.
    pub const FIFO: u16 = 6;
    /// Socket.
    pub const SOCKET: u16 = 7;
    /// Added to a basic type for its extended form.
    pub const EXTENDED: u16 = 7;
}

/// Little-endian fields appended to a byte vector.
pub trait Append {
    /// Appends two bytes.
    fn u16(&mut self, value: u16);
    /// Appends four bytes.
    fn u32(&mut self, value: u32);
    /// Appends eight bytes.
    fn u64(&mut self, value: u64);
}

impl Append for Vec<u8> {
    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
}

/// The superblock: where everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Number of inodes.
    pub inodes: u32,
    /// Time of creation, in seconds since 1970.
    pub time: u32,
    /// Size of data blocks, a power of two.
    pub block_size: u32,
    /// Number of fragments.
    pub fragments: u32,
    /// Compressor id.
    pub compressor: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Number of ids.
    pub ids: u16,
    /// Reference of the root inode.
    pub root: u64,
    /// Bytes of the image without its padding.
    pub bytes_used: u64,
    /// Place of the id table.
    pub id_table: u64,
    /// Place of the xattr id table.
    pub xattr_table: u64,
    /// Place of the first inode.
    pub inode_table: u64,
    /// Place of the first directory listing.
    pub directory_table: u64,
    /// Place of the fragment table.
    pub fragment_table: u64,
    /// Place of the export table.
    pub export_table: u64,
}

impl Superblock {
    /// The bytes at the start of the image.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(96);
        bytes.u32(MAGIC);
        bytes.u32(self.inodes);
        bytes.u32(self.time);
        bytes.u32(self.block_size);
        bytes.u32(self.fragments);
        bytes.u16(self.compressor);
        bytes.u16(u16::try_from(self.block_size.trailing_zeros()).unwrap_or(0));
        bytes.u16(self.flags);
        bytes.u16(self.ids);
        bytes.u16(4);
        bytes.u16(0);
        for place in [
            self.root,
            self.bytes_used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        ] {
            bytes.u64(place);
        }
        bytes
    }
}

impl Superblock {
    /// Reads it back. Only what every reader depends on is judged: magic, version, block size, and that all places are
    /// inside of the image and of the file of `file_size` bytes. The text of an error says what is wrong.
    pub fn decode(bytes: &[u8; SUPERBLOCK_SIZE as usize], file_size: u64) -> Result<Superblock, String> {
        let mut fields = Fields::new(bytes);
        if fields.u32() != MAGIC {
            return Err("it does not begin like one".to_owned());
        }
        let (inodes, time, block_size, fragments) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
        let (compressor, block_log, flags, ids) = (fields.u16(), fields.u16(), fields.u16(), fields.u16());
        let version = (fields.u16(), fields.u16());
        let superblock = Superblock {
            inodes,
            time,
            block_size,
            fragments,
            compressor,
            flags,
            ids,
            root: fields.u64(),
            bytes_used: fields.u64(),
            id_table: fields.u64(),
            xattr_table: fields.u64(),
            inode_table: fields.u64(),
            directory_table: fields.u64(),
            fragment_table: fields.u64(),
            export_table: fields.u64(),
        };
        if version != (4, 0) {
            return Err(format!(
                "it has version {}.{}, and only 4.0 is known",
                version.0, version.1
            ));
        }
        if !BLOCK_SIZES.contains(&block_size) || 1_u32.checked_shl(u32::from(block_log)) != Some(block_size) {
            return Err(format!("it has blocks of {block_size} bytes"));
        }
        superblock.check_places(file_size).map(|()| superblock)
    }

    fn check_places(&self, file_size: u64) -> Result<(), String> {
        if self.bytes_used > file_size {
            let size = self.bytes_used;
            return Err(format!("it is truncated ({file_size} bytes of {size})"));
        }
        let inside = |place: u64| (SUPERBLOCK_SIZE..self.bytes_used).contains(&place);
        let needed = [self.id_table, self.inode_table, self.directory_table];
        let optional = [self.xattr_table, self.fragment_table, self.export_table];
        if !needed.into_iter().all(inside) || !optional.into_iter().all(|place| place == NO_TABLE || inside(place)) {
            return Err("a table lies outside of it".to_owned());
        }
        if self.inode_table >= self.directory_table || (self.fragments > 0 && self.fragment_table == NO_TABLE) {
            return Err("its tables contradict one another".to_owned());
        }
        Ok(())
    }
}

/// Little-endian fields read one after the other; zero past the end, so the caller sees to it that there are enough.
pub struct Fields<'b> {
    rest: &'b [u8],
}

impl<'b> Fields<'b> {
    /// Begins at the first of `bytes`.
    pub fn new(bytes: &'b [u8]) -> Self {
        Fields { rest: bytes }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.rest = rest;
                *field
            }
            None => [0; N],
        }
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Where something begins in a table of metadata blocks: the block's place from the table's start, and the offset in
/// its uncompressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Place of the block, its length word included, from the start of the table.
    pub block: u32,
    /// Offset in the uncompressed block, below [`METADATA_SIZE`].
    pub offset: u16,
}

impl Position {
    /// As inode references and xattr references hold it.
    pub fn reference(self) -> u64 {
        (u64::from(self.block) << 16) | u64::from(self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_has_its_fields_where_the_kernel_reads_them() {
        let bytes = Superblock {
            inodes: 1,
            time: 2,
            block_size: 131_072,
            fragments: 3,
            compressor: 6,
            flags: 4,
            ids: 5,
            root: 6,
            bytes_used: 7,
            id_table: 8,
            xattr_table: 9,
            inode_table: 10,
            directory_table: 11,
            fragment_table: 12,
            export_table: 13,
        }
        .encode();
        assert_eq!(bytes.len() as u64, SUPERBLOCK_SIZE);
        assert_eq!(&bytes[..4], b"hsqs");
        assert_eq!(&bytes[20..32], &[6, 0, 17, 0, 4, 0, 5, 0, 4, 0, 0, 0]);
        assert_eq!(bytes[40], 7, "bytes_used");
        assert_eq!(bytes[88], 13, "export table");
    }

    fn plausible() -> Superblock {
        Superblock {
            inodes: 1,
            time: 2,
            block_size: 131_072,
            fragments: 0,
            compressor: 6,
            flags: 4,
            ids: 5,
            root: 6,
            bytes_used: 200,
            id_table: 180,
            xattr_table: NO_TABLE,
            inode_table: 100,
            directory_table: 110,
            fragment_table: NO_TABLE,
            export_table: NO_TABLE,
        }
    }

    fn decoded(change: impl FnOnce(&mut Superblock)) -> Result<Superblock, String> {
        let mut superblock = plausible();
        change(&mut superblock);
        Superblock::decode(&superblock.encode().try_into().unwrap(), 4096)
    }

    #[test]
    fn a_superblock_comes_back() {
        assert_eq!(decoded(|_| ()), Ok(plausible()));
    }

    #[test]
    fn superblocks_that_lie_are_refused() {
        assert!(
            decoded(|block| block.bytes_used = 4097)
                .unwrap_err()
                .contains("truncated")
        );
        assert!(decoded(|block| block.block_size = 2048).is_err());
        assert!(decoded(|block| block.id_table = 200).is_err());
        assert!(decoded(|block| block.id_table = NO_TABLE).is_err());
        assert!(decoded(|block| block.directory_table = 100).is_err());
        assert!(decoded(|block| block.fragments = 1).is_err());
        assert!(decoded(|block| block.xattr_table = 95).is_err());
        let mut bytes: [u8; 96] = plausible().encode().try_into().unwrap();
        bytes[22] = 16;
        assert!(
            Superblock::decode(&bytes, 4096).is_err(),
            "block_log and block_size differ"
        );
        bytes[0] = b'x';
        assert!(Superblock::decode(&bytes, 4096).is_err());
    }
}
