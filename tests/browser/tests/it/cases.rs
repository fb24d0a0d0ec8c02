//! What holds in a browser.

use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::site::{BLOCK, BLOCKS, Site, all, ranges};

const NOTHING: &[Range<usize>] = &[];

#[tokio::test]
async fn a_reload_and_a_restarted_browser_need_no_data_from_the_network() {
    let site = Site::start().await;
    let browser = site.browser().await;
    browser.navigate(&site.server.url()).await;
    site.assert_report(&browser.report().await, "file", 0, BLOCKS);
    site.assert_asked(1, &all());

    browser.reload().await;
    site.assert_report(&browser.report().await, "file", BLOCKS, BLOCKS);
    site.assert_asked(1, NOTHING);
    browser.quit().await;

    let browser = site.browser().await;
    browser.navigate(&site.server.url()).await;
    let report = browser.report().await;
    site.assert_report(&report, "file", BLOCKS, BLOCKS);
    site.assert_asked(1, NOTHING);

    // What a person sees of it.
    let shown = browser.run("return document.body.innerText;").await;
    let shown = shown.as_str().unwrap();
    for text in [
        "Warm: no block",
        "4,096,000 bytes",
        "1,000 of 1,000 blocks, in a file",
    ] {
        assert!(shown.contains(text), "{text:?} is not in {shown}");
    }
    browser.quit().await;
}

/// The server answers none of the four requests before all of them have arrived.
#[tokio::test]
async fn what_is_fetched_ahead_is_fetched_side_by_side() {
    let site = Site::start().await;
    let browser = site.browser().await;
    let windows = ranges(1 << 20);
    site.server.answer_in_groups_of(windows.len());
    browser
        .navigate(&format!("{}?ahead", site.server.url()))
        .await;
    // A browser's own cache lets requests for the same address through one by one, or all after 20 seconds.
    let report = timeout(Duration::from_secs(15), browser.report()).await;
    let report = report.expect("all four are on their way at once");
    site.assert_report(&report, "file", BLOCKS, BLOCKS);
    site.assert_asked(1, &windows);
    browser.quit().await;
}

#[tokio::test]
async fn a_killed_browser_has_kept_what_was_flushed() {
    let site = Site::start().await;
    let browser = site.browser().await;
    browser.navigate(&site.server.url()).await;
    site.assert_report(&browser.report().await, "file", 0, BLOCKS);
    site.assert_asked(1, &all());
    browser.kill().await;

    let browser = site.browser().await;
    browser.navigate(&site.server.url()).await;
    site.assert_report(&browser.report().await, "file", BLOCKS, BLOCKS);
    site.assert_asked(1, NOTHING);
    browser.quit().await;
}

/// A browser lets one worker at a time open a file. The other tab reads as well, with a cache in memory.
#[tokio::test]
async fn of_two_tabs_one_has_the_file_and_both_read_right_bytes() {
    let site = Site::start().await;
    let browser = site.browser().await;
    let tabs = [browser.tab().await, browser.new_tab().await];
    for tab in &tabs {
        browser.switch_to(tab).await;
        browser.navigate(&site.server.url()).await;
    }
    let mut with_file = vec![];
    let mut without = vec![];
    for tab in &tabs {
        browser.switch_to(tab).await;
        let report = browser.report().await;
        if report["cache"] == "file" {
            site.assert_report(&report, "file", 0, BLOCKS);
            with_file.push(tab);
        } else {
            site.assert_report(&report, "memory", 0, BLOCKS);
            without.push(tab);
        }
    }
    let ([with_file], [without]) = (with_file.as_slice(), without.as_slice()) else {
        panic!("{} tabs have the file", with_file.len());
    };
    site.assert_asked(2, &[all(), all()].concat());

    // As long as the first tab is there, nothing changes for the second.
    browser.switch_to(without).await;
    browser.reload().await;
    let report = browser.report().await;
    site.assert_report(&report, "memory", 0, BLOCKS);
    assert_ne!(report["why_in_memory"], Value::Null);
    let note = browser
        .run("return document.getElementById('note').innerText;")
        .await;
    assert!(note.as_str().unwrap().contains("another tab"), "{note}");
    site.assert_asked(1, &all());

    // Once it is closed, its file is the second's.
    browser.switch_to(with_file).await;
    browser.close_tab().await;
    browser.switch_to(without).await;
    browser.reload().await;
    site.assert_report(&browser.report().await, "file", BLOCKS, BLOCKS);
    site.assert_asked(1, NOTHING);
    browser.quit().await;
}

