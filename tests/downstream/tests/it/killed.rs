//! A process that is killed in the middle of a call of its cache file, at every call there is.

use gibblox_cache_downstream::COPIED_BLOCKS;

use crate::image::{assert_file_is, image};
use crate::program::{Program, Site};
use crate::server::{PROBE, Server, bytes_of};

#[test]
fn killed_in_any_call_costs_the_read_under_way_and_no_more() {
    let image = image(4, 40 * 4096 + 99);
    let whole = image.len() as u64;
    let window = COPIED_BLOCKS * 4096;
    let mut kills = 0;
    let mut kills_with_something_kept = 0;
    for call in 0.. {
        let server = Server::start(image.clone());
        let site = Site::new(server.url());
        let output = site.output("output");
        let mut stall = site.command(env!("CARGO_BIN_EXE_stall"), &output);
        let mut program = Program::start(stall.arg(call.to_string()));
        if program.first_line().as_deref() != Some("stalled") {
            program.succeed();
            assert_file_is(&output, &image, 4096);
            break;
        }
        assert!(program.kill());
        kills += 1;
        let fetched_before = bytes_of(&server.take_asked()) - bytes_of(&[PROBE]);

        let read = || {
            Program::start(&mut site.command(env!("CARGO_BIN_EXE_read"), &output)).succeed();
            assert_file_is(&output, &image, 4096);
            let asked = server.take_asked();
            assert_eq!(asked[0], PROBE);
            bytes_of(&asked[1..])
        };
        let fetched_after = read();
        assert!(
            fetched_before + fetched_after <= whole + window,
            "killed in call {call}: {fetched_before} bytes fetched before and {fetched_after} after"
        );
        kills_with_something_kept += u32::from(fetched_after < whole);
        assert_eq!(read(), 0, "killed in call {call}");
    }
    // Six reads of the image, each with three writes, and what opening takes.
    assert!(
        kills >= 18 && kills_with_something_kept >= 15,
        "{kills} kills"
    );
}
