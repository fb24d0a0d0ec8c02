//! A server that fails, lies, dies and comes back. What was cached stays readable, and what was not is read as soon as
//! the server is well again.

use std::sync::Arc;

use gibblox_cache::CachedBlockReader;
use gibblox_cache_downstream::{open, remote};
use gibblox_cache_store_std::StdCacheOps;
use gibblox_core::{BlockReader, GibbloxErrorKind, ReadContext};
use tokio::task::JoinSet;

use crate::image::{blocks_in, image, read_all_right, read_right};
use crate::program::folder;
use crate::server::{Conduct, PROBE, Server};

/// How often [`HttpReader`](gibblox_http::HttpReader) asks for a range before it gives up.
const TRIES: usize = 3;

/// Reads blocks that are not cached; the server is to blame, and it is an I/O error.
async fn read_fails(reader: &impl BlockReader, lba: u64, blocks: usize) -> String {
    let mut buf = vec![0; blocks * 4096];
    let error = reader
        .read_blocks(lba, &mut buf, ReadContext::FOREGROUND)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), GibbloxErrorKind::Io);
    error.to_string()
}

#[tokio::test]
async fn a_sick_server_costs_what_is_not_cached_and_only_until_it_is_well() {
    let image = image(7, 64 * 4096);
    let server = Server::start(image.clone());
    let folder = folder();
    for (conduct, says) in [
        (Conduct::Fail, "500"),
        (Conduct::Cut, "body"),
        (Conduct::IgnoreRange, "200"),
        (Conduct::Dead, "GET"),
    ] {
        let reader = CachedBlockReader::new(
            remote(&server.url()).await.unwrap(),
            StdCacheOps::open_in(folder.path(), conduct as u32).unwrap(),
        )
        .await
        .unwrap();
        read_right(&reader, &image, 10, 10).await;

        server.conduct(conduct);
        server.take_asked();
        for _ in 0..2 {
            let said = read_fails(&reader, 32, 8).await;
            assert!(said.contains(says), "{conduct:?}: {said}");
            // Between two cached halves: the error belongs to the hole alone.
            read_fails(&reader, 8, 14).await;
            // What is cached outlives the server.
            read_right(&reader, &image, 10, 10).await;
        }
        assert_eq!(reader.get_stats().await.cached_blocks, 10, "{conduct:?}");
        if conduct != Conduct::Dead {
            assert_eq!(
                server.take_asked().len(),
                2 * (TRIES + 2 * TRIES),
                "{conduct:?}"
            );
        }

        server.conduct(Conduct::Serve);
        read_all_right(&reader, &image, 64).await;
        server.take_asked();
        read_all_right(&reader, &image, 3).await;
        assert_eq!(server.take_asked(), [], "{conduct:?}");
    }
}

#[tokio::test]
async fn a_hiccup_that_the_http_reader_survives_is_never_noticed() {
    let image = image(8, 40 * 4096);
    let server = Server::start(image.clone());
    let folder = folder();
    let reader = open(&server.url(), folder.path()).await.unwrap();
    for (lba, conduct) in [
        (0, Conduct::Fail),
        (10, Conduct::Cut),
        (20, Conduct::IgnoreRange),
    ] {
        server.next(TRIES - 1, conduct);
        read_right(&reader, &image, lba, 10).await;
    }
    assert_eq!(server.take_asked().len(), 1 + 3 * TRIES);
    read_right(&reader, &image, 0, 30).await;
    assert_eq!(server.take_asked(), []);
}

#[tokio::test]
async fn a_server_that_dies_in_the_middle_of_a_pass_delays_it() {
    let image = image(10, 60 * 4096);
    let server = Server::start(image.clone());
    let folder = folder();
    let reader = open(&server.url(), folder.path()).await.unwrap();
    server.take_asked();
    for lba in (0..60).step_by(6) {
        if lba % 4 == 0 {
            server.conduct(Conduct::Dead);
            read_fails(&reader, lba, 6).await;
            server.conduct(Conduct::Serve);
        }
        read_right(&reader, &image, lba, 6).await;
    }
    server.take_asked();
    read_all_right(&reader, &image, 60).await;
    assert_eq!(server.take_asked(), []);
}

#[tokio::test]
async fn a_reader_that_gives_up_on_a_slow_server_leaves_its_fetch_to_the_next() {
    let image = image(11, 20 * 4096);
    let server = Server::start(image.clone());
    let folder = folder();
    let reader = Arc::new(open(&server.url(), folder.path()).await.unwrap());
    server.take_asked();

    server.conduct(Conduct::Hold);
    let mut impatient = JoinSet::new();
    impatient.spawn({
        let (reader, image) = (Arc::clone(&reader), image.clone());
        async move { read_right(&*reader, &image, 0, 20).await }
    });
    server.has_been_asked(1).await;
    let mut patient = JoinSet::new();
    for lba in [0, 3, 11] {
        let (reader, image) = (Arc::clone(&reader), image.clone());
        patient.spawn(async move { read_right(&*reader, &image, lba, 9).await });
    }
    // On this runtime everybody else has had a turn by then, and follows.
    tokio::task::yield_now().await;
    impatient.shutdown().await;
    server.conduct(Conduct::Serve);
    while let Some(read) = patient.join_next().await {
        read.unwrap();
    }
    server.take_asked();
    read_all_right(&*reader, &image, 20).await;
    assert_eq!(server.take_asked(), []);
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

/// The name of an HTTP source is its URL, so nothing tells the cache that the bytes behind it are others now. What it
/// has fetched it keeps, block by block. A program whose images change names them apart, in the URL for instance.
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
