//! What programs and shared libraries say of themselves (elf(5)): what kind of machine they are for, and what they are
//! linked with. Pure.
#![forbid(unsafe_code)]

mod linking;

use crate::devices::Bits;
pub use linking::linking;

/// This machine's byte order, in a file's sixth byte.
const ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };
/// Bytes that are needed.
pub const LENGTH: usize = 20;

/// The word size and machine (`EM_X86_64` is 62) of a shared library; `None` for all else, and for the other byte order.
pub fn identify(bytes: &[u8]) -> Option<(Bits, u16)> {
    let bits = match bytes.get(..5)? {
        b"\x7fELF\x01" => Bits::B32,
        b"\x7fELF\x02" => Bits::B64,
        _ => return None,
    };
    const SHARED: u16 = 3;
    (*bytes.get(5)? == ORDER && half(bytes, 16)? == SHARED)
        .then(|| half(bytes, 18))
        .flatten()
        .map(|machine| (bits, machine))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// The machine of libraries for this word size on a machine of this name.
pub fn machine(name: &str, bits: Bits) -> Option<u16> {
    match (name, bits) {
        ("x86_64", Bits::B64) => Some(62),
        ("x86_64", Bits::B32) => Some(3),
        ("aarch64", Bits::B64) => Some(183),
        ("aarch64", Bits::B32) => Some(40),
        ("powerpc64", Bits::B64) => Some(21),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_this_machine_and_all_else() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        // Position-independent programs have the type of libraries.
        let found = identify(&own[..LENGTH]).unwrap();
        assert_eq!(Some(found.1), machine(std::env::consts::ARCH, Bits::B64));
        let with = |at: usize, byte: u8| {
            let mut bytes = own[..LENGTH].to_vec();
            bytes[at] = byte;
            identify(&bytes)
        };
        assert_eq!(with(4, 1), Some((Bits::B32, found.1)));
        for (at, byte) in [(0, 0), (4, 3), (5, 9), (16, 2)] {
            assert_eq!(with(at, byte), None, "{at}");
        }
        for length in 0..LENGTH {
            assert_eq!(identify(&own[..length]), None);
        }
    }
}
