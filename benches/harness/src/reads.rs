//! Reads through a trait object, so that no contender is inlined into the loop around it.

use async_trait::async_trait;
use gibblox_core::{BlockReader, GibbloxResult, ReadContext};

use crate::alloc::count_allocations;
use crate::clock::timed;
use crate::device::{Device, Order};
use crate::poll::ready;

/// What a hit costs at least: a boxed future that copies. It has the bytes of a device.
#[derive(Debug)]
pub struct Copying {
    bytes: Vec<u8>,
    block_size: usize,
}

impl Copying {
    /// Holds all of `device`.
    #[must_use]
    pub fn new(device: &Device) -> Self {
        let mut bytes = vec![0; device.blocks() as usize * device.block_len()];
        device.copy_to(0, &mut bytes);
        Self {
            bytes,
            block_size: device.block_len(),
        }
    }
}

#[async_trait]
impl BlockReader for Copying {
    fn block_size(&self) -> u32 {
        self.block_size as u32
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        Ok((self.bytes.len() / self.block_size) as u64)
    }

    fn write_identity(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        out.write_str("limit")
    }

    async fn read_blocks(&self, lba: u64, buf: &mut [u8], _: ReadContext) -> GibbloxResult<usize> {
        let offset = lba as usize * self.block_size;
        buf.copy_from_slice(&self.bytes[offset..offset + buf.len()]);
        Ok(buf.len())
    }
}

/// One read that does not wait.
pub fn read(reader: &dyn BlockReader, lba: u64, buf: &mut [u8]) {
    let got = ready(reader.read_blocks(lba, buf, ReadContext::FOREGROUND)).unwrap();
    assert_eq!(got, buf.len());
}

/// Reads at the lbas of an order, again and again.
#[allow(missing_debug_implementations, reason = "a reader has none")]
pub struct Reads<'a> {
    reader: &'a dyn BlockReader,
    device: &'a Device,
    order: Order,
    buf: Vec<u8>,
}

impl<'a> Reads<'a> {
    /// Reads `len` bytes at each lba of `order` once and compares them.
    pub fn checked(
        reader: &'a dyn BlockReader,
        device: &'a Device,
        order: &Order,
        len: usize,
    ) -> Self {
        let mut buf = vec![0; len];
        for &lba in order.numbers() {
            buf.fill(0);
            read(reader, lba, &mut buf);
            device.check(lba, &buf);
        }
        Self {
            reader,
            device,
            order: order.clone(),
            buf,
        }
    }

    /// Nanoseconds of one read, from `count` of them.
    pub fn sample(&mut self, count: usize) -> f64 {
        let mut last = 0;
        let nanos = timed(|| last = self.go(count));
        self.device.check(last, &self.buf);
        nanos / count as f64
    }

    fn go(&mut self, count: usize) -> u64 {
        let mut last = 0;
        for _ in 0..count {
            last = self.order.step();
            read(self.reader, last, &mut self.buf);
        }
        last
    }

    /// Allocations of one read.
    pub fn allocations(&mut self) -> f64 {
        let ((), counted) = count_allocations(|| _ = self.go(100));
        counted.calls as f64 / 100.0
    }
}
