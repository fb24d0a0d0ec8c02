//! A cache file on a file system that runs full, and then is not full any more.

use std::path::Path;
use std::process::Command;

use gibblox_cache_downstream::open;
use gibblox_core::ReadContext;
use tempfile::TempDir;

use crate::image::{image, read_all_right};
use crate::program::{folder, skipped};
use crate::server::{PROBE, Server, bytes_of};

/// A small file system in memory, unmounted when it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount(options: &str) -> Option<Self> {
        let folder = folder();
        mount(options, folder.path()).then(|| Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, options: &str) {
        assert!(mount(&format!("remount,{options}"), self.path()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(self.path()).status().ok();
    }
}

/// Whether that went well. What `mount` says about it is for whoever looks at the output.
fn mount(options: &str, path: &Path) -> bool {
    Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(path)
        .status()
        .is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_full_disk_costs_fetches_and_never_a_read() {
    let Some(disk) = SmallDisk::mount("size=1m") else {
        return skipped("a file system cannot be mounted here");
    };
    let image = image(5, 1000 * 4096);
    let server = Server::start(image.clone());
    let url = server.url();

    let reader = open(&url, disk.path()).await.unwrap();
    read_all_right(&reader, &image, 8).await;
    let counters = reader.counters();
    assert!(counters.backend_write_failures > 0, "{counters:?}");
    let kept = reader.get_stats().await.cached_blocks;
    assert!((100..256).contains(&kept), "{kept} blocks on 1 MiB");

    // What fitted is there, for this process and for the next.
    for reader in [reader, open(&url, disk.path()).await.unwrap()] {
        server.take_asked();
        let before = reader.get_stats().await;
        read_all_right(&reader, &image, 8).await;
        let after = reader.get_stats().await;
        assert!(after.total_hits - before.total_hits >= kept);
        let fetched = bytes_of(&server.take_asked());
        assert!(
            fetched <= (1000 - kept) * 4096,
            "{fetched} bytes with {kept} blocks kept"
        );
    }

    // The same reader goes on where there is room again.
    let reader = open(&url, disk.path()).await.unwrap();
    assert!(
        reader
            .ensure_cached(0, 1000, ReadContext::BACKGROUND)
            .await
            .is_err()
    );
    disk.remount("size=16m");
    reader
        .ensure_cached(0, 1000, ReadContext::BACKGROUND)
        .await
        .unwrap();
    drop(reader);
    server.take_asked();
    let reader = open(&url, disk.path()).await.unwrap();
    read_all_right(&reader, &image, 8).await;
    assert_eq!(server.take_asked(), [PROBE]);
}

#[tokio::test]
async fn without_room_for_a_header_everything_is_read_from_the_server() {
    let Some(disk) = SmallDisk::mount("size=64k") else {
        return skipped("a file system cannot be mounted here");
    };
    std::fs::write(disk.path().join("filler"), vec![1; 64 << 10]).unwrap();
    let image = image(6, 100 * 4096);
    let server = Server::start(image.clone());

    let reader = open(&server.url(), disk.path()).await.unwrap();
    read_all_right(&reader, &image, 10).await;
    assert_eq!(reader.get_stats().await.cached_blocks, 0);
    assert!(reader.flush_cache().await.is_err());

    // With room the file is opened after all: by a read that misses, more and more rarely, or at once by request.
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    disk.remount("size=16m");
    reader.flush_cache().await.unwrap();
    read_all_right(&reader, &image, 10).await;
    server.take_asked();
    read_all_right(&reader, &image, 10).await;
    assert_eq!(server.take_asked(), []);
}
