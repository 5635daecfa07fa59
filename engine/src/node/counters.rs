//! What a volume has served, counted. Never read to decide anything.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// A kind of request, with its length where it has one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Read(u64),
    Write(u64),
    Zero(u64),
    Flush,
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
