//! A server that knows nothing of ranges: it sends the whole image, whatever is asked for.

use gibblox_cache_downstream::open;
use gibblox_core::{BlockReader, GibbloxErrorKind, ReadContext};

use crate::image::{blocks_in, image, read_all_right, read_right};
use crate::program::folder;
use crate::server::{Conduct, Server};

#[tokio::test]
async fn a_server_without_ranges_gives_a_clear_error_and_never_wrong_bytes() {
    // Its last block is not whole, and one of its requests is as long as the image.
    let image = image(20, 5 * 4096 + 100);
    let total = blocks_in(&image);
    let server = Server::start(image.clone());
    server.conduct(Conduct::IgnoreRange);
    let folder = folder();
    let reader = open(&server.url(), folder.path()).await.unwrap();
    for lba in 0..total {
        for blocks in 1..=total - lba {
            if (lba, blocks) == (0, total) {
                continue;
            }
            let mut buf = vec![0xa5; usize::try_from(blocks).unwrap() * 4096];
            let read = reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND);
            let error = read.await.unwrap_err();
            assert_eq!(error.kind(), GibbloxErrorKind::Io);
            let says = error.to_string();
            // From the beginning on, the whole image might have been what was asked for.
            let says_why = match lba {
                0 => says.contains("content-length mismatch"),
                _ => says.contains("200") && says.contains("206"),
            };
            assert!(says_why, "{blocks} blocks from {lba}: {says}");
            let ensured = reader.ensure_cached(lba, blocks, ReadContext::BACKGROUND);
            assert_eq!(ensured.await.unwrap_err().kind(), GibbloxErrorKind::Io);
        }
    }
    assert_eq!(reader.get_stats().await.cached_blocks, 0);

    // A request for the whole image gets what it asks for.
    read_right(&reader, &image, 0, total).await;
    server.take_asked();
    read_all_right(&reader, &image, 1).await;
    assert_eq!(server.take_asked(), []);
}

#[tokio::test]
async fn a_server_that_has_learnt_about_ranges_is_read_at_last() {
    let image = image(21, 40 * 4096);
    let server = Server::start(image.clone());
    server.conduct(Conduct::IgnoreRange);
    let folder = folder();
    let reader = open(&server.url(), folder.path()).await.unwrap();
    let mut buf = vec![0; 4096];
    for lba in 0..40 {
        let read = reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND);
        read.await.unwrap_err();
    }
    server.conduct(Conduct::Serve);
    read_all_right(&reader, &image, 6).await;
    server.take_asked();
    read_all_right(&reader, &image, 40).await;
    assert_eq!(server.take_asked(), []);
}
