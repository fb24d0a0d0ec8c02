//! The cache file, version 2. This page is the specification; the tests pin it by golden bytes.
//!
//! All integers are little-endian. The regions lie back to back:
//!
//! ```text
//!  offset
//!  0              ┌──────────────────────────────────────────────┐
//!                 │ header: 28 bytes, then the identity          │
//!  28 + I         ├──────────────────────────────────────────────┤
//!                 │ validity bitmap: 1 bit a block               │
//!  28 + I + ⌈N/8⌉ ├──────────────────────────────────────────────┤
//!                 │ data: block i at i × block size              │
//!  … + N × size   ├──────────────────────────────────────────────┤
//!                 │ checksums: 8 bytes a block, if byte 8 says 1 │
//!  … + N × 8      └──────────────────────────────────────────────┘
//!    I: bytes of the identity        N: number of blocks
//! ```
//!
//! # Header
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 7 | magic `GIBBLX!` |
//! | 7 | 1 | version, 2 |
//! | 8 | 1 | checksums: 0 none, 1 XXH3 |
//! | 9 | 3 | header check; zero where there are no checksums |
//! | 12 | 4 | block size in bytes, a power of two |
//! | 16 | 8 | number of blocks |
//! | 24 | 4 | length of the identity in bytes |
//! | 28 | I | identity, UTF-8: who the cached reader is |
//!
//! The header check is the low 24 bits of XXH3-64 over bytes 0 to 8, then bytes 12 to the end of the identity; where
//! these bits are all zero it is 1. With byte 8 it tells a damaged header of ours from one of the published 0.0.1,
//! which writes four zeros there and does not read them.
//!
//! # Bitmap
//!
//! Block i is bit i % 8, counted from the least significant, of byte i / 8. Bits past the last block are zero when
//! written and ignored when read. A set bit claims that the block's bytes, and its checksum, were written before.
//!
//! # Checksums
//!
//! The checksum of block i is
//!
//! ```text
//! XXH3-64(bytes of the block) xor XXH3-64(i as 8 bytes, seed = XXH3-64(identity))
//! ```
//!
//! and 1 where that is 0, so that a slot that was never written matches nothing. The second half binds it to its place
//! and its source: a block with its checksum in another's place, or one that another source left behind, does not
//! match. A valid bit alone proves nothing, since a loss of power may keep it and lose the bytes (I1).
//!
//! # Order of writes
//!
//! A file is rebuilt in this order: the magic is overwritten with zeros, *flush*, length, bitmap of zeros, *flush*,
//! header, *flush*. So a header that can be read lies in front of a bitmap that belongs to it (I6). A fresh file has
//! no magic to overwrite. Between two flushes the medium may keep any subset of the writes, torn at any sector.
//!
//! A block is cached as data, checksum, bit, in this order without a flush between them: the checksum, not the
//! order, is what the next process relies on.
//!
//! # Exchange with 0.0.1
//!
//! A file with zeros at 8 has no checksums: it is used as it is, with as much trust as 0.0.1 had. A file with
//! checksums is served by 0.0.1, which cuts the checksums off; what is missing of them here makes its blocks not
//! valid, and slots that read zero match nothing.

pub(crate) mod checksum;
#[cfg(all(feature = "std", any(unix, windows)))]
pub(crate) mod family;
pub(crate) mod header;
pub(crate) mod layout;
