//! Rounds: every contender takes one sample, then every contender takes the next.
//!
//! What disturbs a machine lasts longer than a round, so it disturbs all contenders alike, and a ratio within a round
//! stands where a ratio of two series does not. Who begins moves on from round to round, since whoever comes after a
//! sample that emptied the processor's cache pays for it.

use std::time::{Duration, Instant};

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// No further round is begun after this time.
    pub time: Duration,
    /// But so many rounds are made in any case.
    pub least: usize,
    /// And no more than these.
    pub most: usize,
}

/// One figure of each round. A round that failed has none (it is not a number), and does not count.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// These figures.
    #[must_use]
    pub const fn new(figures: Vec<f64>) -> Self {
        Self(figures)
    }

    /// A single figure that does not vary.
    #[must_use]
    pub fn exact(figure: f64) -> Self {
        Self(vec![figure])
    }

    /// How many there are.
    #[must_use]
    pub const fn rounds(&self) -> usize {
        self.0.len()
    }

    /// Smaller than this are `part` of 1 of the figures.
    #[must_use]
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.retain(|figure| !figure.is_nan());
        if sorted.is_empty() {
            return f64::NAN;
        }
        sorted.sort_by(f64::total_cmp);
        let at = part * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }

    /// The figure in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Round by round, this by `other`; where there is no round in which neither failed, one middle by the other.
    #[must_use]
    pub fn by(&self, other: &Self) -> Self {
        let ratios: Vec<f64> = self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect();
        if ratios.iter().all(|ratio| ratio.is_nan()) {
            return Self::exact(self.median() / other.median());
        }
        Self(ratios)
    }

    /// Round by round, this times `other`.
    #[must_use]
    pub fn product(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a * b).collect())
    }

    /// Each figure times `factor`.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|figure| figure * factor).collect())
    }
}

/// Lets `contenders` take turns; a turn returns its figure. The first round warms up and does not count.
pub fn interleave(budget: Budget, contenders: &mut [&mut dyn FnMut() -> f64]) -> Vec<Samples> {
    let mut samples = vec![Samples::default(); contenders.len()];
    for contender in contenders.iter_mut() {
        contender();
    }
    let start = Instant::now();
    for round in 0..budget.most {
        if round >= budget.least && start.elapsed() > budget.time {
            break;
        }
        for turn in 0..contenders.len() {
            let who = (round + turn) % contenders.len();
            samples[who].0.push(contenders[who]());
        }
    }
    samples
}
