use super::integrity::{Hasher, Metadata};
use super::*;
use proptest::prelude::*;

const TABLE: u64 = 4096;
const DATA: u64 = 32_768;

fn header(total: u64, offset: u64) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    header[MAGIC_AT..MAGIC_AT + 10].copy_from_slice(MAGIC);
    header[42..45].copy_from_slice(b"01\0");
    header[88..96].copy_from_slice(&total.to_le_bytes());
    header[96..104].copy_from_slice(&offset.to_le_bytes());
    header
}

/// A descriptor by its fields.
#[derive(Clone, Copy)]
struct Entry {
    kind: u32,
    id: u32,
    group: u32,
    link: u32,
    place: (u64, u64),
    extra: (u32, u32, &'static [u8]),
}

const PARTITION: Entry = Entry {
    kind: 0x4004,
    id: 3,
    group: 0xf000_0001,
    link: 0,
    place: (DATA, 4096),
    extra: (1, 2, b"02"),
};

const SIGNATURE: Entry = Entry {
    kind: 0x4005,
    id: 4,
    group: 0xf000_0000,
    link: 0xf000_0001,
    place: (DATA + 8192, 100),
    extra: (1, 0, b""),
};

const DEFINITION: Entry = Entry {
    kind: 0x4001,
    id: 1,
    group: 0xf000_0001,
    link: 0,
    place: (DATA + 10_000, 10),
    extra: (0, 0, b""),
};

fn bytes_of(entry: Entry) -> Vec<u8> {
    let mut one = vec![0; DESCRIPTOR];
    let mut put = |at: usize, bytes: &[u8]| one[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &entry.kind.to_le_bytes());
    put(4, &[1]);
    put(5, &entry.id.to_le_bytes());
    put(9, &entry.group.to_le_bytes());
    put(13, &entry.link.to_le_bytes());
    put(17, &entry.place.0.to_le_bytes());
    put(25, &entry.place.1.to_le_bytes());
    put(73, b"name");
    put(201, &entry.extra.0.to_le_bytes());
    put(205, &entry.extra.1.to_le_bytes());
    put(209, entry.extra.2);
    one
}

fn parse(entries: &[Entry]) -> Result<Sif> {
    let size = 1 << 20;
    let mut table: Vec<u8> = entries.iter().copied().flat_map(bytes_of).collect();
    // One that is not in use, full of nonsense.
    let mut unused = vec![0xff; DESCRIPTOR];
    unused[4] = 0;
    table.extend(unused);
    Sif::parse(
        Header::parse(&header(entries.len() as u64 + 1, TABLE), size)?,
        &table,
        size,
    )
}

#[test]
fn what_a_file_has() {
    let overlay = Entry {
        id: 5,
        place: (DATA + 20_000, 10),
        extra: (2, 4, b"02"),
        ..PARTITION
    };
    let sif = parse(&[DEFINITION, PARTITION, SIGNATURE, overlay]).unwrap();
    let kinds: Vec<&str> = sif.objects.iter().map(|object| object.kind.name()).collect();
    assert_eq!(kinds, ["definition file", "partition", "signature", "partition"]);
    let run = sif.primary("amd64").unwrap();
    assert_eq!((run.id, run.part.offset, run.part.size), (3, DATA, 4096));
    assert_eq!((run.group, run.link, run.name.as_str()), (Some(1), Link::None, "name"));
    assert!(sif.has_overlay() && !parse(&[PARTITION]).unwrap().has_overlay());
    let signatures: Vec<u32> = sif.signatures_of(run).map(|object| object.id).collect();
    assert_eq!(signatures, [4]);
    assert_eq!(sif.objects[2].group, None);
    for (number, name) in [
        (0x4002, "environment"),
        (0x4003, "labels"),
        (0x4006, "JSON"),
        (0x4007, "data"),
        (0x400a, "OCI index"),
        (0x400b, "OCI blob"),
        (9, "unknown"),
    ] {
        let one = Entry {
            kind: number,
            ..DEFINITION
        };
        assert_eq!(parse(&[one]).unwrap().objects[0].kind.name(), name);
    }
}

#[test]
fn a_header_that_lies_is_named() {
    for (head, why) in [
        (header(0, TABLE), "0 descriptors"),
        (header(1 << 63, TABLE), "descriptors"),
        (header(48, u64::MAX - 3), "not within"),
        (header(48, 1 << 63), "not within"),
        (header(48, 1 << 19), "not within"),
        (header(48, 100), "overlaps its header"),
        (vec![0; HEADER], "does not begin as one"),
        (header(1, TABLE)[..100].to_vec(), "shorter than its header"),
    ] {
        let error = Header::parse(&head, 1 << 19).unwrap_err().to_string();
        assert!(error.contains(why), "{error} lacks {why}");
    }
    let mut newer = header(1, TABLE);
    newer[43] = b'2';
    assert!(
        Header::parse(&newer, 1 << 19)
            .unwrap_err()
            .to_string()
            .contains("version")
    );
}

#[test]
fn a_table_that_contradicts_itself_is_refused() {
    let moved = |place| Entry { place, ..PARTITION };
    let beside = Entry { id: 7, ..DEFINITION };
    for (entries, why) in [
        (vec![moved((DATA, 0))], "object 3, a partition or a signature, is empty"),
        (
            vec![Entry {
                place: (DATA, 0),
                ..SIGNATURE
            }],
            "is empty",
        ),
        (vec![moved((1 << 63, 1 << 63))], "object 3 (9223372036854775808 bytes"),
        (vec![moved((DATA, 1 << 63))], "not within"),
        (vec![moved((u64::MAX, 2))], "not within"),
        (vec![moved((1 << 20, 1))], "not within"),
        (vec![moved((0, 100))], "object 3 and its header overlap"),
        (vec![moved((100, 100))], "its header and object 3 overlap"),
        (vec![moved((TABLE, 10))], "object 3"),
        (
            vec![moved((200, 8000))],
            "object 3 and its table of descriptors overlap",
        ),
        (vec![moved((DATA, 10_001)), DEFINITION], "object 3 and object 1 overlap"),
        (vec![moved((DATA, 1 << 19)), DEFINITION], "overlap"),
        (
            vec![PARTITION, Entry { id: 3, ..DEFINITION }],
            "two of its objects have the id 3",
        ),
        (vec![Entry { id: 0, ..DEFINITION }], "the id 0"),
        (vec![DEFINITION, beside], "object 1 and object 7 overlap"),
    ] {
        let error = parse(&entries).unwrap_err().to_string();
        assert!(error.contains(why), "{error} lacks {why}");
    }
    // What is empty is nowhere.
    let empty = Entry {
        place: (DATA + 5, 0),
        ..DEFINITION
    };
    parse(&[PARTITION, empty]).unwrap();
    let head = Header::parse(&header(2, TABLE), 1 << 20).unwrap();
    let cut = Sif::parse(head, &bytes_of(PARTITION), 1 << 20).unwrap_err().to_string();
    assert!(cut.contains("cut off"), "{cut}");
}

#[test]
fn what_is_not_run_is_refused_with_the_reason() {
    let kind = |file_system, role, machine: &'static [u8]| Entry {
        extra: (file_system, role, machine),
        ..PARTITION
    };
    let oci = Entry {
        kind: 0x400b,
        ..DEFINITION
    };
    let second = Entry {
        id: 9,
        place: (DATA + 20_000, 10),
        ..PARTITION
    };
    for (entries, why) in [
        (vec![kind(2, 2, b"02")], "ext3"),
        (vec![kind(5, 2, b"02")], "encrypted"),
        (vec![kind(6, 2, b"02")], "encrypted"),
        (vec![kind(7, 2, b"02")], "kind 7"),
        (vec![kind(1, 2, b"04")], "it is for arm64, and this machine is amd64"),
        (vec![kind(1, 1, b"02")], "no primary partition"),
        (vec![oci], "an OCI image"),
        (vec![PARTITION, second], "more than one primary"),
    ] {
        let error = parse(&entries).unwrap().primary("amd64").unwrap_err().to_string();
        assert!(error.contains(why), "{error} lacks {why}");
    }
    let foreign = Entry {
        extra: (1, 2, b"04"),
        ..second
    };
    assert_eq!(parse(&[foreign, PARTITION]).unwrap().primary("amd64").unwrap().id, 3);
}

