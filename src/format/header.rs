//! The header: one encoder and one parser. Total functions: any bytes are safe.
//!
//! No number of a file is believed before it is checked. [`Prefix`] checks what lies before the identity, field by
//! field; [`Prefix::finish`] checks the whole. The reader that opens a file compares the [`Parsed`] header with its own
//! source, and one without a source goes by it.

use alloc::vec::Vec;

use gibblox_core::GibbloxResult;

use crate::error::{invalid_input, out_of_memory};
use crate::geometry::Geometry;

use super::checksum::{CHECK_BYTES, Checksums, header_check};
use super::layout::Layout;

pub(crate) const MAGIC: [u8; 7] = *b"GIBBLX!";
pub(crate) const VERSION: u8 = 2;

/// Where the header check lies.
const CHECK_AT: usize = 9;

/// Bytes in front of the identity.
pub(crate) const PREFIX_BYTES: usize = 28;

/// What a new file may begin with before it is built: zeros for the magic, and the first eight bytes of an identity.
pub(crate) const BEGUN_BYTES: usize = PREFIX_BYTES + 8;

/// The beginning of a new file: a rebuild that was interrupted before it did anything.
pub(crate) const BEGUN: [u8; BEGUN_BYTES] = [
    0, 0, 0, 0, 0, 0, 0, 0, // neither magic nor version
    0, 0, 0, 0, // no checksums
    1, 0, 0, 0, // blocks of one byte
    0, 0, 0, 0, 0, 0, 0, 0, // none of them
    8, 0, 0, 0, // the identity's length
    b'c', b'a', b'c', b'h', b'e', b'd', b':', b'(',
];

/// Zeros over these bytes make a header unreadable: the magic and the version, in one sector.
pub(crate) const UNREADABLE: [u8; 8] = [0; 8];

/// Why bytes are no header of a cache file that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is not a byte.
    Empty,
    /// Zeros where the magic and the version belong: a rebuilding was interrupted.
    Blank,
    /// Another magic.
    NoCache,
    /// Another version.
    Version(u8),
    /// The file ends within it.
    Truncated,
    /// The block size is zero or no power of two, or the file would be longer than 64 bits can say.
    Geometry,
    /// The identity is longer than the caller wants to read.
    LongIdentity(u32),
    /// The identity is not UTF-8.
    Identity,
    /// It does not match its check.
    Check,
}

/// What lies before the identity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix {
    geometry: Geometry,
    kind: [u8; 4],
    header_bytes: usize,
    layout: Layout,
}

/// A whole header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed<'a> {
    pub(crate) geometry: Geometry,
    pub(crate) identity: &'a str,
    pub(crate) checksums: Checksums,
    pub(crate) layout: Layout,
}

fn little_u32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

fn little_u64(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field.map_or(0, |field| u64::from_le_bytes(*field))
}

impl Prefix {
    /// Checks the first bytes of a file, as many of them as there are up to [`PREFIX_BYTES`] or more.
    pub(crate) fn parse(bytes: &[u8], longest_identity_bytes: u32) -> Result<Self, Reason> {
        if bytes.is_empty() {
            return Err(Reason::Empty);
        }
        if bytes.iter().zip(UNREADABLE).all(|(is, zero)| *is == zero) {
            return Err(Reason::Blank);
        }
        if bytes.iter().zip(MAGIC).any(|(is, magic)| *is != magic) {
            return Err(Reason::NoCache);
        }
        match bytes.get(MAGIC.len()) {
            Some(&VERSION) => {}
            Some(version) => return Err(Reason::Version(*version)),
            None => return Err(Reason::Truncated),
        }
        if bytes.len() < PREFIX_BYTES {
            return Err(Reason::Truncated);
        }
        let kind = little_u32(bytes, 8).to_le_bytes();
        let geometry = Geometry::new(little_u32(bytes, 12), little_u64(bytes, 16));
        let geometry = geometry.map_err(|_| Reason::Geometry)?;
        let identity_bytes = little_u32(bytes, 24);
        let header_bytes = usize::try_from(identity_bytes)
            .ok()
            .filter(|_| identity_bytes <= longest_identity_bytes)
            .and_then(|bytes| bytes.checked_add(PREFIX_BYTES))
            .ok_or(Reason::LongIdentity(identity_bytes))?;
        let layout = Layout::new(geometry, header_bytes).map_err(|_| Reason::Geometry)?;
        Ok(Self {
            geometry,
            kind,
            header_bytes,
            layout,
        })
    }

