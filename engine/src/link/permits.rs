//! Bytes that may be held at a time. A permit gives its bytes back when it is dropped, wherever that happens.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

#[derive(Debug)]
struct State {
    used: usize,
    peak: usize,
    closed: bool,
}

/// A number of bytes to be had.
#[derive(Debug)]
pub(super) struct Permits {
    limit: usize,
    state: Mutex<State>,
    given_back: Condvar,
}

/// Some of them.
#[derive(Debug)]
pub(super) struct Permit {
    of: Arc<Permits>,
    bytes: usize,
}

impl Permits {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            state: Mutex::new(State {
                used: 0,
                peak: 0,
                closed: false,
            }),
            given_back: Condvar::new(),
        })
    }

    /// Waits until `bytes` are free; nothing once it is closed. Whoever closes a session ends the wait, and a session
    /// is closed when nothing moves in it.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.wait(bytes, 0).then(|| Permit {
            of: Arc::clone(self),
            bytes,
        })
    }

    /// Whoever has `held` bytes waits for more. What is more than the limit is to be had once nobody else has anything.
    fn wait(&self, bytes: usize, held: usize) -> bool {
        let mut state = self.state.lock();
        while !state.closed && state.used + bytes > self.limit && state.used > held {
            self.given_back.wait(&mut state);
        }
        if state.closed {
            return false;
        }
        state.used += bytes;
        state.peak = state.peak.max(state.used);
        true
    }

    /// Ends every wait.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.given_back.notify_all();
    }

    /// Bytes that are to be had now.
    pub(super) fn free(&self) -> usize {
        self.limit.saturating_sub(self.state.lock().used)
    }

    /// Bytes held now, and the most that ever were.
    pub(super) fn used_and_peak(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.used, state.peak)
    }
}

impl Permit {
    /// Waits for more bytes; false once the permits are closed.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let grown = bytes == 0 || self.of.wait(bytes, self.bytes);
        if grown {
            self.bytes += bytes;
        }
        grown
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of.state.lock().used -= self.bytes;
        self.of.given_back.notify_one();
    }
}
