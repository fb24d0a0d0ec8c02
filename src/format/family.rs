//! A magic number check with a second look: whether a file may be overwritten as a cache.
//!
//! A backend over files is given paths by people, and people mistype them. A reader overwrites whatever it does not
//! recognise, so the file backend asks here first. A file is of this family if it is empty, if it begins with the magic,
//! or if a rebuild of it was interrupted.
//!
//! The first bytes of an interrupted rebuild are zeros, and so are those of an ext4, EROFS or ISO 9660 image, of a blank
//! disk, and of many other files. So zeros prove nothing here. What proves a rebuild is the identity behind them: it
//! begins with `cached:(` in every file of this family, and a rebuild leaves these eight bytes where they are until it
//! writes the new header, which has the same eight. A new file has nothing to leave there. So before it is built the
//! backend writes [`BEGUN`], a header that claims nothing and carries them.

use super::header::{BEGUN_BYTES, MAGIC, UNREADABLE};

pub(crate) use super::header::BEGUN;

/// How much of a file [`is_of_this_family`] looks at.
pub(crate) const LOOK_BYTES: usize = BEGUN_BYTES;

/// What every identity begins with.
const IDENTITY: [u8; 8] = *b"cached:(";

/// Whether a file that begins with `bytes` is empty or a cache file. `bytes` are its first [`LOOK_BYTES`], or all of it.
pub(crate) fn is_of_this_family(bytes: &[u8]) -> bool {
    if bytes.is_empty() || bytes.starts_with(&MAGIC) {
        return true;
    }
    if !bytes.starts_with(&UNREADABLE) {
        return false;
    }
    let block_size = bytes.get(12..16).and_then(|bytes| bytes.try_into().ok());
    let block_size = block_size.map_or(0, u32::from_le_bytes);
    bytes.ends_with(&IDENTITY) && bytes.len() == LOOK_BYTES && block_size.is_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::checksum::Checksums;
    use crate::format::header::Header;
    use crate::geometry::Geometry;
    use alloc::vec;
    use alloc::vec::Vec;

    fn header(identity: &str, checksums: Checksums) -> Vec<u8> {
        let geometry = Geometry::new(512, 10).expect("valid");
        let header = Header::new(geometry, identity).expect("short");
        header.encode(checksums).expect("memory")
    }

    fn look(bytes: &[u8]) -> bool {
        is_of_this_family(&bytes[..bytes.len().min(LOOK_BYTES)])
    }

    #[test]
    fn what_a_rebuild_leaves_is_of_this_family_whatever_was_there_before() {
        for checksums in [Checksums::Absent, Checksums::Xxh3] {
            for old in ["cached:()", "cached:(a long name of a source)"] {
                let mut bytes = header(old, checksums);
                assert!(look(&bytes));
                bytes[..8].fill(0);
                assert!(look(&bytes));
                // The bitmap of the shortest header there is has been cleared.
                bytes.resize(100, 0);
                bytes[37..].fill(0);
                assert!(look(&bytes));
            }
        }
        assert!(look(&[]));
        assert!(look(&BEGUN));
        assert!(look(b"GIBBLX!"));
    }

    #[test]
    fn zeros_are_not_of_this_family() {
        for len in [1, 7, 8, 28, 35, 36, 37, 512, 4096] {
            assert!(!look(&vec![0; len]), "{len} zeros");
        }
        // An ISO 9660 image, and an MBR of which only the signature is set, look like this.
        let mut image = vec![0; 512];
        image[510..].copy_from_slice(&[0x55, 0xAA]);
        assert!(!look(&image));
    }

    #[test]
    fn no_byte_of_the_evidence_can_be_missing() {
        for at in (0..8).chain(28..36) {
            let mut bytes = BEGUN;
            bytes[at] ^= 1;
            assert!(!look(&bytes), "byte {at}");
        }
        for block_size in [0_u32, 3, 511] {
            let mut bytes = BEGUN;
            bytes[12..16].copy_from_slice(&block_size.to_le_bytes());
            assert!(!look(&bytes), "blocks of {block_size}");
        }
        for len in 8..BEGUN.len() {
            assert!(!look(&BEGUN[..len]), "{len} bytes");
        }
        assert!(!look(b"#!/bin/sh\n"));
        assert!(!look(b"GIBBLX"));
    }
}