#[tokio::test]
async fn a_damaged_block_is_fetched_again() {
    let site = Site::start().await;
    let browser = site.browser().await;
    browser.navigate(&site.server.url()).await;
    site.assert_report(&browser.report().await, "file", 0, BLOCKS);
    site.assert_asked(1, &all());
    browser.quit().await;

    let browser = site.browser().await;
    browser.navigate(&site.elsewhere()).await;
    // The middle of the file is the middle of the image, give or take a few blocks.
    let flipped = browser
        .run(
            "const root = await navigator.storage.getDirectory();
            const directory = await root.getDirectoryHandle('gibblox');
            let flipped = 0;
            for await (const handle of directory.values()) {
                const file = await handle.getFile();
                const position = file.size / 2 | 0;
                const data = new Uint8Array(await file.slice(position, position + 1).arrayBuffer());
                data[0] ^= 1;
                const writable = await handle.createWritable({ keepExistingData: true });
                await writable.write({ type: 'write', position, data });
                await writable.close();
                flipped += 1;
            }
            return flipped;",
        )
        .await;
    assert_eq!(flipped, 1, "there is one cache file");

    browser.navigate(&site.server.url()).await;
    let report = browser.report().await;
    // It was valid when the read looked, so it counts as a hit.
    site.assert_report(&report, "file", BLOCKS, BLOCKS);
    assert_eq!(report["counters"]["checksum_mismatched_blocks"], 1);
    let asked = site.server.take_asked();
    let lens: Vec<_> = asked.iter().map(ExactSizeIterator::len).collect();
    assert_eq!(lens, [1, BLOCK], "the length of the image, and one block");

    browser.reload().await;
    site.assert_report(&browser.report().await, "file", BLOCKS, BLOCKS);
    site.assert_asked(1, NOTHING);
    browser.quit().await;
}

/// The file is as long as the image from the beginning, and the browser counts all of it.
#[tokio::test]
async fn without_room_for_the_image_nothing_is_kept_and_all_is_read() {
    let site = Site::start().await;
    let browser = site.browser().await;
    browser.navigate(&site.elsewhere()).await;
    let origin = site.server.url();
    let quota = json!({ "origin": origin, "quotaSize": BLOCKS * BLOCK / 2 });
    browser
        .devtools("Storage.overrideQuotaForOrigin", quota)
        .await;
    browser.navigate(&site.server.url()).await;
    let report = browser.report().await;
    site.assert_report(&report, "file", 0, 0);
    assert_ne!(report["counters"]["backend_write_failures"], 0);
    site.assert_asked(1, &all());

    let no_quota = json!({ "origin": origin });
    browser
        .devtools("Storage.overrideQuotaForOrigin", no_quota)
        .await;
    browser.reload().await;
    let report = browser.report().await;
    site.assert_report(&report, "file", 0, BLOCKS);
    assert_eq!(report["counters"]["backend_write_failures"], 0);
    site.assert_asked(1, &all());
    browser.quit().await;
}

/// A browser opens such files in workers only. Elsewhere the program says so, and reads.
#[tokio::test]
async fn outside_a_worker_the_cache_is_in_memory() {
    let site = Site::start().await;
    let browser = site.browser().await;
    browser.navigate(&site.elsewhere()).await;
    let report = browser
        .run(
            "const { default: init, Image } = await import('/program.js');
            await init();
            const image = await Image.open(new URL('/disk.img', location).href);
            return JSON.parse(await image.read_all());",
        )
        .await;
    site.assert_report(&report, "memory", 0, BLOCKS);
    let why = report["why_in_memory"].as_str().unwrap();
    assert!(why.contains("worker"), "{why}");
    site.assert_asked(1, &all());
    browser.quit().await;
}

/// An error reaches the page as text, at once.
#[tokio::test]
async fn an_image_that_is_not_there_is_an_error_on_the_page() {
    let site = Site::start().await;
    let browser = site.browser().await;
    browser
        .navigate(&format!("{}?image=none.img", site.server.url()))
        .await;
    let report = browser.report().await;
    assert!(report["error"].is_string(), "{report:#}");
    let shown = browser
        .run("return document.getElementById('status').innerText;")
        .await;
    assert!(shown.as_str().unwrap().starts_with("Failed: "), "{shown}");
    site.assert_asked(0, NOTHING);
    browser.quit().await;
}
