//! What a volume has served, counted. Never read to decide anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Requests and bytes since the volume was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Reads that succeeded.
    pub reads: u64,
    /// Bytes that they read.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Bytes that they wrote.
    pub written_bytes: u64,
    /// Discards and write-zeroes that succeeded.
    pub zeroes: u64,
    /// Bytes that they made zero.
    pub zeroed_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Requests of any kind that failed, those for want of space among them.
    pub errors: u64,
    /// Requests that failed because the pool is full.
    pub out_of_space: u64,
}

/// Upper bounds of the classes that requests are counted in by how long they took, in microseconds; what took longer is in
/// one more class.
pub const LATENCY_BOUNDS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];

/// How long requests of one kind took since the volume was opened, whether they succeeded or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many took at most as long as each of [`LATENCY_BOUNDS`] and longer than the one before; the last ones longer
    /// than all of them.
    pub counts: [u64; LATENCY_BOUNDS.len() + 1],
    /// How long all of them took together.
    pub sum: Duration,
}

/// How long requests took, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Reads.
    pub read: Latency,
    /// Writes.
    pub write: Latency,
    /// Discards and write-zeroes.
    pub zero: Latency,
    /// Flushes.
    pub flush: Latency,
}

/// A kind of request, with its length where it has one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Read(u64),
    Write(u64),
    Zero(u64),
    Flush,
}

/// Counts requests of one kind by how long they took.
#[derive(Debug, Default)]
struct Clocked {
    counts: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Clocked {
    fn took(&self, span: Duration) {
        let microseconds = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let class = LATENCY_BOUNDS.partition_point(|bound| *bound < microseconds);
        if let Some(count) = self.counts.get(class) {
            add(count, 1);
        }
        add(
            &self.nanoseconds,
            u64::try_from(span.as_nanos()).unwrap_or(u64::MAX),
        );
    }

    fn read(&self) -> Latency {
        Latency {
            counts: std::array::from_fn(|class| {
                self.counts
                    .get(class)
                    .map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
        }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    zeroes: AtomicU64,
    zeroed_bytes: AtomicU64,
    flushes: AtomicU64,
    errors: AtomicU64,
    out_of_space: AtomicU64,
    read_clock: Clocked,
    write_clock: Clocked,
    zero_clock: Clocked,
    flush_clock: Clocked,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn succeeded(&self, kind: Kind) {
        match kind {
            Kind::Read(bytes) => {
                add(&self.reads, 1);
                add(&self.read_bytes, bytes);
            }
            Kind::Write(bytes) => {
                add(&self.writes, 1);
                add(&self.written_bytes, bytes);
            }
            Kind::Zero(bytes) => {
                add(&self.zeroes, 1);
                add(&self.zeroed_bytes, bytes);
            }
            Kind::Flush => add(&self.flushes, 1),
        }
    }

    pub(super) fn failed(&self, for_want_of_space: bool) {
        add(&self.errors, 1);
        add(&self.out_of_space, u64::from(for_want_of_space));
    }

    pub(super) fn took(&self, kind: Kind, span: Duration) {
        match kind {
            Kind::Read(_) => &self.read_clock,
            Kind::Write(_) => &self.write_clock,
            Kind::Zero(_) => &self.zero_clock,
            Kind::Flush => &self.flush_clock,
        }
        .took(span);
    }

    pub(super) fn latencies(&self) -> Latencies {
        Latencies {
            read: self.read_clock.read(),
            write: self.write_clock.read(),
            zero: self.zero_clock.read(),
            flush: self.flush_clock.read(),
        }
    }

    pub(super) fn read(&self) -> Served {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Served {
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            writes: get(&self.writes),
            written_bytes: get(&self.written_bytes),
            zeroes: get(&self.zeroes),
            zeroed_bytes: get(&self.zeroed_bytes),
            flushes: get(&self.flushes),
            errors: get(&self.errors),
            out_of_space: get(&self.out_of_space),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_in_the_class_of_their_span() {
        let counters = Counters::default();
        for microseconds in [0, 50, 51, 10_000_000, 10_000_001] {
            counters.took(Kind::Write(512), Duration::from_micros(microseconds));
        }
        let write = counters.latencies().write;
        assert_eq!((write.counts[0], write.counts[1]), (2, 1));
        assert_eq!((write.counts[15], write.counts[16]), (1, 1));
        assert_eq!(write.sum, Duration::from_micros(20_000_102));
        assert_eq!(counters.latencies().read, Latency::default());
    }
}
