//! Extended attributes: sets of names and values, each kept once however many inodes have it.
#![forbid(unsafe_code)]

use super::compress::Compressor;
use super::format::{Append, Fields, NAME_MAX, NO_TABLE, NO_XATTRS};
use super::metadata::Metadata;
use super::output::Output;
use crate::error::{Error, Result};
use std::collections::HashMap;

/// The longest value (XATTR_SIZE_MAX of Linux).
pub(super) const VALUE_MAX: usize = 65_536;

/// The prefixes that squashfs has, by their number.
pub(super) const PREFIXES: [(u16, &[u8]); 3] = [(0, b"user."), (1, b"trusted."), (2, b"security.")];

/// All sets of an image. A set is kept as the image has it: name type, name size, name, value size, value, repeated.
#[derive(Default)]
pub struct XattrSets {
    sets: Vec<(u32, Box<[u8]>)>,
    known: HashMap<Box<[u8]>, u32>,
    bytes: usize,
}

impl XattrSets {
    /// The number of the set that has these attributes and no others; [`NO_XATTRS`] when there are none.
    pub fn add(&mut self, attributes: &[(&[u8], &[u8])]) -> Result<u32> {
        self.extend(NO_XATTRS, attributes)
    }

    /// The number of the set that has what the set `base` has and these attributes as well.
    pub fn extend(&mut self, base: u32, attributes: &[(&[u8], &[u8])]) -> Result<u32> {
        let (mut count, mut bytes) = match usize::try_from(base).ok().and_then(|base| self.sets.get(base)) {
            Some((count, bytes)) => (*count, bytes.to_vec()),
            None => (0, Vec::new()),
        };
        let mut sorted = attributes.to_vec();
        sorted.sort_unstable();
        for (name, value) in sorted {
            encode(name, value, &mut bytes)?;
            count += 1;
        }
        if count == 0 {
            return Ok(NO_XATTRS);
        }
        self.intern(count, bytes)
    }

    fn intern(&mut self, count: u32, bytes: Vec<u8>) -> Result<u32> {
        if let Some(number) = self.known.get(bytes.as_slice()) {
            return Ok(*number);
        }
        let number = u32::try_from(self.sets.len()).map_err(|_| Error::Image("too many extended attributes".into()))?;
        self.bytes = self.bytes.saturating_add(bytes.len().saturating_mul(2));
        self.sets.push((count, bytes.clone().into_boxed_slice()));
        self.known.insert(bytes.into_boxed_slice(), number);
        Ok(number)
    }

    /// Names and values of the set `number`.
    pub fn get(&self, number: u32) -> Vec<(Vec<u8>, &[u8])> {
        let set = usize::try_from(number).ok().and_then(|number| self.sets.get(number));
        let mut rest = set.map_or(&[][..], |(_, bytes)| bytes);
        let mut found = Vec::new();
        while let Some((name, value, behind)) = decode(rest) {
            found.push((name, value));
            rest = behind;
        }
        found
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Memory that the sets take, about.
    pub fn memory(&self) -> usize {
        self.bytes
    }

    /// Writes the tables; gives the place of the id table.
    pub fn write(&self, compressor: &mut Compressor, output: &mut Output<'_>) -> Result<u64> {
        if self.sets.is_empty() {
            return Ok(NO_TABLE);
        }
        let (mut values, mut ids) = (Metadata::default(), Metadata::default());
        for (count, bytes) in &self.sets {
            let mut id = Vec::with_capacity(16);
            id.u64(values.position()?.reference());
            id.u32(*count);
            id.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            ids.append(&id, compressor)?;
            values.append(bytes, compressor)?;
        }
        let values_place = values.write(compressor, output)?;
        let sets = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        let header = |_| {
            let mut header = Vec::with_capacity(16);
            header.u64(values_place);
            header.u32(sets);
            header.u32(0);
            header
        };
        ids.write_indexed(header, compressor, output)
    }
}

/// Whether squashfs can hold an attribute of this name.
pub fn is_storable(name: &[u8]) -> bool {
    name.len() <= NAME_MAX && split(name).is_some()
}

fn split(name: &[u8]) -> Option<(u16, &[u8])> {
    PREFIXES
        .iter()
        .find_map(|(number, prefix)| Some((*number, name.strip_prefix(*prefix)?)))
        .filter(|(_, rest)| !rest.is_empty())
}

fn encode(name: &[u8], value: &[u8], bytes: &mut Vec<u8>) -> Result<()> {
    let wrong = || {
        let name = String::from_utf8_lossy(name).into_owned();
        Error::Image(format!("squashfs cannot hold the extended attribute {name:?}"))
    };
    let (prefix, rest) = split(name).ok_or_else(wrong)?;
    if name.len() > NAME_MAX || value.len() > VALUE_MAX {
        return Err(wrong());
    }
    bytes.u16(prefix);
    bytes.u16(u16::try_from(rest.len()).unwrap_or(0));
    bytes.extend_from_slice(rest);
    bytes.u32(u32::try_from(value.len()).unwrap_or(0));
    bytes.extend_from_slice(value);
    Ok(())
}

/// The first attribute of an encoded set, and what is behind it.
fn decode(bytes: &[u8]) -> Option<(Vec<u8>, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(4)?;
    let mut fields = Fields::new(head);
    let (kind, size) = (fields.u16(), usize::from(fields.u16()));
    let (_, prefix) = PREFIXES.iter().find(|(number, _)| *number == kind)?;
    let (name, rest) = rest.split_at_checked(size)?;
    let (length, rest) = rest.split_at_checked(4)?;
    let (value, rest) = rest.split_at_checked(Fields::new(length).u32() as usize)?;
    Some(([*prefix, name].concat(), value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_can_be_had_again() {
        let mut sets = XattrSets::default();
        let set = sets
            .add(&[(b"user.b", b""), (b"user.a", b"1"), (b"security.c", b"23")])
            .unwrap();
        let expected: [(&[u8], &[u8]); 3] = [(b"security.c", b"23"), (b"user.a", b"1"), (b"user.b", b"")];
        assert_eq!(sets.get(set), expected.map(|(name, value)| (name.to_vec(), value)));
        assert!(sets.get(NO_XATTRS).is_empty());
    }

    #[test]
    fn equal_sets_are_kept_once() {
        let mut sets = XattrSets::default();
        let one = sets.add(&[(b"user.a", b"1"), (b"user.b", b"2")]).unwrap();
        let other = sets.add(&[(b"user.b", b"2"), (b"user.a", b"1")]).unwrap();
        assert_eq!(one, other);
        assert_eq!(sets.add(&[]).unwrap(), NO_XATTRS);
        assert_ne!(sets.extend(one, &[(b"user.c", b"")]).unwrap(), one);
        assert_eq!(sets.sets.len(), 2);
    }

    #[test]
    fn what_squashfs_cannot_hold_is_refused() {
        let mut sets = XattrSets::default();
        assert!(sets.add(&[(b"system.posix_acl_access", b"")]).is_err());
        assert!(sets.add(&[(b"user.", b"")]).is_err());
        assert!(sets.add(&[(b"user.big", &vec![0; VALUE_MAX + 1])]).is_err());
        assert!(!is_storable(&[b"user.".as_slice(), &[b'n'; 251]].concat()));
    }
}
