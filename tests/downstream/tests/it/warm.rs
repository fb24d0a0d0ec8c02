//! Cold reads fetch each block once, warm ones nothing, in the same process and in others.

use std::ops::Range;

use gibblox_cache_downstream::{BLOCK_SIZE, open};
use gibblox_core::ReadContext;

use crate::image::{assert_file_is, image, read_all_right, read_right};
use crate::program::{Program, Site, folder};
use crate::server::{PROBE, Server, bytes_of};

/// The bytes from block `lba` up to block `end`.
fn blocks(lba: u64, end: u64) -> Range<u64> {
    lba * u64::from(BLOCK_SIZE)..end * u64::from(BLOCK_SIZE)
}

#[tokio::test]
async fn cold_reads_fetch_each_missing_run_once_and_warm_ones_nothing() {
    let image = image(1, 64 * 4096);
    let server = Server::start(image.clone());
    let folder = folder();
    let reader = open(&server.url(), folder.path()).await.unwrap();
    assert_eq!(server.take_asked(), [PROBE]);

    read_right(&reader, &image, 8, 4).await;
    assert_eq!(server.take_asked(), [blocks(8, 12)]);
    read_right(&reader, &image, 20, 1).await;
    assert_eq!(server.take_asked(), [blocks(20, 21)]);

    // A request with three holes: each is fetched by itself, and what is there is not fetched again.
    read_right(&reader, &image, 4, 20).await;
    let mut holes = server.take_asked();
    holes.sort_by_key(|range| range.start);
    assert_eq!(holes, [blocks(4, 8), blocks(12, 20), blocks(21, 24)]);

    read_right(&reader, &image, 4, 20).await;
    assert_eq!(server.take_asked(), []);
    let stats = reader.get_stats().await;
    assert_eq!((stats.total_hits, stats.total_misses), (5 + 20, 5 + 15));
    assert_eq!((stats.cached_blocks, stats.total_blocks), (20, 64));

    reader
        .ensure_cached(0, 64, ReadContext::BACKGROUND)
        .await
        .unwrap();
    let mut rest = server.take_asked();
    rest.sort_by_key(|range| range.start);
    assert_eq!(rest, [blocks(0, 4), blocks(24, 64)]);
    read_all_right(&reader, &image, 64).await;
    assert_eq!(server.take_asked(), []);
}

#[tokio::test]
async fn an_image_that_ends_inside_a_block_ends_in_zeros_cold_and_warm() {
    let image = image(2, 9 * 4096 + 777);
    let server = Server::start(image.clone());
    let folder = folder();
    for requests in [2, 0] {
        let reader = open(&server.url(), folder.path()).await.unwrap();
        assert_eq!(server.take_asked(), [PROBE]);
        read_all_right(&reader, &image, 5).await;
        assert_eq!(server.take_asked().len(), requests);
    }
}

#[test]
fn a_second_process_fetches_nothing() {
    let image = image(3, 100 * 4096 + 1);
    let server = Server::start(image.clone());
    let site = Site::new(server.url());
    let output = site.output("output");
    let read = || {
        let mut program = Program::start(&mut site.command(env!("CARGO_BIN_EXE_read"), &output));
        let said = program.first_line();
        program.succeed();
        assert_file_is(&output, &image, 4096);
        said.unwrap()
    };
    assert_eq!(read(), "0 hits, 101 misses");
    let asked = server.take_asked();
    assert_eq!(asked[0], PROBE);
    assert_eq!(bytes_of(&asked[1..]), image.len() as u64);
    for _ in 0..2 {
        assert_eq!(read(), "101 hits, 0 misses");
        assert_eq!(server.take_asked(), [PROBE]);
    }
}

#[test]
fn processes_that_share_a_cache_file_from_its_first_moment_read_right_bytes() {
    for seed in 0..8 {
        let image = image(seed, 300 * 4096 + 5);
        let server = Server::start(image.clone());
        let site = Site::new(server.url());
        let outputs = ["a", "b", "c"].map(|name| site.output(name));
        for _ in 0..2 {
            let programs = outputs.each_ref().map(|output| {
                Program::start(&mut site.command(env!("CARGO_BIN_EXE_read"), output))
            });
            for (program, output) in programs.into_iter().zip(&outputs) {
                program.succeed();
                assert_file_is(output, &image, 4096);
            }
        }
        // They read eight blocks at a time, whose bits are one byte of the file, so none took a bit from another.
        server.take_asked();
        Program::start(&mut site.command(env!("CARGO_BIN_EXE_read"), &outputs[0])).succeed();
        assert_file_is(&outputs[0], &image, 4096);
        assert_eq!(server.take_asked(), [PROBE]);
    }
}
