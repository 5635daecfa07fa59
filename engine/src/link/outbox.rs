//! What waits to be written to a socket, and the writing. Never blocks; the bounds are kept here.

use super::permits::Permit;
use super::stream::WriteHalf;
use crate::io::Data;
use crate::wire::Frame;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::thread::ThreadId;
use std::time::Instant;

/// Most slices in one system call: two a frame.
const SLICES: usize = 64;
/// Most bytes that are written under the lock at a stretch by whoever drains the queue.
const STRETCH: usize = 4 << 20;
/// Most frames of the connection itself (pings and their answers) that wait.
const MAX_URGENT: usize = 16;

/// A frame on its way out; with what it holds until it is gone.
pub(super) struct Outgoing {
    pub(super) frame: Frame<Data>,
    /// Given back when the frame has been written.
    pub(super) _held: Option<Permit>,
    pub(super) urgent: bool,
}

/// What became of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Everything is written.
    Empty,
    /// Something is left: the socket takes nothing more, or others are to have the lock in between.
    Left,
}

pub(super) struct Outbox {
    half: Box<dyn WriteHalf>,
    queue: VecDeque<Outgoing>,
    /// Bytes of the first frame that are written.
    written: usize,
    queued: usize,
    peak: usize,
    urgent: usize,
    /// When the socket last took a byte, or the queue ceased to be empty.
    progress: Instant,
    pub(super) closed: bool,
    /// What this thread sends waits for more to come; it sends it later.
    pub(super) held: Option<ThreadId>,
    /// The socket took less than there was: the keeper writes the rest.
    pub(super) left: bool,
    /// The keeper is to look at its deadlines again.
    pub(super) nudged: bool,
}

impl Outbox {
    pub(super) fn new(half: Box<dyn WriteHalf>) -> Self {
        Self {
            half,
            queue: VecDeque::new(),
            written: 0,
            queued: 0,
            peak: 0,
            urgent: 0,
            progress: Instant::now(),
            closed: false,
            held: None,
            left: false,
            nudged: false,
        }
    }

    /// Whether a frame of this length may be queued.
    pub(super) fn has_room(&self, len: usize, limit: usize) -> bool {
        self.queue.is_empty() || self.queued.saturating_add(len) <= limit
    }

    /// Whether one more urgent frame may be queued.
    pub(super) fn has_urgent_room(&self) -> bool {
        self.urgent < MAX_URGENT
    }

    /// Puts a frame in its place: an urgent one behind its like and before all else that is not begun.
    pub(super) fn push(&mut self, out: Outgoing) {
        if self.queue.is_empty() {
            self.progress = Instant::now();
        }
        self.queued += out.frame.len();
        self.peak = self.peak.max(self.queued);
        if out.urgent {
            self.urgent += 1;
            let begun = usize::from(self.written > 0);
            let before = self.queue.iter().skip(begun).take_while(|out| out.urgent).count();
            self.queue.insert(begun + before, out);
        } else {
            self.queue.push_back(out);
        }
    }

    /// Writes what the socket takes.
    pub(super) fn drain(&mut self) -> io::Result<Drained> {
        let drained = self.write_all();
        self.left = matches!(drained, Ok(Drained::Left));
        drained
    }

    fn write_all(&mut self) -> io::Result<Drained> {
        let mut left = STRETCH;
        while !self.queue.is_empty() {
            let count = match self.write_once() {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Drained::Left),
                Err(error) => return Err(error),
            };
            self.progress = Instant::now();
            self.advance(count);
            left = left.saturating_sub(count);
            if left == 0 && !self.queue.is_empty() {
                return Ok(Drained::Left);
            }
        }
        Ok(Drained::Empty)
    }

    fn write_once(&mut self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        let mut skip = self.written;
        for out in &self.queue {
            for part in [out.frame.head.as_slice(), out.frame.data_bytes()] {
                let skipped = skip.min(part.len());
                skip -= skipped;
                let part = &part[skipped..];
                if !part.is_empty() && used < SLICES {
                    slices[used] = IoSlice::new(part);
                    used += 1;
                }
            }
            if used + 1 >= SLICES {
                break;
            }
        }
        self.half.try_write(&slices[..used])
    }

    fn advance(&mut self, count: usize) {
        self.queued -= count;
        self.written += count;
        while let Some(front) = self.queue.front()
            && self.written >= front.frame.len()
        {
            self.written -= front.frame.len();
            self.urgent -= usize::from(front.urgent);
            self.queue.pop_front();
        }
    }

    /// Lets go of everything; nothing more is taken.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.queue.clear();
        (self.written, self.queued, self.urgent) = (0, 0, 0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn progress(&self) -> Instant {
        self.progress
    }

    pub(super) fn queued_and_peak(&self) -> (usize, usize) {
        (self.queued, self.peak)
    }
}