/// The text of a signature over the definition file and the partition of [`signed_file`].
fn metadata(sif: &Sif, objects: &[(u32, u32)], algorithm: &str) -> String {
    let of = |bytes: &[u8]| {
        let mut hasher = Hasher::new(integrity::Algorithm::Sha256);
        hasher.update(bytes);
        let digits: String = hasher.finish().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{algorithm}:{digits}")
    };
    // As the reference implementation has it, written down by hand: header without machine and times ...
    let mut head = header(3, TABLE)[..45].to_vec();
    head.extend([0; 16]);
    let objects: Vec<_> = objects
        .iter()
        .map(|(id, relative)| {
            let object = sif.objects.iter().find(|object| object.id == *id).unwrap();
            let entry = if *id == 1 { DEFINITION } else { PARTITION };
            let raw = bytes_of(entry);
            // ... and descriptors without number, group and place.
            let descriptor = [
                &raw[..5],
                &relative.to_le_bytes(),
                &raw[13..17],
                &raw[25..33],
                &raw[41..49],
                &raw[57..],
            ]
            .concat();
            serde_json::json!({
                "relativeId": relative,
                "descriptorDigest": of(&descriptor),
                "objectDigest": of(&content(object.part)),
            })
        })
        .collect();
    serde_json::json!({"version": 1, "header": {"digest": of(&head)}, "objects": objects}).to_string()
}

