//! Names of tar entries: what is refused, what is normalised, and how a name is shown in a message.
#![forbid(unsafe_code)]

use super::squashfs::format::NAME_MAX;
use crate::error::{Error, Result};

/// The deepest directory; what a path of PATH_MAX bytes can name.
pub const DEPTH_MAX: usize = 2048;

/// What the name of an entry asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Name<'p> {
    /// The root directory itself (`./`).
    Root,
    /// An entry: the directories above it, and its own name.
    Entry(Vec<&'p [u8]>, &'p [u8]),
    /// What lower layers have under this name is deleted.
    Whiteout(Vec<&'p [u8]>, &'p [u8]),
    /// What lower layers have in this directory is deleted.
    Opaque(Vec<&'p [u8]>),
    /// Left over from aufs; means nothing here.
    Ignored,
}

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Reads the name of an entry: absolute names are relative to the root, empty and `.` parts do not count.
pub fn parse(path: &[u8]) -> Result<Name<'_>> {
    let mut parts = components(path)?;
    let Some(last) = parts.pop() else {
        return Ok(Name::Root);
    };
    if parts.iter().any(|part| part.starts_with(META)) {
        return Ok(Name::Ignored);
    }
    if parts.iter().any(|part| part.starts_with(WHITEOUT)) {
        return Err(refused(path, "is below a whiteout"));
    }
    if last == OPAQUE {
        return Ok(Name::Opaque(parts));
    }
    if last.starts_with(META) {
        return Ok(Name::Ignored);
    }
    match last.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err(refused(path, "is a whiteout of nothing")),
        Some(name) => Ok(Name::Whiteout(parts, name)),
        None => Ok(Name::Entry(parts, last)),
    }
}

/// The parts of a path in the layer.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.contains(&0) {
        return Err(refused(path, "has a NUL in its name"));
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refused(path, "has .. in its name")),
            _ if part.len() > NAME_MAX => return Err(refused(path, "has a name of more than 255 bytes")),
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

/// An entry that is refused because of its name.
pub fn refused(path: &[u8], why: &str) -> Error {
    Error::Image(format!("the layer's entry {} {why}", quoted(path)))
}

/// A name for a message: in quotes, on one line, not too long.
pub fn quoted(name: &[u8]) -> String {
    const SHOWN: usize = 160;
    let start = String::from_utf8_lossy(name.get(..SHOWN).unwrap_or(name));
    let more = if name.len() > SHOWN { "..." } else { "" };
    format!("{start:?}{more}")
}

/// Text from the parser, which may repeat bytes of the archive, on one line and not too long.
pub fn one_line(text: &str) -> String {
    let escape = |character: char| if character.is_control() { ' ' } else { character };
    text.chars().take(200).map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        let usual = Name::Entry(vec![b"a"], b"b");
        for path in ["a/b", "./a//b/", "/a/./b", "//a/b/."] {
            assert_eq!(parse(path.as_bytes()).unwrap(), usual, "{path}");
        }
        for path in ["", ".", "./", "/"] {
            assert_eq!(parse(path.as_bytes()).unwrap(), Name::Root, "{path}");
        }
    }

    #[test]
    fn whiteouts_are_read() {
        assert_eq!(parse(b"a/.wh.b").unwrap(), Name::Whiteout(vec![b"a"], b"b"));
        assert_eq!(parse(b"a/.wh..wh..opq").unwrap(), Name::Opaque(vec![b"a"]));
        assert_eq!(parse(b".wh..b").unwrap(), Name::Whiteout(vec![], b".b"));
        for path in [".wh..wh.plnk/1.2", ".wh..wh.aufs", "a/.wh..wh.orph/x"] {
            assert_eq!(parse(path.as_bytes()).unwrap(), Name::Ignored, "{path}");
        }
    }

    #[test]
    fn bad_names_are_refused_by_name() {
        let long = "n".repeat(256);
        for path in [
            "../a", "a/..", "a/../b", "/..", "a\0b", ".wh.", ".wh..", "a/.wh...", ".wh.a/b", &long,
        ] {
            let error = parse(path.as_bytes()).unwrap_err();
            assert!(matches!(&error, Error::Image(text) if !text.contains('\n')), "{path}");
        }
        assert_eq!(
            parse(b"../etc/passwd").unwrap_err().to_string(),
            "the layer's entry \"../etc/passwd\" has .. in its name"
        );
    }
}
