//! Extended attributes as they are read.
#![forbid(unsafe_code)]

use super::super::format::{Fields, METADATA_SIZE, NAME_MAX, NO_TABLE, NO_XATTRS};
use super::super::xattr::{PREFIXES, VALUE_MAX};
use super::blocks::Blocks;
use super::broken;
use super::cursor::Cursor;
use super::source::ReadAt;
use crate::error::Result;

/// A name with its prefix, and a value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Attributes of one inode beyond which it is refused; Linux lists at most 64 KiB of names.
const COUNT_MAX: u32 = 10_000;
/// Bytes of one inode's attributes beyond which it is refused.
const BYTES_MAX: usize = 4 << 20;
/// Set in an attribute's type when its value is kept elsewhere, once for several.
const ELSEWHERE: u16 = 0x100;
/// Bytes of an entry of the table of sets.
const SET: u64 = 16;

/// Reads the sets of an image.
pub struct Xattrs {
    table: u64,
    values: u64,
    count: u32,
}

impl Xattrs {
    /// Reads the head of the table at `table`, if there is one.
    pub fn open<S: ReadAt>(blocks: &Blocks<S>, table: u64) -> Result<Self> {
        let mut head = [0; 16];
        if table != NO_TABLE {
            blocks.raw(table, &mut head)?;
        }
        let mut fields = Fields::new(&head);
        Ok(Xattrs {
            table,
            values: fields.u64(),
            count: fields.u32(),
        })
    }

    /// The attributes of the set `number`.
    pub fn set<S: ReadAt>(&self, blocks: &mut Blocks<S>, number: u32) -> Result<Vec<Xattr>> {
        if number == NO_XATTRS {
            return Ok(Vec::new());
        }
        if number >= self.count {
            return Err(broken("an inode has extended attributes that are not there"));
        }
        let place = u64::from(number).saturating_mul(SET);
        let (block, offset) = (place / METADATA_SIZE as u64, place % METADATA_SIZE as u64);
        let mut index = [0; 8];
        blocks.raw(
            self.table.saturating_add(16).saturating_add(block.saturating_mul(8)),
            &mut index,
        )?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes: [u8; 16] = Cursor::new(u64::from_le_bytes(index), offset).array(blocks)?;
        let mut fields = Fields::new(&bytes);
        let (reference, count) = (fields.u64(), fields.u32());
        if count > COUNT_MAX {
            return Err(too_many());
        }
        let mut cursor = Cursor::at_reference(self.values, reference)?;
        let (mut found, mut size) = (Vec::new(), 0_usize);
        for _ in 0..count {
            let (name, value) = self.one(blocks, &mut cursor)?;
            size = size.saturating_add(name.len()).saturating_add(value.len());
            if size > BYTES_MAX {
                return Err(too_many());
            }
            found.push((name, value));
        }
        Ok(found)
    }

    fn one<S: ReadAt>(&self, blocks: &mut Blocks<S>, cursor: &mut Cursor) -> Result<Xattr> {
        let head: [u8; 4] = cursor.array(blocks)?;
        let mut fields = Fields::new(&head);
        let (kind, size) = (fields.u16(), usize::from(fields.u16()));
        let prefix = PREFIXES.iter().find(|(number, _)| *number == kind & !ELSEWHERE);
        let (_, prefix) = prefix.ok_or_else(|| broken("an extended attribute is of no known kind"))?;
        let rest = cursor.bytes(blocks, size)?;
        let name = [*prefix, rest.as_slice()].concat();
        if size == 0 || name.len() > NAME_MAX || name.contains(&0) {
            return Err(broken("an extended attribute has an impossible name"));
        }
        let mut value = value(blocks, cursor)?;
        if kind & ELSEWHERE != 0 {
            let reference = value
                .try_into()
                .map_err(|_| broken("an extended attribute leads nowhere"))?;
            let mut there = Cursor::at_reference(self.values, u64::from_le_bytes(reference))?;
            value = self::value(blocks, &mut there)?;
        }
        Ok((name, value))
    }
}

fn value<S: ReadAt>(blocks: &mut Blocks<S>, cursor: &mut Cursor) -> Result<Vec<u8>> {
    let size = u32::from_le_bytes(cursor.array(blocks)?) as usize;
    if size > VALUE_MAX {
        return Err(broken("an extended attribute is longer than 64 KiB"));
    }
    cursor.bytes(blocks, size)
}

fn too_many() -> crate::error::Error {
    broken("a file has too many extended attributes")
}
