//! The members of a tar file that can be read at any place: where each begins, and how long it is. Names that climb (`..`)
//! are nobody's names here, and a link leads to another member or nowhere: nothing is ever opened by a name.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::image::file::{Part, read};
use crate::image::printable;
use rustix::fd::OwnedFd;
use std::collections::{BTreeMap, BTreeSet};
use tar_core::EntryType;
use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};

/// An image has a few members for each layer.
const MAX_MEMBERS: usize = 100_000;
/// Bytes of a header with its extensions.
const MAX_HEADER: usize = 1 << 20;
/// The longest name and link target, in bytes.
const MAX_NAME: u32 = 4096;
/// Links that are followed for one name.
const MAX_LINKS: usize = 8;
const BLOCK: u64 = 512;
/// Bytes that are read where a header is expected.
const WINDOW: usize = 4096;

type Name = Vec<u8>;

/// What has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    File(Part),
    /// Another member's name; none when it leads out of the archive.
    Link(Option<Name>),
    Other,
}

/// The members by name.
#[derive(Debug, Default)]
pub struct Members {
    all: BTreeMap<Name, What>,
    repeated: BTreeSet<Name>,
    count: usize,
}

impl Members {
    /// Looks through an archive of `size` bytes.
    pub fn of(file: &OwnedFd, size: u64) -> Result<Self> {
        let mut members = Members::default();
        let mut parser = Parser::new(Limits {
            max_metadata_size: u32::try_from(MAX_HEADER).unwrap_or(u32::MAX),
            max_path_len: Some(MAX_NAME),
            ..Limits::default()
        });
        parser.set_ignore_pax_errors(true);
        let (mut at, mut wanted) = (0_u64, WINDOW);
        loop {
            let window = window(file, at, wanted)?;
            let consumed = match parser.parse(&window).map_err(|error| damaged(&error.to_string()))? {
                ParseEvent::NeedData { .. } if window.len() < wanted && window.iter().all(|byte| *byte == 0) => {
                    return Ok(members);
                }
                ParseEvent::NeedData { .. } if window.len() < wanted => return Err(truncated(None)),
                ParseEvent::NeedData { min_bytes } => {
                    wanted = min_bytes.max(wanted.saturating_add(WINDOW));
                    continue;
                }
                ParseEvent::End { .. } => return Ok(members),
                ParseEvent::GlobalExtensions { consumed, .. } => consumed as u64,
                ParseEvent::SparseEntry { .. } => return Err(damaged("it has a sparse file")),
                ParseEvent::Entry { consumed, entry } => members.add(&entry, at, consumed, size)?,
            };
            (at, wanted) = (at.saturating_add(consumed), WINDOW);
        }
    }

    /// Takes a member whose header is at `at`. Gives how far the next one is from there.
    fn add(&mut self, entry: &ParsedEntry<'_>, at: u64, header: usize, size: u64) -> Result<u64> {
        let name = clean(&[], &entry.path, Dots::Refused);
        let part = Part {
            offset: at.saturating_add(header as u64),
            size: entry.size,
        };
        let (what, content) = match entry.entry_type {
            EntryType::Regular | EntryType::Continuous => (What::File(part), part.size),
            EntryType::Symlink | EntryType::Link => (What::Link(target(entry)), 0),
            _ => (What::Other, 0),
        };
        if part.offset.checked_add(content).is_none_or(|end| end > size) {
            return Err(truncated(Some(&entry.path)));
        }
        self.count += 1;
        if self.count > MAX_MEMBERS {
            return Err(damaged(&format!("it has more than {MAX_MEMBERS} members")));
        }
        if let Some(name) = name
            && let Some(before) = self.all.insert(name.clone(), what)
            && before != What::Other
        {
            self.repeated.insert(name);
        }
        Ok((header as u64).saturating_add(content.next_multiple_of(BLOCK)))
    }

    /// Where the file of this name is, through links. Of several the last one counts.
    pub fn find(&self, name: &str) -> Option<Part> {
        let mut name = clean(&[], name.as_bytes(), Dots::Refused)?;
        for _ in 0..=MAX_LINKS {
            match self.all.get(&name)? {
                What::File(part) => return Some(*part),
                What::Link(target) => name = target.clone()?,
                What::Other => return None,
            }
        }
        None
    }

    /// Where the one document of this name is. Programs differ in which one of several they believe.
    pub fn document(&self, name: &str) -> Result<Option<Part>> {
        match self.repeated.contains(name.as_bytes()) {
            true => Err(Error::Image(format!("the archive has several members named {name}"))),
            false => Ok(self.find(name)),
        }
    }
}

/// Reads where a header is expected; less at the end of the file.
fn window(file: &OwnedFd, at: u64, wanted: usize) -> Result<Vec<u8>> {
    if wanted > 2 * MAX_HEADER {
        return Err(damaged("a header is too large"));
    }
    let size = wanted as u64;
    read(file, Part { offset: at, size })
}

/// The member that a link leads to: a symbolic one from where it is, a hard one from the top.
fn target(entry: &ParsedEntry<'_>) -> Option<Name> {
    let target = entry.link_target.as_deref()?;
    match entry.entry_type {
        EntryType::Link => clean(&[], target, Dots::Refused),
        _ if target.starts_with(b"/") => None,
        _ => {
            let name = clean(&[], &entry.path, Dots::Refused)?;
            let parent = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            clean(name.get(..parent).unwrap_or_default(), target, Dots::Climb)
        }
    }
}

