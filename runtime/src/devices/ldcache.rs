//! The loader's cache (`/etc/ld.so.cache`): which file has a library's name. Its layout is glibc's (`elf/cache.c`,
//! `sysdeps/generic/dl-cache.h`): an old header and table, a new one, or the old one with the new one behind it. Pure: bytes
//! in, values out, and back. Bytes can be anybody's: nothing is read outside of them, and their number bounds all work.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::ops::Range;

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const NEW_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
const NEW_HEADER: usize = 48;
const NEW_ENTRY: usize = 24;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
/// The extension section with the names of glibc-hwcaps directories.
const HWCAPS_TAG: u32 = 1;
/// In an entry's hwcap: the low half is an index into those names.
const HWCAPS_BIT: u64 = 1 << 62;
/// Byte order in the new header's flags.
const ENDIAN: u8 = if cfg!(target_endian = "little") { 2 } else { 3 };
/// No cache of a machine is near this.
const MOST_ENTRIES: usize = 200_000;
/// Nor are its names and paths together. Many entries may have the same bytes of a file, so its size bounds nothing.
const MOST_BYTES: usize = 32 << 20;

/// One library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Kind of library and machine (`FLAG_ELF_LIBC6 | FLAG_X8664_LIB64` and so on).
    pub flags: u32,
    /// The name that programs ask for.
    pub name: Vec<u8>,
    /// The file.
    pub path: Vec<u8>,
    /// The oldest kernel for it.
    pub os_version: u32,
    /// Processor features that it needs.
    pub hwcap: u64,
}

/// A cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cache {
    /// The libraries, in the file's order.
    pub entries: Vec<Entry>,
    /// Names of glibc-hwcaps directories that entries refer to by number.
    pub hwcaps: Vec<Vec<u8>>,
}

/// Entries for libraries of this machine and word size, as glibc marks them; `None` for machines that are not known here.
pub fn flags(machine: &str, bits: super::Bits) -> Option<u32> {
    use super::Bits::{B32, B64};
    match (machine, bits) {
        ("x86_64", B64) => Some(0x0303),
        ("x86_64", B32) => Some(0x0003),
        ("aarch64", B64) => Some(0x0a03),
        ("aarch64", B32) => Some(0x0903),
        ("powerpc64", B64) => Some(0x0503),
        _ => None,
    }
}

impl Cache {
    /// Reads a cache. The error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.starts_with(NEW_MAGIC) {
            return parse_new(bytes, bytes);
        }
        if !bytes.starts_with(OLD_MAGIC) {
            return Err("it has no header that is known".to_owned());
        }
        let count = number(bytes, 12).ok_or("it is shorter than its header")? as usize;
        let end = count
            .checked_mul(OLD_ENTRY)
            .and_then(|length| length.checked_add(OLD_HEADER))
            .filter(|end| *end <= bytes.len())
            .ok_or_else(|| format!("it has no room for its {count} entries"))?;
        // The new table is aligned for its 64-bit numbers.
        let new = bytes.get(end.next_multiple_of(8)..).unwrap_or_default();
        if new.starts_with(NEW_MAGIC) {
            return parse_new(new, bytes);
        }
        let strings = bytes.get(end..).unwrap_or_default();
        let entries = (0..bounded(count)?).map(|index| old_entry(bytes, strings, OLD_HEADER + index * OLD_ENTRY));
        Ok(Cache {
            entries: collect(entries)?,
            hwcaps: Vec::new(),
        })
    }

    /// The files that have this name, for libraries with these flags, in the cache's order.
    pub fn find<'a>(&'a self, name: &'a [u8], flags: u32) -> impl Iterator<Item = &'a Entry> {
        let fits = move |entry: &&Entry| entry.flags == flags && entry.name == name;
        self.entries.iter().filter(fits)
    }

    /// The file of this cache in the new layout.
    pub fn write(&self) -> Vec<u8> {
        let mut sorted: Vec<&Entry> = self.entries.iter().collect();
        sorted.sort_by(|left, right| order(left, right));
        let strings_at = NEW_HEADER + sorted.len() * NEW_ENTRY;
        let mut strings = Strings::new(strings_at);
        let mut table = Vec::with_capacity(sorted.len() * NEW_ENTRY);
        for entry in sorted {
            table.extend(entry.flags.to_ne_bytes());
            table.extend(strings.add(&entry.name).to_ne_bytes());
            table.extend(strings.add(&entry.path).to_ne_bytes());
            table.extend(entry.os_version.to_ne_bytes());
            table.extend(entry.hwcap.to_ne_bytes());
        }
        let hwcaps: Vec<u32> = self.hwcaps.iter().map(|name| strings.add(name)).collect();
        let mut bytes = NEW_MAGIC.to_vec();
        bytes.extend(length(self.entries.len()).to_ne_bytes());
        bytes.extend(length(strings.bytes.len()).to_ne_bytes());
        bytes.extend([ENDIAN, 0, 0, 0]);
        let extension_at = (strings_at + strings.bytes.len()).next_multiple_of(4);
        let extension = (!hwcaps.is_empty()).then(|| extension(&hwcaps, extension_at));
        bytes.extend(extension.as_ref().map_or(0, |_| length(extension_at)).to_ne_bytes());
        bytes.resize(NEW_HEADER, 0);
        bytes.extend(table);
        bytes.extend(strings.bytes);
        if let Some(extension) = extension {
            bytes.resize(extension_at, 0);
            bytes.extend(extension);
        }
        bytes
    }
}

