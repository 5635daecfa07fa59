//! The requests of a primary's end that wait for an answer: their deadlines, and what their answers may be.

use super::error::{CloseReason, SendError};
use crate::io::Data;
use crate::machine::Payload;
use crate::machine::protocol::{Reply, Request, RequestId, digest_count};
use crate::wire::{Header, Kind};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What may answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Opened,
    /// Exactly so many bytes.
    Data(u64),
    /// A hole, or exactly so many bytes.
    Chunk(u64),
    Changed,
    Hashed,
    /// Exactly so many.
    Digests(u64),
    Inspected,
    Done,
}

impl Awaits {
    fn of<P>(request: &Request<P>) -> Self {
        match request {
            Request::Open(_) => Self::Opened,
            Request::Read(range) => Self::Data(range.len),
            Request::Copy(range) => Self::Chunk(range.len),
            Request::Changed { .. } => Self::Changed,
            Request::Hash(_) => Self::Hashed,
            Request::Digests { range, block } => {
                Self::Digests(digest_count(*range, *block).unwrap_or_default())
            }
            Request::Inspect(_) => Self::Inspected,
            _ => Self::Done,
        }
    }

    const fn max_data(self) -> u64 {
        match self {
            Self::Data(len) | Self::Chunk(len) => len,
            _ => 0,
        }
    }

    fn admits(self, reply: &Reply<Data>) -> bool {
        match reply {
            Reply::Opened(_) => self == Self::Opened,
            Reply::Data(data) => self == Self::Data(data.size()),
            Reply::Chunk {
                content: Some(data), ..
            } => self == Self::Chunk(data.size()),
            Reply::Chunk { content: None, .. } => matches!(self, Self::Chunk(_)),
            Reply::Changed { .. } => self == Self::Changed,
            Reply::Hashed(_) => self == Self::Hashed,
            Reply::Digests { blocks, .. } => self == Self::Digests(blocks.len() as u64),
            Reply::Inspected(_) => self == Self::Inspected,
            Reply::Done => self == Self::Done,
            // Whatever was asked, it may be refused or have failed.
            Reply::NoSpace | Reply::Unreadable | Reply::Failed(_) | Reply::Refused(_) => true,
        }
    }
}

struct Waiting {
    awaits: Awaits,
    until: Instant,
    within: Duration,
}

/// The requests in flight.
#[derive(Default)]
pub(super) struct InFlight {
    waiting: HashMap<RequestId, Waiting>,
    /// No deadline is before this one.
    earliest: Option<Instant>,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn insert<P>(
        &mut self,
        id: RequestId,
        request: &Request<P>,
        within: Duration,
    ) -> Result<(), SendError> {
        if self.waiting.contains_key(&id) {
            return Err(SendError::Twice(id));
        }
        let until = Instant::now() + within;
        let awaits = Awaits::of(request);
        self.waiting.insert(
            id,
            Waiting {
                awaits,
                until,
                within,
            },
        );
        self.earliest = Some(self.earliest.map_or(until, |earliest| earliest.min(until)));
        Ok(())
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        self.waiting.remove(&id);
    }

    /// Whether a reply of this head may be read: somebody waits for it, and for so much data.
    pub(super) fn admit(&self, header: &Header) -> Result<(), CloseReason> {
        let Some(waiting) = self.waiting.get(&RequestId(header.id)) else {
            return Err(not_asked(header.kind, header.id));
        };
        if u64::from(header.data_len) > waiting.awaits.max_data() {
            return Err(CloseReason::Violation(format!(
                "it answers request {} with {} bytes, {} were asked for",
                header.id,
                header.data_len,
                waiting.awaits.max_data()
            )));
        }
        Ok(())
    }

    /// Takes the request that this answers.
    pub(super) fn answered(&mut self, id: RequestId, reply: &Reply<Data>) -> Result<(), CloseReason> {
        let Some(waiting) = self.waiting.remove(&id) else {
            return Err(CloseReason::Violation(format!(
                "it answers request {} twice",
                id.0
            )));
        };
        if !waiting.awaits.admits(reply) {
            return Err(CloseReason::Violation(format!(
                "its answer to request {} is not one to what was asked ({:?})",
                id.0, waiting.awaits
            )));
        }
        Ok(())
    }

    /// The first deadline, or one sooner; an error if one has passed.
    pub(super) fn next_deadline(&mut self, now: Instant) -> Result<Option<Instant>, CloseReason> {
        if self.earliest.is_some_and(|earliest| earliest <= now) {
            let first = self
                .waiting
                .iter()
                .min_by_key(|(id, waiting)| (waiting.until, **id));
            if let Some((&id, waiting)) = first
                && waiting.until <= now
            {
                return Err(CloseReason::Unanswered {
                    id,
                    within: waiting.within,
                });
            }
            self.earliest = first.map(|(_, waiting)| waiting.until);
        }
        Ok(self.earliest)
    }
}

fn not_asked(kind: Kind, id: u64) -> CloseReason {
    CloseReason::Violation(format!("it answers request {id} ({kind:?}), which was not asked"))
}
