//! A disk that is full.

use crate::support::{Folder, Source, finish};
use gibblox_cache::{CachedBlockReader, FileCacheOps};
use gibblox_core::{BlockReader, ReadContext};
use std::process::Command;

#[test]
fn a_full_disk_costs_the_cache_and_no_read() {
    let folder = Folder::new();
    let mount = |args: &[&str]| {
        Command::new("mount")
            .args(args)
            .arg(folder.path())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"]) {
        println!("skipped: mounting is not allowed here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let source = Source::new("a", 1);
        let file = FileCacheOps::open(folder.join("cache")).expect("a new file");
        let reader = finish(CachedBlockReader::new(source.clone(), file)).expect("opens");
        for lba in 0..64 {
            let mut buf = [0; 4096];
            finish(reader.read_blocks(lba, &mut buf, ReadContext::FOREGROUND)).expect("reads");
            assert!(buf.iter().all(|byte| *byte == 1));
        }
        let cached = finish(reader.get_stats()).cached_blocks;
        assert!((1..16).contains(&cached), "{cached} blocks fit");
        finish(reader.ensure_cached(0, 64, ReadContext::FOREGROUND)).expect_err("they do not fit");
    });
    let unmounted = Command::new("umount").arg(folder.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