/// The order that glibc's binary search relies on: descending names, then its best choice first.
fn order(left: &Entry, right: &Entry) -> Ordering {
    let by_name = compare_names(&right.name, &left.name);
    let set = |entry: &Entry| (entry.hwcap & HWCAPS_BIT != 0).then_some(entry.hwcap & 0xffff_ffff);
    let by_features = || match (set(left), set(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => right.hwcap.cmp(&left.hwcap),
    };
    by_name
        .then_with(|| left.flags.cmp(&right.flags))
        .then_with(by_features)
}

/// `_dl_cache_libcmp` of glibc: runs of digits count by their value.
fn compare_names(left: &[u8], right: &[u8]) -> Ordering {
    let (mut left, mut right) = (left.iter().copied().peekable(), right.iter().copied().peekable());
    loop {
        let (one, other) = match (left.peek().copied(), right.peek().copied()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(one), Some(other)) => (one, other),
        };
        match (one.is_ascii_digit(), other.is_ascii_digit()) {
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (true, true) => match digits(&mut left).cmp(&digits(&mut right)) {
                Ordering::Equal => {}
                different => return different,
            },
            (false, false) if one != other => return one.cmp(&other),
            (false, false) => {
                left.next();
                right.next();
            }
        }
    }
}

/// The value of a run of digits, as C's int has it.
fn digits(bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> i32 {
    let mut value: i32 = 0;
    while let Some(digit) = bytes.next_if(u8::is_ascii_digit) {
        value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
    }
    value
}

/// Strings of a cache that is written; each once.
struct Strings {
    start: usize,
    bytes: Vec<u8>,
    known: std::collections::HashMap<Vec<u8>, u32>,
}

impl Strings {
    fn new(start: usize) -> Self {
        Strings {
            start,
            bytes: Vec::new(),
            known: std::collections::HashMap::new(),
        }
    }

    /// Where the string is, from the beginning of the file.
    fn add(&mut self, string: &[u8]) -> u32 {
        if let Some(place) = self.known.get(string) {
            return *place;
        }
        let place = length(self.start + self.bytes.len());
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.known.insert(string.to_vec(), place);
        place
    }
}

/// The extension with its one section, which lies behind its header.
fn extension(hwcaps: &[u32], at: usize) -> Vec<u8> {
    let section_at = length(at + 24);
    let size = length(hwcaps.len() * 4);
    let header = [EXTENSION_MAGIC, 1, HWCAPS_TAG, 0, section_at, size];
    header
        .iter()
        .chain(hwcaps)
        .flat_map(|word| word.to_ne_bytes())
        .collect()
}

/// What is written here is far below 4 GiB.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn bounded(count: usize) -> Result<usize, String> {
    match count <= MOST_ENTRIES {
        true => Ok(count),
        false => Err(format!("it has {count} entries, more than {MOST_ENTRIES}")),
    }
}

