//! A server that fails, lies, dies and comes back. What was cached stays readable, and what was not is read as soon as
//! the server is well again.

use std::net::Ipv4Addr;
use std::sync::Arc;

use gibblox_cache::CachedBlockReader;
use gibblox_cache_downstream::{BLOCK_SIZE, open, remote};
use gibblox_cache_store_std::StdCacheOps;
use gibblox_core::{BlockByteReader, BlockReader, GibbloxErrorKind, ReadContext};
use gibblox_http::{HttpReader, HttpReaderConfig};
use tokio::task::JoinSet;

use crate::image::{Image, image, read_all_right, read_right};
use crate::program::{folder, skipped};
use crate::server::{Conduct, Server};

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

/// A read in a task of its own.
fn spawn_read(
    tasks: &mut JoinSet<()>,
    reader: &Arc<impl BlockReader + 'static>,
    image: &Image,
    (lba, blocks): (u64, u64),
) {
    let (reader, image) = (Arc::clone(reader), image.clone());
    tasks.spawn(async move { read_right(&*reader, &image, lba, blocks).await });
}

#[tokio::test]
async fn a_body_that_comes_slowly_holds_up_only_those_who_want_it() {
    let image = image(25, 80 * 4096);
    let server = Server::start(image.clone());
    let folder = folder();
    let reader = Arc::new(open(&server.url(), folder.path()).await.unwrap());
    read_right(&*reader, &image, 0, 10).await;

    for gives_up in [false, true] {
        let lba = if gives_up { 50 } else { 20 };
        server.take_asked();
        let sent = server.sent();
        server.next(1, Conduct::Stall);
        let mut slow = JoinSet::new();
        spawn_read(&mut slow, &reader, &image, (lba, 20));
        server.has_sent(sent + 10 * 4096).await;
        let mut followers = JoinSet::new();
        for part in [(lba + 1, 5), (lba + 15, 5)] {
            spawn_read(&mut followers, &reader, &image, part);
        }
        // Half of the body is here by now. What is cached, and what is missing elsewhere, is read at once.
        read_right(&*reader, &image, 0, 10).await;
        read_right(&*reader, &image, lba + 20, 5).await;
        assert!(slow.try_join_next().is_none() && followers.try_join_next().is_none());
        if gives_up {
            slow.shutdown().await;
        } else {
            server.go_on();
            slow.join_next().await.unwrap().unwrap();
        }
        while let Some(read) = followers.join_next().await {
            read.unwrap();
        }
        if !gives_up {
            let slow_and_other = [
                lba * 4096..(lba + 20) * 4096,
                (lba + 20) * 4096..(lba + 25) * 4096,
            ];
            assert_eq!(server.take_asked(), slow_and_other);
        }
    }
    // None of the blocks of which half had come is taken for whole.
    read_all_right(&*reader, &image, 7).await;
    server.take_asked();
    read_all_right(&*reader, &image, 80).await;
    assert_eq!(server.take_asked(), []);
}

#[tokio::test]
async fn a_server_that_is_gone_costs_nothing_that_is_cached_and_may_come_back() {
    // An address that nobody connects from, so that its port is still free when the server comes back.
    let address = (Ipv4Addr::new(127, 0, 0, 2), 0).into();
    let image = image(26, 30 * 4096 + 9);
    let Ok(server) = Server::start_at(address, image.clone()) else {
        return skipped("there is no 127.0.0.2 here");
    };
    let (url, address) = (server.url(), server.address());
    let folder = folder();
    let reader = open(&url, folder.path()).await.unwrap();
    read_right(&reader, &image, 0, 20).await;
    drop(server);

    read_right(&reader, &image, 0, 20).await;
    read_fails(&reader, 18, 4).await;
    // Who has to ask for the length cannot start; who knows it can, and has what an earlier process cached.
    assert_eq!(
        remote(&url).await.err().unwrap().kind(),
        GibbloxErrorKind::Io
    );
    let config = HttpReaderConfig::with_size(url, BLOCK_SIZE, image.len() as u64);
    let http = HttpReader::open(config).await.unwrap();
    let remote = BlockByteReader::new(http, BLOCK_SIZE).unwrap();
    let cache = StdCacheOps::open_in_for_reader(folder.path(), &remote)
        .await
        .unwrap();
    let second = CachedBlockReader::new(remote, cache).await.unwrap();
    read_right(&second, &image, 0, 20).await;
    read_fails(&second, 20, 1).await;

    let server = Server::start_at(address, image.clone()).unwrap();
    for reader in [&reader, &second] {
        read_all_right(reader, &image, 5).await;
    }
    server.take_asked();
    read_all_right(&second, &image, 31).await;
    assert_eq!(server.take_asked(), []);
}
