//! The time, as a number that means the same after the keeper has replaced itself. Counts while the machine sleeps, too.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds since the machine was started.
pub(crate) fn now() -> u64 {
    // Both clocks exist on every kernel that has what is kept here.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC));
    time.map_or(0, |time| {
        let (seconds, nanos) = (time.tv_sec().max(0) as u64, time.tv_nsec().max(0) as u64);
        seconds * 1000 + nanos / 1_000_000
    })
}