/// The entries, as long as they are not too much together.
fn collect(entries: impl Iterator<Item = Result<Entry, String>>) -> Result<Vec<Entry>, String> {
    let mut room = MOST_BYTES;
    let counted = entries.map(|entry| {
        let entry = entry?;
        room = room
            .checked_sub(entry.name.len().saturating_add(entry.path.len()))
            .ok_or_else(|| format!("its names and paths have more than {MOST_BYTES} bytes"))?;
        Ok(entry)
    });
    counted.collect()
}

/// The new layout. Its strings have their places in itself; its extension has its in the file that it is in.
fn parse_new(bytes: &[u8], file: &[u8]) -> Result<Cache, String> {
    let word = |at| number(bytes, at).ok_or("it is shorter than its header");
    let count = word(20)? as usize;
    match bytes.get(28) {
        Some(0) => {}
        Some(flags) if flags & 3 == ENDIAN => {}
        _ => return Err("it is for a machine of the other byte order".to_owned()),
    }
    let fits = count
        .checked_mul(NEW_ENTRY)
        .and_then(|length| length.checked_add(NEW_HEADER))
        .is_some_and(|end| end <= bytes.len());
    if !fits {
        return Err(format!("it has no room for its {count} entries"));
    }
    let hwcaps = parse_hwcaps(file, word(32)? as usize, bytes)?;
    let entries = (0..bounded(count)?).map(|index| new_entry(bytes, NEW_HEADER + index * NEW_ENTRY));
    let entries = collect(entries)?;
    let names = hwcaps.len() as u64;
    match entries
        .iter()
        .find(|entry| entry.hwcap & HWCAPS_BIT != 0 && entry.hwcap & 0xffff_ffff >= names)
    {
        Some(_) => Err("an entry refers to a set of processor features that it does not have".to_owned()),
        None => Ok(Cache { entries, hwcaps }),
    }
}

fn old_entry(bytes: &[u8], strings: &[u8], at: usize) -> Result<Entry, String> {
    let word = |offset| number(bytes, at + offset).ok_or("it is shorter than its table");
    Ok(Entry {
        flags: word(0)?,
        name: string(strings, word(4)?)?,
        path: string(strings, word(8)?)?,
        os_version: 0,
        hwcap: 0,
    })
}

fn new_entry(bytes: &[u8], at: usize) -> Result<Entry, String> {
    let word = |offset| number(bytes, at + offset).ok_or("it is shorter than its table");
    let hwcap = bytes.get(at + 16..at + 24).and_then(|bytes| bytes.try_into().ok());
    Ok(Entry {
        flags: word(0)?,
        name: string(bytes, word(4)?)?,
        path: string(bytes, word(8)?)?,
        os_version: word(12)?,
        hwcap: hwcap.map(u64::from_ne_bytes).ok_or("it is shorter than its table")?,
    })
}

/// The names of glibc-hwcaps directories, if there are any. Sections that are not known mean nothing here.
fn parse_hwcaps(file: &[u8], at: usize, strings: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if at == 0 {
        return Ok(Vec::new());
    }
    let short = "its extension is outside of it";
    if number(file, at) != Some(EXTENSION_MAGIC) {
        return Err(short.to_owned());
    }
    let count = number(file, at.saturating_add(4)).ok_or(short)?;
    // There are two kinds today.
    for index in 0..count.min(64) as usize {
        let section = at + 8 + index * 16;
        let word = |offset| number(file, section + offset).ok_or(short);
        if word(0)? != HWCAPS_TAG {
            continue;
        }
        let range: Range<usize> = word(8)? as usize..(word(8)? as usize).saturating_add(word(12)? as usize);
        let words = file.get(range).ok_or(short)?.chunks_exact(4);
        let places = words.filter_map(|word| word.try_into().ok()).map(u32::from_ne_bytes);
        return places.take(1024).map(|place| string(strings, place)).collect();
    }
    Ok(Vec::new())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// No path is longer (PATH_MAX of Linux).
const MOST_STRING: usize = 4096;

fn string(bytes: &[u8], at: u32) -> Result<Vec<u8>, String> {
    let rest = bytes.get(at as usize..).ok_or("a name lies outside of it")?;
    let rest = rest.get(..MOST_STRING).unwrap_or(rest);
    let end = rest.iter().position(|byte| *byte == 0).ok_or("a name has no end")?;
    Ok(rest.get(..end).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests;
