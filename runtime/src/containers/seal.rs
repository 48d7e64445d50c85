//! Seals of records. A record names packs, which only root can open and which may be of somebody else's private image; but
//! it lies in a directory of the user's. So a record counts only with a seal that nobody but root on this node can make:
//! HMAC-SHA256 (RFC 2104) over it, its owner and its container's id.
#![forbid(unsafe_code)]

use super::Record;
use crate::error::{Error, Result};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Sha256;

/// What a seal is about, so that the key cannot be made to sign anything else.
const PURPOSE: &[u8] = b"pyxis container record 1\0";

/// The node's secret.
#[derive(Clone)]
pub struct Key([u8; Key::LENGTH]);

impl Key {
    /// Bytes of a key.
    pub const LENGTH: usize = 32;

    /// A key of these bytes, if there are as many.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Key)
    }

    fn mac(&self, uid: u32, id: &str, record: &str) -> Result<Hmac<Sha256>> {
        let mut mac = Hmac::new_from_slice(&self.0).map_err(|error| Error::Host(format!("seal a record: {error}")))?;
        mac.update(PURPOSE);
        mac.update(&uid.to_le_bytes());
        // An id has no NUL byte, so this cannot be read in another way.
        mac.update(id.as_bytes());
        mac.update(b"\0");
        mac.update(record.as_bytes());
        Ok(mac)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(...)")
    }
}

/// A record as it is kept.
#[derive(Serialize, Deserialize)]
struct Sealed {
    seal: String,
    /// The bytes themselves: a later version may know more fields.
    record: Box<RawValue>,
}

/// Seals the record of a container.
pub fn seal(key: &Key, uid: u32, id: &str, record: &Record) -> Result<Vec<u8>> {
    let failed = |error: serde_json::Error| Error::Host(format!("keep a container's record: {error}"));
    let text = serde_json::to_string(record).map_err(failed)?;
    let seal = key.mac(uid, id, &text)?.finalize().into_bytes();
    let sealed = Sealed {
        seal: hex(&seal),
        record: RawValue::from_string(text).map_err(failed)?,
    };
    let mut bytes = serde_json::to_vec(&sealed).map_err(failed)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a record, if its seal is this node's for this user and container.
pub fn open(key: &Key, uid: u32, id: &str, bytes: &[u8]) -> Option<Record> {
    let sealed: Sealed = serde_json::from_slice(bytes).ok()?;
    let seal = unhex(&sealed.seal)?;
    let mac = key.mac(uid, id, sealed.record.get()).ok()?;
    mac.verify_slice(&seal).ok()?;
    serde_json::from_str(sealed.record.get()).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::Layer;
    use crate::digest::Digest;

    fn record() -> Record {
        Record {
            image: "image".into(),
            manifest: None,
            config: Default::default(),
            layers: vec![Layer::Pack(Digest::of(b"layer"))],
            user_marks: false,
        }
    }

    #[test]
    fn a_record_is_good_for_its_node_its_user_and_its_container() {
        let (key, other) = (Key([7; 32]), Key([8; 32]));
        let bytes = seal(&key, 1000, "pyxis_x", &record()).unwrap();
        assert_eq!(open(&key, 1000, "pyxis_x", &bytes), Some(record()));
        assert_eq!(open(&other, 1000, "pyxis_x", &bytes), None);
        assert_eq!(open(&key, 1001, "pyxis_x", &bytes), None);
        assert_eq!(open(&key, 1000, "pyxis_y", &bytes), None);
    }

    #[test]
    fn a_record_that_was_changed_is_none() {
        let key = Key([7; 32]);
        let bytes = seal(&key, 1000, "pyxis_x", &record()).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let wanted = Digest::of(b"secret").to_string();
        let forged = text.replace(&Digest::of(b"layer").to_string(), &wanted);
        assert_ne!(forged, text);
        let unsealed = format!(
            "{{\"seal\":\"\",\"record\":{}}}",
            serde_json::to_string(&record()).unwrap()
        );
        for spoiled in [
            &forged,
            &unsealed,
            "",
            "{}",
            "null",
            text.get(..text.len() / 2).unwrap(),
            "{\"seal\":\"é\",\"record\":1}",
        ] {
            assert_eq!(open(&key, 1000, "pyxis_x", spoiled.as_bytes()), None, "{spoiled}");
        }
    }

    #[test]
    fn a_later_version_may_add_fields() {
        let key = Key([7; 32]);
        let mut later = serde_json::to_value(record()).unwrap();
        later["colour"] = "red".into();
        let text = later.to_string();
        let seal = hex(&key.mac(1, "x", &text).unwrap().finalize().into_bytes());
        let bytes = format!("{{\"seal\":\"{seal}\",\"record\":{text}}}");
        assert_eq!(open(&key, 1, "x", bytes.as_bytes()), Some(record()));
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", Key([7; 32])), "Key(...)");
        assert!(Key::of(&[7; 31]).is_none());
    }
}
