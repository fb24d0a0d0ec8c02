//! [`Header`] to bytes, and bytes compared with the header that is expected. Total functions: any bytes are safe.
//!
//! For opening nothing is parsed out of a file and then used: what the file has to say is known before it is read, so
//! its bytes are compared, length by length, and no stored number is ever an allocation or an offset. Whoever has no
//! source to compare with reads the [`Fields`], which are numbers that somebody wrote and no more: they are checked one
//! by one, and in the end the header that they make is compared like any other.

use alloc::vec::Vec;

use gibblox_core::GibbloxResult;

use crate::error::{invalid_input, out_of_memory};
use crate::geometry::Geometry;

use super::checksum::header_check;

pub(crate) const MAGIC: [u8; 7] = *b"GIBBLX!";
pub(crate) const VERSION: u8 = 2;

/// Bytes in front of the identity.
pub(crate) const PREFIX_BYTES: usize = 28;

/// Zeros over these bytes make a header unreadable: the magic and the version, in one sector.
pub(crate) const UNREADABLE: [u8; 8] = [0; 8];

/// Whether a file carries a checksum for every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksums {
    /// A file of 0.0.1.
    Absent,
    /// XXH3-64, as the format describes.
    Xxh3,
}

impl Checksums {
    const fn byte(self) -> u8 {
        match self {
            Self::Absent => 0,
            Self::Xxh3 => 1,
        }
    }
}

/// Why a file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// There is not a byte.
    Empty,
    /// Zeros where the magic and the version belong: a rebuilding was interrupted.
    Blank,
    /// It ends within the header.
    Truncated,
    Magic,
    Version,
    BlockSize,
    TotalBlocks,
    Identity,
    /// It is damaged.
    HeaderCheck,
}

/// What the bytes in front of an identity say. Any of it may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) magic: [u8; 7],
    pub(crate) version: u8,
    /// Whether there are checksums, and the header check.
    kind: [u8; 4],
    pub(crate) block_size: u32,
    pub(crate) total_blocks: u64,
    pub(crate) identity_len: u32,
}

impl Fields {
    pub(crate) const fn of(prefix: &[u8; PREFIX_BYTES]) -> Self {
        let [
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            m6,
            version, //
            k0,
            k1,
            k2,
            k3,
            s0,
            s1,
            s2,
            s3, //
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            t6,
            t7, //
            i0,
            i1,
            i2,
            i3,
        ] = *prefix;
        Self {
            magic: [m0, m1, m2, m3, m4, m5, m6],
            version,
            kind: [k0, k1, k2, k3],
            block_size: u32::from_le_bytes([s0, s1, s2, s3]),
            total_blocks: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            identity_len: u32::from_le_bytes([i0, i1, i2, i3]),
        }
    }
}

/// What a cache file of one source says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header<'a> {
    geometry: Geometry,
    identity: &'a str,
    identity_len: u32,
}

impl<'a> Header<'a> {
    /// Fails where the identity is longer than its length field can say.
    pub(crate) fn new(geometry: Geometry, identity: &'a str) -> GibbloxResult<Self> {
        let identity_len = u32::try_from(identity.len())
            .map_err(|_| invalid_input("the identity is longer than 2^32 bytes"))?;
        Ok(Self {
            geometry,
            identity,
            identity_len,
        })
    }

    /// How many bytes the header takes, with the identity.
    pub(crate) const fn len_bytes(self) -> usize {
        PREFIX_BYTES + self.identity.len()
    }

    /// The bytes of the header.
    pub(crate) fn encode(self, checksums: Checksums) -> GibbloxResult<Vec<u8>> {
        let mut behind = Vec::new();
        behind
            .try_reserve_exact(self.len_bytes())
            .map_err(|_| out_of_memory("the header"))?;
        behind.extend_from_slice(&self.geometry.block_size().to_le_bytes());
        behind.extend_from_slice(&self.geometry.total_blocks().to_le_bytes());
        behind.extend_from_slice(&self.identity_len.to_le_bytes());
        behind.extend_from_slice(self.identity.as_bytes());

        let mut front = [0; 12];
        let fields = MAGIC.into_iter().chain([VERSION, checksums.byte()]);
        for (to, from) in front.iter_mut().zip(fields) {
            *to = from;
        }
        if let (Checksums::Xxh3, [front @ .., a, b, c]) = (checksums, &mut front) {
            [*a, *b, *c] = header_check(front, &behind);
        }
        behind.splice(..0, front);
        Ok(behind)
    }

