//! An image that changes behind its URL.
//!
//! The published `HttpReader` learns the length of the image when it is opened, and nothing else: it sends no
//! condition, looks at no `ETag`, and does not compare the length that later answers name. Its identity is the URL. So
//! a change is not noticed, unless the new image is too short for what is asked or the next start sees another length,
//! and the cache then is what the README says: a mixture, of blocks that are each wholly of one time.

use async_trait::async_trait;
use gibblox_cache::CachedBlockReader;
use gibblox_cache_downstream::{Remote, open, remote};
use gibblox_cache_store_std::StdCacheOps;
use gibblox_core::{BlockReader, GibbloxErrorKind, GibbloxResult, ReadContext};

use crate::image::{Image, Random, blocks_in, blocks_of, image, read_all_right, read_right};
use crate::program::folder;
use crate::server::{PROBE, Server};

const BLOCKS: u64 = 40;

fn version(number: u64) -> Image {
    image(1000 + number, 40 * 4096)
}

#[tokio::test]
async fn every_block_is_wholly_of_the_time_when_it_was_fetched_and_stays_so() {
    let server = Server::start(version(0));
    let folder = folder();
    let mut reader = open(&server.url(), folder.path()).await.unwrap();
    let mut random = Random(22);
    // What each block must hold from now on.
    let mut expected: Vec<Option<Vec<u8>>> = vec![None; 40];
    for step in 0..200 {
        let now = version(step / 20);
        server.replace_image(now.clone());
        if step % 17 == 16 {
            // Another process makes no difference.
            reader = open(&server.url(), folder.path()).await.unwrap();
        }
        let lba = random.below(BLOCKS);
        let blocks = 1 + random.below((BLOCKS - lba).min(3));
        let mut right = Vec::new();
        for lba in lba..lba + blocks {
            let block = &mut expected[usize::try_from(lba).unwrap()];
            right.extend_from_slice(block.get_or_insert_with(|| blocks_of(&now, lba, 1)));
        }
        let mut buf = vec![0xa5; right.len()];
        let read = reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND);
        read.await.unwrap();
        assert!(buf == right, "step {step}: {blocks} blocks from {lba}");
    }
    let of_the_first = expected.iter().zip(0..).filter(|(block, lba)| {
        block
            .as_ref()
            .is_some_and(|block| *block == blocks_of(&version(0), *lba, 1))
    });
    let of_the_first = of_the_first.count();
    // It is a mixture indeed.
    assert!((5..35).contains(&of_the_first), "{of_the_first} blocks");
    assert_eq!(
        server.conditional(),
        0,
        "nobody asks whether it is the same"
    );
}

#[tokio::test]
async fn an_image_that_became_shorter_is_an_error_where_it_ends_and_another_at_the_next_start() {
    let old = image(23, 30 * 4096);
    let new = image(24, 20 * 4096 + 7);
    let server = Server::start(old.clone());
    let folder = folder();
    let reader = open(&server.url(), folder.path()).await.unwrap();
    read_right(&reader, &old, 0, 5).await;
    read_right(&reader, &old, 25, 2).await;
    server.replace_image(new.clone());

    // What was fetched is there, before the new end and behind it.
    read_right(&reader, &old, 0, 5).await;
    read_right(&reader, &old, 25, 2).await;
    read_right(&reader, &new, 5, 15).await;
    for (lba, says) in [(20, "content-range mismatch"), (21, "416"), (29, "416")] {
        let mut buf = vec![0; 4096];
        let read = reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND);
        let error = read.await.unwrap_err();
        assert_eq!(error.kind(), GibbloxErrorKind::Io);
        assert!(error.to_string().contains(says), "{error}");
    }

    // One that became longer is no error at all.
    let longer = image(27, 31 * 4096);
    server.replace_image(longer.clone());
    read_right(&reader, &longer, 20, 5).await;

    server.replace_image(new.clone());
    let reader = open(&server.url(), folder.path()).await.unwrap();
    read_all_right(&reader, &new, 4).await;
}

/// A source whose identity has the tag of its content in it, as the README advises.
struct Tagged {
    remote: Remote,
    tag: String,
}

#[async_trait]
impl BlockReader for Tagged {
    fn block_size(&self) -> u32 {
        self.remote.block_size()
    }

    async fn total_blocks(&self) -> GibbloxResult<u64> {
        self.remote.total_blocks().await
    }

    fn write_identity(&self, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        self.remote.write_identity(out)?;
        write!(out, " {}", self.tag)
    }

    async fn read_blocks(
        &self,
        lba: u64,
        buf: &mut [u8],
        context: ReadContext,
    ) -> GibbloxResult<usize> {
        self.remote.read_blocks(lba, buf, context).await
    }
}

#[tokio::test]
async fn with_a_tag_in_its_identity_an_image_that_changed_is_another_at_the_next_start() {
    let server = Server::start(version(0));
    let folder = folder();
    let path = folder.path().join("one file for all");
    for (number, requests) in [(0, 1), (0, 0), (1, 1), (1, 0), (0, 1)] {
        server.replace_image(version(number));
        let tagged = Tagged {
            remote: remote(&server.url()).await.unwrap(),
            tag: server.tag(),
        };
        let cache = StdCacheOps::open_path(&path).unwrap();
        let reader = CachedBlockReader::new(tagged, cache).await.unwrap();
        assert_eq!(server.take_asked(), [PROBE]);
        read_all_right(&reader, &version(number), BLOCKS).await;
        assert_eq!(server.take_asked().len(), requests);
    }
}

#[tokio::test]
async fn an_image_of_another_length_never_meets_the_old_cache() {
    let old = image(12, 30 * 4096);
    let new = image(13, 31 * 4096 + 5);
    let server = Server::start(old.clone());
    let folder = folder();
    let path = folder.path().join("one file for both");
    for (image, requests) in [(&old, 1), (&old, 0), (&new, 1), (&new, 0), (&old, 1)] {
        server.replace_image(image.clone());
        let remote = remote(&server.url()).await.unwrap();
        let cache = StdCacheOps::open_path(&path).unwrap();
        let reader = CachedBlockReader::new(remote, cache).await.unwrap();
        assert_eq!(server.take_asked(), [PROBE]);
        read_all_right(&reader, image, blocks_in(image)).await;
        assert_eq!(server.take_asked().len(), requests);
    }
}

#[tokio::test]
async fn an_image_that_changes_behind_its_url_is_another_only_under_another_url() {
    let old = image(14, 30 * 4096);
    let new = image(15, 30 * 4096);
    let server = Server::start(old.clone());
    let folder = folder();
    let mut url = server.url();
    let reader = open(&url, folder.path()).await.unwrap();
    read_right(&reader, &old, 0, 10).await;
    server.replace_image(new.clone());
    read_right(&reader, &old, 0, 10).await;
    read_right(&reader, &new, 10, 10).await;

    url.set_query(Some("version=2"));
    let reader = open(&url, folder.path()).await.unwrap();
    read_all_right(&reader, &new, 30).await;
}