/// What `..` does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dots {
    Refused,
    Climb,
}

/// `name` seen from `base`, without `.` and empty parts; nothing when it leaves the archive.
fn clean(base: &[u8], name: &[u8], dots: Dots) -> Option<Name> {
    let is_there = |part: &&[u8]| !part.is_empty();
    let mut parts: Vec<&[u8]> = base.split(|byte| *byte == b'/').filter(is_there).collect();
    for part in name.split(|byte| *byte == b'/').filter(is_there) {
        match part {
            b"." => {}
            b".." if dots == Dots::Refused => return None,
            b".." => parts.pop().map(drop)?,
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join(&b'/'))
}

fn damaged(reason: &str) -> Error {
    Error::Image(format!("the archive is damaged: {}", printable(reason)))
}

fn truncated(name: Option<&[u8]>) -> Error {
    let place = name.map(|name| format!(" in {}", printable(&String::from_utf8_lossy(name))));
    Error::Image(format!(
        "the archive is truncated: it ends{}",
        place.unwrap_or_else(|| " in a header".to_owned())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// One member: `kind` as the header has it, and a link's target.
    fn member(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].copy_from_slice(b"        ");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = [&header, content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        member(name, b'0', "", content)
    }

    fn open(bytes: &[u8]) -> (OwnedFd, Result<Members>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let file = OwnedFd::from(file);
        let members = Members::of(&file, bytes.len() as u64);
        (file, members)
    }

    fn content(archive: &(OwnedFd, Result<Members>), name: &str) -> Option<String> {
        let part = archive.1.as_ref().unwrap().find(name)?;
        Some(String::from_utf8(read(&archive.0, part).unwrap()).unwrap())
    }

    #[test]
    fn files_are_found_by_name_and_through_links() {
        let long = format!("{}/file", "directory/".repeat(20));
        let end = vec![0; 1024];
        let archive = open(
            &[
                file("./manifest.json", b"[]"),
                member("a/", b'5', "", b""),
                member("a/layer.tar", b'2', "../b/layer.tar", b""),
                file("b/layer.tar", &b"x".repeat(513)),
                member("hard", b'1', "b/layer.tar", b""),
                member("././@LongLink", b'L', "", format!("{long}\0").as_bytes()),
                file("cut", b"long"),
                file("last", b"end"),
                end,
            ]
            .concat(),
        );
        assert_eq!(content(&archive, "manifest.json").unwrap(), "[]");
        assert_eq!(content(&archive, "a/layer.tar").unwrap().len(), 513);
        assert_eq!(content(&archive, "/hard").unwrap().len(), 513);
        assert_eq!(content(&archive, &long).unwrap(), "long");
        assert_eq!(content(&archive, "./last").unwrap(), "end");
        assert_eq!(content(&archive, "a"), None);
        assert_eq!(content(&archive, "missing"), None);
    }

    #[test]
    fn nothing_leads_out() {
        let archive = open(
            &[
                file("../evil", b"x"),
                file("a/../b", b"x"),
                member("shadow", b'2', "/etc/shadow", b""),
                member("climb", b'2', "../../etc/shadow", b""),
                member("hard", b'1', "../evil", b""),
                member("loop", b'2', "loop", b""),
                file("/etc/passwd", b"member"),
            ]
            .concat(),
        );
        for name in [
            "../evil",
            "evil",
            "a/../b",
            "b",
            "shadow",
            "climb",
            "hard",
            "loop",
            "etc/shadow",
            "",
        ] {
            assert_eq!(content(&archive, name), None, "{name}");
        }
        assert_eq!(content(&archive, "etc/passwd").unwrap(), "member");
    }

    #[test]
    fn of_several_documents_none_is_believed() {
        let archive = open(&[file("index.json", b"1"), file("./index.json", b"2"), file("x", b"3")].concat());
        let members = archive.1.as_ref().unwrap();
        let text = members.document("index.json").unwrap_err().to_string();
        assert!(text.contains("several members named index.json"), "{text}");
        assert!(members.document("x").unwrap().is_some() && members.document("y").unwrap().is_none());
        assert_eq!(content(&archive, "index.json").unwrap(), "2");
    }

    #[test]
    fn a_cut_archive_is_noticed() {
        let whole = [file("a", &[1; 700]), file("b", b"x")].concat();
        for length in (1..1212).chain(1537..=2048) {
            let text = open(&whole[..length]).1.unwrap_err().to_string();
            assert!(text.contains("truncated"), "{length}: {text}");
        }
        // Contents are whole; what is missing is padding and the end mark, which some programs do not write.
        assert_eq!(open(&whole[..1212]).1.unwrap().all.len(), 1);
        assert_eq!(open(&whole[..2049]).1.unwrap().all.len(), 2);
        assert!(open(b"no archive at all").1.is_err());
        assert!(open(&[b'x'; 5000]).1.is_err());
        let mut huge = file("a", b"");
        huge[124..136].copy_from_slice(b"77777777777\0");
        assert!(open(&huge).1.is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0usize..2048) {
            let mut archive = [file("a", &[7; 600]), file("b", b"x"), vec![0; 512]].concat();
            let at = at.min(archive.len() - bytes.len().min(archive.len()));
            let length = bytes.len().min(archive.len() - at);
            archive[at..at + length].copy_from_slice(&bytes[..length]);
            let _ = (open(&archive), open(&bytes));
        }
    }
}