    /// Compares the first bytes of a file, as many of them as there are up to the header's length.
    pub(crate) fn compare(self, bytes: &[u8]) -> Result<Checksums, Mismatch> {
        if bytes.is_empty() {
            return Err(Mismatch::Empty);
        }
        if bytes.starts_with(&UNREADABLE) {
            return Err(Mismatch::Blank);
        }
        let Some((prefix, identity)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
            return Err(Mismatch::Truncated);
        };
        let fields = Fields::of(prefix);
        if fields.magic != MAGIC {
            return Err(Mismatch::Magic);
        }
        if fields.version != VERSION {
            return Err(Mismatch::Version);
        }
        if fields.block_size != self.geometry.block_size() {
            return Err(Mismatch::BlockSize);
        }
        if fields.total_blocks != self.geometry.total_blocks() {
            return Err(Mismatch::TotalBlocks);
        }
        if fields.identity_len != self.identity_len {
            return Err(Mismatch::Identity);
        }
        let Some(identity) = identity.get(..self.identity.len()) else {
            return Err(Mismatch::Truncated);
        };
        if identity != self.identity.as_bytes() {
            return Err(Mismatch::Identity);
        }
        match fields.kind {
            [0, 0, 0, 0] => Ok(Checksums::Absent),
            [1, a, b, c] => {
                let (front, behind) = bytes.split_at(9);
                let behind = behind.get(3..self.len_bytes() - 9).unwrap_or_default();
                if header_check(front, behind) == [a, b, c] {
                    Ok(Checksums::Xxh3)
                } else {
                    Err(Mismatch::HeaderCheck)
                }
            }
            _ => Err(Mismatch::HeaderCheck),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry::new(512, 10).expect("a valid geometry")
    }

    #[test]
    fn a_header_is_the_bytes_of_the_specification() {
        let header = Header::new(geometry(), "cached:(x)").expect("short");
        let bytes = header.encode(Checksums::Absent).expect("memory");
        let golden = b"GIBBLX!\x02\0\0\0\0\0\x02\0\0\x0A\0\0\0\0\0\0\0\x0A\0\0\0cached:(x)";
        assert_eq!(bytes, golden);
        let bytes = header.encode(Checksums::Xxh3).expect("memory");
        assert_eq!(bytes[..9], *b"GIBBLX!\x02\x01");
        assert_eq!(bytes[9..12], [0x01, 0x03, 0x83]);
        assert_eq!(bytes[12..], golden[12..]);
    }

    #[test]
    fn every_damage_and_every_length_is_told() {
        let header = Header::new(geometry(), "cached:(x)").expect("short");
        for checksums in [Checksums::Absent, Checksums::Xxh3] {
            let bytes = header.encode(checksums).expect("memory");
            assert_eq!(header.compare(&bytes), Ok(checksums));
            for len in 0..bytes.len() {
                assert!(header.compare(&bytes[..len]).is_err(), "{len}");
            }
            for at in 0..bytes.len() {
                for value in 0..=255 {
                    let mut damaged = bytes.clone();
                    damaged[at] = value;
                    let verdict = header.compare(&damaged);
                    assert_eq!(verdict.is_ok(), damaged == bytes, "byte {at} is {value}");
                }
            }
        }
    }

    #[test]
    fn another_source_is_told_by_every_field() {
        let header = Header::new(geometry(), "cached:(x)").expect("short");
        let others = [
            (512, 10, "cached:(y)", Mismatch::Identity),
            (512, 10, "cached:(xx)", Mismatch::Identity),
            (512, 10, "cached:()", Mismatch::Identity),
            (512, 11, "cached:(x)", Mismatch::TotalBlocks),
            (4096, 10, "cached:(x)", Mismatch::BlockSize),
        ];
        for (block_size, total_blocks, identity, expected) in others {
            let geometry = Geometry::new(block_size, total_blocks).expect("valid");
            let other = Header::new(geometry, identity).expect("short");
            let bytes = other.encode(Checksums::Xxh3).expect("memory");
            assert_eq!(header.compare(&bytes), Err(expected));
        }
        assert_eq!(header.compare(&[]), Err(Mismatch::Empty));
        assert_eq!(header.compare(&[0; 38]), Err(Mismatch::Blank));
    }
}
