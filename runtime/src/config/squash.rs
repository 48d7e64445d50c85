//! `ENROOT_SQUASH_OPTIONS`: the words of mksquashfs as far as they say how our own writer is to write.
#![forbid(unsafe_code)]

use super::CompressionName;

/// What the words say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Squash {
    /// The compressor, if one is named.
    pub compression: Option<CompressionName>,
    /// Its level.
    pub level: Option<u8>,
    /// Size of data blocks in bytes.
    pub block_size: Option<u32>,
    /// Words that mksquashfs does not have either, as far as is known here.
    pub unknown: Vec<String>,
}

/// Options that take a word and change nothing here.
const IGNORED_WITH_VALUE: [&str; 18] = [
    "-processors",
    "-mem",
    "-mem-percent",
    "-Xbcj",
    "-Xdict-size",
    "-Xstrategy",
    "-Xwindow-size",
    "-Xalgorithm",
    "-force-uid",
    "-force-gid",
    "-root-mode",
    "-mkfs-time",
    "-all-time",
    "-xattrs-exclude",
    "-xattrs-include",
    "-throttle",
    "-limit",
    "-action",
];
/// Options without a word that change nothing here: how parts that are small are written, what is shown, what our
/// writer does anyway or cannot do.
const IGNORED: [&str; 42] = [
    "-noI",
    "-noId",
    "-noF",
    "-noX",
    "-noInodeCompression",
    "-noIdTableCompression",
    "-noFragmentCompression",
    "-noXattrCompression",
    "-no-fragments",
    "-always-use-fragments",
    "-tailends",
    "-no-tailends",
    "-no-duplicates",
    "-no-hardlinks",
    "-no-exports",
    "-exports",
    "-no-sparse",
    "-no-xattrs",
    "-xattrs",
    "-all-root",
    "-root-owned",
    "-noappend",
    "-nopad",
    "-no-progress",
    "-progress",
    "-quiet",
    "-info",
    "-exit-on-error",
    "-no-recovery",
    "-reproducible",
    "-not-reproducible",
    "-no-strip",
    "-tarstyle",
    "-keep-as-directory",
    "-one-file-system",
    "-one-file-system-x",
    "-offset-align",
    "-small-readers",
    "-single-reader-thread",
    "-Xhc",
    "-Xuncompressed",
    "-no-recovery-file",
];

/// Parses the words.
pub fn parse(text: &str) -> Result<Squash, String> {
    let mut squash = Squash::default();
    let mut compressor = None;
    let mut uncompressed = false;
    let mut words = text.split_ascii_whitespace();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a word behind it"));
        match word {
            "-comp" => compressor = Some(value()?),
            "-Xcompression-level" => squash.level = Some(level(value()?)?),
            "-b" => squash.block_size = Some(block_size(value()?)?),
            "-noD" | "-noDataCompression" | "-no-compression" => uncompressed = true,
            _ if IGNORED_WITH_VALUE.contains(&word) => drop(value()?),
            _ if IGNORED.contains(&word) => {}
            _ => squash.unknown.push(word.to_owned()),
        }
    }
    squash.compression = compressor.map(name).transpose()?;
    let native = matches!(compressor, None | Some("gzip" | "zstd"));
    if !native {
        // A level of another compressor says nothing about the one that takes its place.
        squash.level = None;
    }
    if uncompressed {
        (squash.compression, squash.level) = (Some(CompressionName::None), None);
    }
    check_level(&squash)?;
    Ok(squash)
}

/// The compressor; of those that our writer has not the one that is nearest in time and size.
fn name(word: &str) -> Result<CompressionName, String> {
    match word {
        "gzip" => Ok(CompressionName::Gzip),
        "zstd" | "xz" | "lzma" => Ok(CompressionName::Zstd),
        "lz4" | "lzo" => Ok(CompressionName::Lz4),
        other => Err(format!("-comp {other}: known are gzip, lz4, lzo, lzma, xz and zstd")),
    }
}

fn level(word: &str) -> Result<u8, String> {
    let level = word.parse::<u8>().ok().filter(|level| *level > 0);
    level.ok_or_else(|| format!("-Xcompression-level {word}: not a level"))
}

fn check_level(squash: &Squash) -> Result<(), String> {
    let most = match squash.compression {
        Some(CompressionName::Gzip) | None => 9,
        Some(_) => 22,
    };
    match squash.level {
        Some(level) if level > most => Err(format!("-Xcompression-level {level}: 1 to {most} are allowed")),
        _ => Ok(()),
    }
}

fn block_size(word: &str) -> Result<u32, String> {
    let (digits, factor) = match word.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match word.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (word, 1),
        },
    };
    let size = digits.parse::<u32>().ok().and_then(|size| size.checked_mul(factor));
    let fits = |size: &u32| size.is_power_of_two() && (4096..=1 << 20).contains(size);
    size.filter(fits)
        .ok_or_else(|| format!("-b {word}: not a power of two from 4096 to 1M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_mksquashfs() {
        use CompressionName::{Gzip, Lz4, None as Uncompressed, Zstd};
        for (text, compression, level, block_size) in [
            ("", None, None, None),
            ("-comp lzo -noD -exit-on-error", Some(Uncompressed), None, None),
            (
                "-comp zstd -Xcompression-level 19 -b 1M",
                Some(Zstd),
                Some(19),
                Some(1 << 20),
            ),
            (
                "-comp gzip -Xcompression-level 9 -b 262144",
                Some(Gzip),
                Some(9),
                Some(262_144),
            ),
            ("-Xcompression-level 3", None, Some(3), None),
            ("-comp lz4 -Xhc -processors 4", Some(Lz4), None, None),
            (
                "-comp lzo -Xalgorithm lzo1x_999 -Xcompression-level 7",
                Some(Lz4),
                None,
                None,
            ),
            (
                "-comp xz -Xbcj x86 -Xdict-size 100% -b 64K",
                Some(Zstd),
                None,
                Some(65_536),
            ),
            ("-noI -noD -noF -noX -no-duplicates", Some(Uncompressed), None, None),
            ("-no-compression -no-progress", Some(Uncompressed), None, None),
        ] {
            let expected = Squash {
                compression,
                level,
                block_size,
                unknown: vec![],
            };
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong() {
        for (text, reason) in [
            ("-comp brotli", "-comp brotli: known are"),
            ("-comp", "-comp needs a word"),
            ("-comp gzip -Xcompression-level 10", "1 to 9 are allowed"),
            ("-comp zstd -Xcompression-level 23", "1 to 22 are allowed"),
            ("-Xcompression-level 0", "not a level"),
            ("-b 100000", "-b 100000: not a power of two"),
            ("-b 2M", "-b 2M: not a power of two"),
            ("-b 4294967295M", "not a power of two"),
        ] {
            assert!(parse(text).unwrap_err().contains(reason), "{text}");
        }
        assert_eq!(parse("-wildly -b 4K new").unwrap().unknown, ["-wildly", "new"]);
    }
}
