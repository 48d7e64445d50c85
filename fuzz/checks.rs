//! What the fuzz targets do with their input, and the tests with the corpus: parse it, and check what must hold of
//! everything that was accepted.

use pyxis_runtime::image::file::Part;
use pyxis_runtime::image::file::sif::integrity::{Hasher, Metadata};
use pyxis_runtime::image::file::sif::{HEADER, Header, Sif};
use pyxis_runtime::image::file::squashfs;
use pyxis_runtime::reference::ImageSource;

/// A SIF file: header, table, objects, and each signature's text.
#[allow(dead_code)]
pub fn sif(file: &[u8]) {
    let size = file.len() as u64;
    let Ok(header) = Header::parse(&file[..HEADER.min(file.len())], size) else {
        return;
    };
    let Ok(sif) = Sif::parse(header.clone(), piece(file, header.table), size) else {
        return;
    };
    let mut places: Vec<Part> = sif.objects.iter().map(|object| object.part).collect();
    places.push(header.table);
    places.retain(|part| part.size > 0);
    places.sort_by_key(|part| part.offset);
    assert!(
        places
            .iter()
            .all(|part| part.offset >= HEADER as u64 && part.offset + part.size <= size)
    );
    assert!(
        places
            .windows(2)
            .all(|two| two[0].offset + two[0].size <= two[1].offset)
    );
    let Ok(run) = sif.primary("amd64") else { return };
    assert!(run.part.size > 0);
    for signature in sif.signatures_of(run) {
        let Ok(metadata) = Metadata::parse(piece(file, signature.part)) else {
            continue;
        };
        let signed = metadata.check(&sif, run, &mut |part, algorithm| {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(piece(file, part));
            Ok(hasher.finish())
        });
        assert!(signed.is_err() || signed.is_ok_and(|ids| ids.contains(&run.id)));
    }
}

fn piece(file: &[u8], part: Part) -> &[u8] {
    &file[part.offset as usize..(part.offset + part.size) as usize]
}

/// A squashfs superblock; the first eight bytes are the size of the file that it claims to be in.
#[allow(dead_code)]
pub fn squashfs(input: &[u8]) {
    let Some((size, head)) = input.split_first_chunk() else {
        return;
    };
    let size = u64::from_le_bytes(*size);
    if squashfs::check(head, size).is_ok() {
        let used = u64::from_le_bytes(head[40..48].try_into().unwrap());
        assert!(head.starts_with(squashfs::MAGIC) && used <= size);
    }
}

/// A value of `--container-image`: what it prints means the same.
#[allow(dead_code)]
pub fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(source) = text.parse::<ImageSource>() else {
        return;
    };
    let printed = source.to_string();
    let again: ImageSource = printed
        .parse()
        .unwrap_or_else(|error| panic!("{text:?} became {printed:?}: {error}"));
    assert_eq!(source, again, "{text:?} became {printed:?}");
}
