// A source for the examples in the documentation, what a slow device would be in a program, and a disk that died.
use gibblox_cache::CacheOps;
use gibblox_core::{BlockReader, GibbloxError, GibbloxErrorKind, GibbloxResult, ReadContext};

/// A generated device: block `lba` is filled with its lowest byte.
pub struct Image {
    block_size: u32,
    total_blocks: u64,
}

impl Image {
    pub fn new(block_size: u32, total_blocks: u64) -> Self {
        Self {
            block_size,
            total_blocks,
        }
    }
}

#[async_trait::async_trait]
impl BlockReader for Image {
    fn block_size(&self) -> u32 {
        self.block_size
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok(self.total_blocks)
    }

    fn write_identity(&self, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        write!(out, "image:{}x{}", self.total_blocks, self.block_size)
    }

    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        _ctx: ReadContext,
    ) -> GibbloxResult<usize> {
        for (lba, block) in (lba..).zip(buf.chunks_mut(self.block_size as usize)) {
            block.fill(lba.to_le_bytes()[0]);
        }
        Ok(buf.len())
    }
}

/// A backend of which every call fails.
pub struct DeadDisk;

fn dead<T>() -> GibbloxResult<T> {
    Err(GibbloxError::with_message(GibbloxErrorKind::Io, "the disk is dead"))
}

#[async_trait::async_trait]
impl CacheOps for DeadDisk {
    async fn read_at(&self, _offset: u64, _out: &mut [u8]) -> GibbloxResult<usize> {
        dead()
    }

    async fn write_at(&self, _offset: u64, _data: &[u8]) -> GibbloxResult<()> {
        dead()
    }

    async fn set_len(&self, _len: u64) -> GibbloxResult<()> {
        dead()
    }

    async fn flush(&self) -> GibbloxResult<()> {
        dead()
    }
}
