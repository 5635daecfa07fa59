//! How long to pause before the next attempt. Pure: the jitter comes from outside.

use std::time::Duration;

/// Pauses that double from the shortest to the longest, each shortened by up to half, so that nodes that lost the same
/// peer do not come back all at once.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    pub const fn new(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest,
            failures: 0,
        }
    }

    /// An attempt has failed.
    pub const fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// A session has held.
    pub const fn held(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt: none after a session that has held. `jitter` is any number.
    pub fn pause(&self, jitter: u32) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let full = self.shortest.saturating_mul(factor).min(self.longest);
        full - (full / 2).mul_f64(f64::from(jitter) / f64::from(u32::MAX))
    }
}
