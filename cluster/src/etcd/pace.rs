//! When a watch rests. etcd sends each change by itself to each node: what many changes cost it is their number times that
//! of the nodes. A node that begins its watch anew after a rest gets all that has happened since in one message.

use std::time::{Duration, Instant};

/// Over this time changes are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// So many of them are told at once; what comes beyond is told in batches. A watch that begins costs etcd as much as about
/// eight messages, so it pays only when clearly more come in a rest.
const AT_ONCE: usize = 50;
/// How long a watch rests; etcd itself takes up to 100 ms more until it sends.
pub(super) const REST: Duration = Duration::from_millis(300);

/// How fast changes come.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    changes: usize,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            changes: 0,
        }
    }

    /// Counts changes that have come; whether the watch should rest now.
    pub(super) fn is_too_fast(&mut self, changes: usize, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        self.changes = self.changes.saturating_add(changes);
        self.changes > AT_ONCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_changes_are_told_at_once_and_many_in_batches() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        for second in 0..100 {
            let now = begin + Duration::from_secs(second);
            assert!(!pace.is_too_fast(AT_ONCE / 2, now));
            assert!(!pace.is_too_fast(AT_ONCE / 2, now));
        }
        // A burst: the first ones at once, then a batch after each rest.
        let begin = begin + Duration::from_secs(200);
        let rests = (0..1000_u32)
            .filter(|change| pace.is_too_fast(1, begin + Duration::from_micros(100) * *change))
            .count();
        assert_eq!(rests, 1000 - AT_ONCE);
        // It is over: at once again.
        assert!(!pace.is_too_fast(1, begin + Duration::from_secs(2)));
    }
}
