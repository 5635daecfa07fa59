//! How soon a daemon that died is started again: at once the first time, later each time, and at once again after one
//! that ran for a while.

use std::time::Duration;

/// A daemon that ran for so long was a good one: it has gone on with all volumes, and what killed it is no fault of its start.
/// Longer, and one that is killed every few seconds is away for longer than containers may wait.
const GOOD: Duration = Duration::from_secs(3);
/// One that served all that was waiting for it was, too, if it ran for so long: containers are better off with it than with
/// none, however often it dies.
const USEFUL: Duration = Duration::from_secs(2);
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);
/// One that asked to be started again is, at once, unless it asks that sooner than this.
const BRIEF: Duration = Duration::from_secs(1);

/// Deaths so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// In a row, without a daemon that ran for a while in between.
    pub deaths: u32,
}

impl Pace {
    /// How long to wait after one that ran for so long has died; whether it `served` something, and left nothing waiting.
    pub fn after_death(&mut self, ran: Duration, served: bool) -> Duration {
        if ran >= GOOD || (served && ran >= USEFUL) {
            self.deaths = 0;
        }
        let pause = match self.deaths.checked_sub(1) {
            None => Duration::ZERO,
            Some(times) => FIRST.saturating_mul(1 << times.min(16)).min(LONGEST),
        };
        self.deaths = self.deaths.saturating_add(1);
        pause
    }

    /// How long to wait after one that ran for so long has asked for it.
    pub fn after_request(&mut self, ran: Duration) -> Duration {
        if ran < BRIEF {
            return self.after_death(ran, false);
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_start_anew() {
        let mut pace = Pace::default();
        let brief = Duration::from_secs(2);
        let pauses: Vec<u128> = (0..9)
            .map(|_| pace.after_death(brief, false).as_millis())
            .collect();
        assert_eq!(pauses, [0, 250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(pace.after_death(GOOD, false), Duration::ZERO);
        assert_eq!(pace.after_death(brief, false), FIRST);
        assert_eq!(pace.after_death(brief, true), Duration::ZERO);
        assert_eq!(pace.after_death(Duration::from_secs(1), true), FIRST);
        let before = pace;
        assert_eq!(pace.after_request(brief), Duration::ZERO);
        assert_eq!(pace, before, "who asks for it has not died");
        assert!(pace.after_request(Duration::ZERO) > Duration::ZERO);
    }
}
