//! [`Comparing`]: single-flight of comparisons. Of the tasks that read a run for the first time one reads its checksums and
//! compares, and the others, who have read their bytes by then, wait for that.
//!
//! When a run becomes trusted while a task reads it, and nothing has lost what it had meanwhile, the bytes that the task
//! has read are right: it is a hit that was found late. Where the run is not trusted after all, each compares for itself. A
//! task waits only for a comparison that is not much longer than its own. It holds nothing while it waits, and the task that
//! compares waits for the backend only (I7). A lone reader does what it would do without this.

use crate::claims::{Claims, Ended, Found, Held};
use crate::run::Run;

/// Which runs are being compared.
#[derive(Debug, Default)]
pub(super) struct Comparing {
    claims: Claims<()>,
}

/// The turn to compare a run. However it ends, those who wait go on.
#[derive(Debug)]
#[must_use]
pub(super) struct Turn<'c>(Option<Held<'c, ()>>);

impl Comparing {
    /// A comparison that is longer than this many times its own a task does not wait for.
    const LONGER: u64 = 2;

    /// Waits until a task that compares the beginning of `run` is done with it, if there is one; or holds it back for the
    /// caller to compare.
    ///
    /// Cancellation is strict: a dropped task leaves its turn to the next.
    pub(super) async fn turn(&self, run: Run) -> Turn<'_> {
        let found = self.claims.edit(|edit| match edit.find(run) {
            Found::Free(place, free) => Ok(Some(edit.claim(place, free))),
            Found::Taken(place, part) => {
                let most = part.blocks().saturating_mul(Self::LONGER);
                let is_short = edit.run_at(place).is_some_and(|held| held.blocks() <= most);
                if is_short {
                    Err(edit.follow(place, part, ()))
                } else {
                    Ok(None)
                }
            }
        });
        Turn(match found {
            Ok(held) => held,
            Err(wait) => match wait.await {
                Ended::Told(..) => None,
                Ended::Yours(held) => Some(held),
            },
        })
    }
}

impl Turn<'_> {
    /// The run has been compared, as far as that went. All who wait go on at once.
    pub(super) fn done(self) {
        if let Some(held) = self.0 {
            held.end(&(), |(), _| true);
        }
    }
}
