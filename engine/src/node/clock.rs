//! The clock that the machines are given: monotonic, and going on while the machine sleeps, so that a lease that ran
//! out during a suspend has run out.

use nix::time::{ClockId, clock_gettime};

use crate::machine::Time;

/// Now.
pub(super) fn now() -> Time {
    // The call fails only for an unknown clock; the kernel has had this one since 2.6.39.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    Time(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
