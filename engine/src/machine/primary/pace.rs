//! How fast copies and comparisons go while the volume is used (R4): in the gaps that its users leave, and never slower
//! than a floor, so that a rebuild ends under any load.

use std::time::Duration;

use crate::machine::time::Time;

/// Users that have been quiet for this long are taken as gone.
const QUIET: Duration = Duration::from_millis(100);

/// What may be copied although the volume is in use.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second.
    floor: u64,
    /// Bytes that the floor allows now; beyond `burst` they lapse.
    allowed: u64,
    burst: u64,
    refilled: Time,
    /// When an operation of the users was last under way.
    busy: Time,
}

impl Pace {
    /// `unit` is the most that is asked for at once: the burst is at least that.
    pub(super) fn new(now: Time, floor: u64, unit: u64) -> Self {
        Self {
            floor,
            allowed: 0,
            burst: unit.max(floor / 2),
            refilled: now,
            busy: now,
        }
    }

    /// Whether `bytes` may be copied now. `busy`: an operation of the users is under way.
    pub(super) fn admit(&mut self, now: Time, busy: bool, bytes: u64) -> bool {
        let since = now.since(self.refilled).as_micros().min(10_000_000) as u64;
        let more = self.floor.saturating_mul(since) / 1_000_000;
        if more > 0 {
            self.allowed = self.burst.min(self.allowed + more);
            self.refilled = now;
        }
        if busy {
            self.busy = now;
            if self.allowed < bytes {
                return false;
            }
        }
        self.allowed = self.allowed.saturating_sub(bytes);
        true
    }

    /// How many copies may be under way at the same time, of `most`.
    pub(super) fn window(&mut self, now: Time, busy: bool, most: usize) -> usize {
        if busy {
            self.busy = now;
        }
        if now.since(self.busy) >= QUIET {
            most
        } else {
            (most / 4).max(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_floor_holds_however_busy_the_volume_is() {
        let mut pace = Pace::new(Time::ZERO, 16 * MIB, MIB);
        let mut copied = 0;
        for beat in 1..=50u64 {
            let now = Time(beat * 200_000_000);
            while pace.admit(now, true, MIB) {
                copied += 1;
            }
        }
        assert!((158..=160).contains(&copied), "16 MiB/s for 10 s: {copied} MiB");
    }

    #[test]
    fn gaps_are_used_and_count() {
        let mut pace = Pace::new(Time::ZERO, 16 * MIB, MIB);
        let now = Time(100_000_000);
        assert!(pace.admit(now, false, MIB) && pace.admit(now, false, MIB));
        assert!(
            !pace.admit(now, true, MIB),
            "the gap has given more than the floor"
        );
        assert_eq!(pace.window(now, true, 8), 2);
        assert_eq!(pace.window(now + QUIET, false, 8), 8);
    }
}
