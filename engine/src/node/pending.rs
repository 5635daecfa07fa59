//! Requests of the front end until they are answered. None is ever forgotten.

use std::time::Instant;

use super::counters::{Counters, Kind};
use super::permits::Permit;
use crate::io::{Completion, Data, IoError};
use crate::machine::primary::OpId;

/// A request of the front end until it is answered. Dropped without an answer, it fails.
pub(super) struct Pending {
    kind: Kind,
    since: Instant,
    done: Option<Completion>,
    _permit: Permit,
}

impl Pending {
    /// One that came at `since`: waiting for its permit counts.
    pub(super) fn new(kind: Kind, since: Instant, permit: Permit, done: Completion) -> Self {
        Self {
            kind,
            since,
            done: Some(done),
            _permit: permit,
        }
    }

    pub(super) fn complete(mut self, result: Result<Option<Data>, IoError>, counters: &Counters) {
        match &result {
            Ok(_) => counters.succeeded(self.kind),
            Err(error) => counters.failed(*error == IoError::NoSpace),
        }
        counters.took(self.kind, self.since.elapsed());
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(IoError::Io));
        }
    }
}

/// Requests by the number that the primary knows them by. A place is used again under another number, so an answer
/// that comes twice finds nothing.
#[derive(Default)]
pub(super) struct PendingOps {
    places: Vec<(u32, Option<Pending>)>,
    free: Vec<u32>,
}

impl PendingOps {
    pub(super) fn insert(&mut self, pending: Pending) -> OpId {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            (self.places.len() - 1) as u32
        });
        let mut generation = 0;
        if let Some(place) = self.places.get_mut(at as usize) {
            place.0 = place.0.wrapping_add(1);
            place.1 = Some(pending);
            generation = place.0;
        }
        OpId(u64::from(generation) << 32 | u64::from(at))
    }

    pub(super) fn remove(&mut self, id: OpId) -> Option<Pending> {
        let at = id.0 as u32;
        let (generation, place) = self.places.get_mut(at as usize)?;
        if u64::from(*generation) != id.0 >> 32 {
            return None;
        }
        let pending = place.take()?;
        self.free.push(at);
        Some(pending)
    }

    /// All that are left; they fail when they are dropped.
    pub(super) fn take_all(&mut self) -> Vec<Pending> {
        let left = std::mem::take(&mut self.places);
        self.free.clear();
        left.into_iter().filter_map(|(_, pending)| pending).collect()
    }
}