fn content(part: Part) -> Vec<u8> {
    format!("{}+{}", part.offset, part.size).into_bytes()
}

fn check(text: &str, entries: &[Entry], content: impl Fn(Part) -> Vec<u8>) -> Result<Vec<u32>> {
    let sif = parse(entries)?;
    let run = sif.primary("amd64")?.clone();
    Metadata::parse(text.as_bytes())?.check(&sif, &run, &mut |part, algorithm| {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&content(part));
        Ok(hasher.finish())
    })
}

#[test]
fn a_signature_covers_what_it_says() {
    let file = [DEFINITION, PARTITION];
    let sif = parse(&file).unwrap();
    let all = metadata(&sif, &[(1, 0), (3, 2)], "sha256");
    assert_eq!(check(&all, &file, content).unwrap(), [1, 3]);
    let only = metadata(&sif, &[(3, 2)], "sha256");
    assert_eq!(check(&only, &file, content).unwrap(), [3]);
    let other = Entry {
        extra: (1, 2, b"02\0x"),
        ..PARTITION
    };
    let twice = metadata(&sif, &[(3, 2), (3, 2)], "sha256");
    for (text, file, why) in [
        (all.as_str(), vec![PARTITION], "the descriptor of object 3"),
        (
            &all,
            vec![DEFINITION, other],
            "the descriptor of object 3 is not what was signed",
        ),
        (
            &metadata(&sif, &[(1, 0)], "sha256"),
            file.to_vec(),
            "does not cover object 3",
        ),
        (&metadata(&sif, &[(3, 2)], "sha1"), file.to_vec(), "too weak"),
        (&metadata(&sif, &[(3, 2)], "sha384"), file.to_vec(), "wrong length"),
        (&twice, file.to_vec(), "object 3 twice"),
        (
            &only.replace("\"version\":1", "\"version\":2"),
            file.to_vec(),
            "the version 2",
        ),
        ("SIFHASH:\nabc", file.to_vec(), "before 3.6"),
        ("{}", file.to_vec(), "cannot be read"),
        (&all, vec![Entry { group: 0, ..PARTITION }], "belongs to no group"),
    ] {
        let error = check(text, &file, content).unwrap_err().to_string();
        assert!(error.contains(why), "{error} lacks {why}");
    }
    let swapped = check(
        &all,
        &file,
        |part| if part.size == 4096 { vec![1] } else { content(part) },
    );
    assert!(
        swapped
            .unwrap_err()
            .to_string()
            .contains("object 3 (partition) is not what was signed")
    );
    let gone = Entry { id: 2, ..DEFINITION };
    assert!(check(&all, &[gone, PARTITION], content).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..2000), size: u64) {
        let _ = Header::parse(&bytes, size);
        let _ = Metadata::parse(&bytes);
        let total = (bytes.len() / DESCRIPTOR) as u64;
        let table = &bytes[..bytes.len() / DESCRIPTOR * DESCRIPTOR];
        if total > 0
            && let Ok(head) = Header::parse(&header(total, TABLE), size)
            && let Ok(sif) = Sif::parse(head, table, size)
        {
            for object in &sif.objects {
                prop_assert!(object.part.offset + object.part.size <= size);
            }
        }
    }
}
