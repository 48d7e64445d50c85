//! The inode table from front to back, without the tree: who uses which fragment.
#![forbid(unsafe_code)]

use super::super::format::{Fields, NO_FRAGMENT};
use super::cursor::Cursor;
use super::inode::Content;
use super::source::ReadAt;
use super::{Reader, broken};
use crate::error::Result;
use std::collections::HashMap;

/// Fragments beyond which an image is refused: 1 TiB of small files.
const FRAGMENTS_MAX: usize = 8 << 20;

impl<S: ReadAt> Reader<S> {
    /// How many files have their end in each fragment, whether the tree names them or not.
    pub fn fragment_uses(&self) -> Result<HashMap<u32, u32>> {
        let mut uses = HashMap::new();
        let mut cursor = Cursor::new(self.superblock.inode_table, 0);
        while cursor.position().0 < self.superblock.directory_table {
            let inode = self.read_inode(&mut cursor)?;
            match inode.content {
                Content::File(file) => {
                    if file.fragment != NO_FRAGMENT {
                        let count = uses.entry(file.fragment).or_insert(0_u32);
                        *count = count.saturating_add(1);
                    }
                    self.skip(&mut cursor, file.blocks.saturating_mul(4))?;
                }
                Content::Directory(listing) => {
                    for _ in 0..listing.indexes {
                        let bytes: [u8; 12] = cursor.array(&mut self.blocks.borrow_mut())?;
                        let mut fields = Fields::new(&bytes);
                        let (_offset, _block, name) = (fields.u32(), fields.u32(), fields.u32());
                        self.skip(&mut cursor, u64::from(name).saturating_add(1))?;
                    }
                }
                _ => {}
            }
            if uses.len() > FRAGMENTS_MAX {
                return Err(broken("it has too many fragments"));
            }
        }
        Ok(uses)
    }

    /// Goes on to what comes `size` bytes later, a block at a time.
    fn skip(&self, cursor: &mut Cursor, mut size: u64) -> Result<()> {
        while size > 0 {
            if cursor.position().0 >= self.superblock.directory_table {
                return Err(broken("an inode reaches past the end of its table"));
            }
            size = size.saturating_sub(cursor.skip_in_block(&mut self.blocks.borrow_mut(), size)?);
        }
        Ok(())
    }
}
