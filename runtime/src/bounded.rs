//! Reading what somebody else wrote: never more than a bound.
#![forbid(unsafe_code)]

use std::io::{Read, Result};

/// All of `from`; `None` when it is more than `most` bytes.
pub fn read(from: impl Read, most: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_more_than_allowed_is_not_given() {
        assert_eq!(read(&b"1234"[..], 4).unwrap().as_deref(), Some(&b"1234"[..]));
        assert_eq!(read(&b"12345"[..], 4).unwrap(), None);
        assert_eq!(read(std::io::repeat(0), 4).unwrap(), None);
    }
}
