//! A short look before a long wait: what is expected within microseconds is polled for, because to be put to sleep and woken up
//! again takes longer than that. Bounded, and only while nobody else wants the processor and while it pays.

use std::thread;
use std::time::{Duration, Instant};

/// How long it is polled at most.
const AT_MOST: Duration = Duration::from_micros(50);
/// After a longer silence than this nothing is expected soon.
const RECENT: Duration = Duration::from_millis(1);
/// Who gave the processor away and has it back after more than this, has had it shared with somebody else.
const SHARED: Duration = Duration::from_micros(8);
/// After so many misses in a row, two to the power of that many waits are not preceded by polling.
const MOST_MISSES: u32 = 8;

/// Whether it pays to poll.
#[derive(Debug, Default)]
pub(super) struct Spin {
    last: Option<Instant>,
    misses: u32,
    skip: u32,
}

impl Spin {
    /// Polls for something, if it is likely to come soon; nothing if it did not.
    pub(super) fn until<T>(&mut self, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
        if let Some(found) = poll() {
            return Some(found);
        }
        let begun = Instant::now();
        let is_recent = self.last.is_some_and(|last| begun - last < RECENT);
        if !is_recent {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let mut before = begun;
        while before - begun < AT_MOST {
            thread::yield_now();
            if let Some(found) = poll() {
                self.misses = 0;
                return Some(found);
            }
            let now = Instant::now();
            if now - before > SHARED {
                break;
            }
            before = now;
        }
        self.misses = MOST_MISSES.min(self.misses + 1);
        self.skip = (1 << self.misses) - 1;
        None
    }

    /// Something has come.
    pub(super) fn came(&mut self) {
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_taken_without_waiting() {
        assert_eq!(Spin::default().until(|| Some(1)), Some(1));
    }

    #[test]
    fn nothing_is_polled_for_that_is_not_expected() {
        let mut polls = 0;
        let mut spin = Spin::default();
        let mut look = |spin: &mut Spin| {
            let before = polls;
            assert_eq!(
                spin.until(|| {
                    polls += 1;
                    None::<()>
                }),
                None
            );
            polls - before
        };
        assert_eq!(look(&mut spin), 1, "nothing has ever come");
        spin.came();
        assert!(look(&mut spin) > 1, "something has just come");
        spin.came();
        assert_eq!(look(&mut spin), 1, "it did not pay");
        spin.came();
        assert!(look(&mut spin) > 1, "it is tried again");
    }

    #[test]
    fn it_ends() {
        let mut spin = Spin::default();
        let begun = Instant::now();
        for _ in 0..100 {
            spin.came();
            spin.until(|| None::<()>);
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
