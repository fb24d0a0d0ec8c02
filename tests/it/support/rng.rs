//! Chance that happens again: a seeded generator, and the loop that prints the seed that failed.

use std::thread;

/// The environment variable that replays one seed.
const SEED: &str = "GIBBLOX_TEST_SEED";
/// The environment variable that multiplies how many seeds are tried.
const SCALE: &str = "GIBBLOX_TEST_SCALE";

/// The step of splitmix64: a good mix of all 64 bits (Steele, Lea, Flood, 2014).
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A splitmix64 generator.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: mix(seed) }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// An index into something that is `len` long.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A run of 1 to `longest` blocks on a device of `total` blocks.
    pub(crate) fn run(&mut self, total: u64, longest: u64) -> (u64, u64) {
        let lba = self.below(total);
        let blocks = 1 + self.below(longest.min(total - lba));
        (lba, blocks)
    }
}

/// Says on the way out of a panic how to see it again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if thread::panicking() {
            let thread = thread::current();
            let test = thread.name().unwrap_or("it");
            let seed = self.0;
            eprintln!("replay: {SEED}={seed} cargo test --test it -- --exact {test}");
        }
    }
}

/// How many times more than usual the seeded tests try, from the environment.
pub(crate) fn scale() -> u64 {
    std::env::var(SCALE).map_or(1, |text| text.parse().expect("a scale is a number"))
}

/// Runs `test` for `count` seeds times [`scale`], or for the one seed that the environment names.
pub(crate) fn for_seeds(count: u64, mut test: impl FnMut(&mut Rng)) {
    let mut run = |seed| {
        let _replay = Replay(seed);
        test(&mut Rng::new(seed));
    };
    if let Ok(text) = std::env::var(SEED) {
        run(text.parse().expect("a seed is a number"));
    } else {
        (0..count * scale()).for_each(run);
    }
}