    /// How many bytes the header takes, with the identity.
    pub(crate) const fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// Checks the whole header, which begins with what this was parsed from.
    ///
    /// `bytes` are changed while they are checked, and the same afterwards.
    pub(crate) fn finish<'a>(&self, bytes: &'a mut [u8]) -> Result<Parsed<'a>, Reason> {
        let Some(header) = bytes.get_mut(..self.header_bytes) else {
            return Err(Reason::Truncated);
        };
        let [kind, check @ ..] = self.kind;
        let is_checked = kind == 1 && {
            // The check lies in the middle of what it covers.
            let (covered_bytes, rest) =
                (header.len() - CHECK_BYTES, header.split_at_mut(CHECK_AT).1);
            rest.rotate_left(CHECK_BYTES);
            let found = header_check(header.get(..covered_bytes).unwrap_or_default());
            let (_, rest) = header.split_at_mut(CHECK_AT);
            rest.rotate_right(CHECK_BYTES);
            found == check
        };
        let checksums = match self.kind {
            [0, 0, 0, 0] => Checksums::Absent,
            _ if is_checked => Checksums::Xxh3,
            _ => return Err(Reason::Check),
        };
        let header = &*header;
        let identity = header.get(PREFIX_BYTES..).unwrap_or_default();
        let identity = core::str::from_utf8(identity).map_err(|_| Reason::Identity)?;
        Ok(Parsed {
            geometry: self.geometry,
            identity,
            checksums,
            layout: self.layout,
        })
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

    /// How many bytes the identity has.
    pub(crate) const fn identity_bytes(self) -> u32 {
        self.identity_len
    }

    /// The bytes of the header.
    pub(crate) fn encode(self, checksums: Checksums) -> GibbloxResult<Vec<u8>> {
        let mut header = Vec::new();
        header
            .try_reserve_exact(self.len_bytes())
            .map_err(|_| out_of_memory("the header"))?;
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&[VERSION, checksums.byte()]);
        header.extend_from_slice(&self.geometry.block_size().to_le_bytes());
        header.extend_from_slice(&self.geometry.total_blocks().to_le_bytes());
        header.extend_from_slice(&self.identity_len.to_le_bytes());
        header.extend_from_slice(self.identity.as_bytes());
        let check = match checksums {
            Checksums::Absent => [0; CHECK_BYTES],
            Checksums::Xxh3 => header_check(&header),
        };
        // There is room for them.
        for byte in check.into_iter().rev() {
            header.insert(CHECK_AT, byte);
        }
        Ok(header)
    }

    /// Whether `parsed` is the header of a source of the same identity, whatever its size.
    pub(crate) fn is_of_same_source(&self, parsed: &Parsed<'_>) -> bool {
        self.identity == parsed.identity
    }

    /// Whether `parsed` is the header of the same source, with the same size.
    pub(crate) fn describes(&self, parsed: &Parsed<'_>) -> bool {
        self.geometry == parsed.geometry && self.identity == parsed.identity
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

    /// What a reader of `header` makes of a file that begins with `bytes`: its checksums, if it is used.
    fn used(header: Header<'_>, bytes: &[u8]) -> Result<Option<Checksums>, Reason> {
        let prefix = Prefix::parse(bytes, 64)?;
        let mut bytes = bytes.to_vec();
        let parsed = prefix.finish(&mut bytes)?;
        Ok(header.describes(&parsed).then_some(parsed.checksums))
    }

    #[test]
    fn every_damage_and_every_length_is_told() {
        let header = Header::new(geometry(), "cached:(x)").expect("short");
        for checksums in [Checksums::Absent, Checksums::Xxh3] {
            let bytes = header.encode(checksums).expect("memory");
            assert_eq!(used(header, &bytes), Ok(Some(checksums)));
            for len in 0..bytes.len() {
                assert!(used(header, &bytes[..len]).is_err(), "{len}");
            }
            for at in 0..bytes.len() {
                for value in 0..=255 {
                    let mut damaged = bytes.clone();
                    damaged[at] = value;
                    let verdict = used(header, &damaged);
                    let is_used = matches!(verdict, Ok(Some(_)));
                    assert_eq!(is_used, damaged == bytes, "byte {at} is {value}");
                }
            }
        }
    }

    #[test]
    fn another_source_is_told_by_every_field() {
        let header = Header::new(geometry(), "cached:(x)").expect("short");
        let others = [
            (512, 10, "cached:(y)"),
            (512, 10, "cached:(xx)"),
            (512, 10, "cached:()"),
            (512, 11, "cached:(x)"),
            (4096, 10, "cached:(x)"),
        ];
        for (block_size, total_blocks, identity) in others {
            let geometry = Geometry::new(block_size, total_blocks).expect("valid");
            let other = Header::new(geometry, identity).expect("short");
            let bytes = other.encode(Checksums::Xxh3).expect("memory");
            assert_eq!(used(header, &bytes), Ok(None));
        }
        assert_eq!(used(header, &[]), Err(Reason::Empty));
        assert_eq!(used(header, &[0; 38]), Err(Reason::Blank));
    }

    #[test]
    fn each_reason_is_told_in_its_place() {
        let header = Header::new(geometry(), "cached:(x)").expect("short");
        let bytes = header.encode(Checksums::Xxh3).expect("memory");
        let with = |at: usize, with: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            used(header, &bytes)
        };
        assert_eq!(with(3, b"x"), Err(Reason::NoCache));
        assert_eq!(with(7, &[3]), Err(Reason::Version(3)));
        assert_eq!(with(8, &[2]), Err(Reason::Check));
        assert_eq!(with(12, &[1]), Err(Reason::Geometry));
        assert_eq!(with(16, &[0xFF; 8]), Err(Reason::Geometry));
        assert_eq!(with(24, &[65]), Err(Reason::LongIdentity(65)));
        assert_eq!(with(24, &[0xFF; 4]), Err(Reason::LongIdentity(u32::MAX)));
        assert_eq!(with(24, &[11]), Err(Reason::Truncated));
        assert_eq!(with(30, &[0xFF]), Err(Reason::Check));
        let mut old = header.encode(Checksums::Absent).expect("memory");
        old[30] = 0xFF;
        assert_eq!(used(header, &old), Err(Reason::Identity));
        for len in 1..28 {
            assert_eq!(used(header, &bytes[..len]), Err(Reason::Truncated));
        }
    }
}
