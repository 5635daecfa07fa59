//! How a thread gets at the requests of a connection: it takes what is there, and waits when there is nothing.
//!
//! Never waits while it holds a request that was not handed on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::buffers::Scratch;
use super::serve::{Asked, Server};
use crate::io::{BlockOp, MAX_REQUEST};

/// After a large write, a thread waits this long for the next request before it gives the buffer's pages back.
const IDLE_MILLIS: u16 = 1000;
/// This many reads in a row that fail for no known reason end the connection.
const MOST_FAILURES: u32 = 1000;
/// Requests that are handed on together at most: the first waits for the last.
const MOST_TOGETHER: usize = 16;
/// No further one is handed on together with so many bytes to be written.
const ENOUGH_BYTES: usize = 256 << 10;

/// Why a thread has to wait.
enum Lack {
    /// Nothing; there may be more requests.
    Nothing,
    Requests,
    Buffers,
    /// A read has failed for no known reason.
    Luck,
}

/// One thread's view of the connection.
pub(super) struct Inbox<'a> {
    server: &'a Arc<Server>,
    /// Wakes one of the threads that wait, not all of them.
    bell: Epoll,
    held: Option<Scratch>,
    /// What the last request asks of the block device.
    asked: VecDeque<Asked>,
    lack: Lack,
    /// Messages read and bytes to be written since the last [`begin`](Self::begin).
    together: (usize, usize),
    failures: u32,
    over: bool,
}

impl<'a> Inbox<'a> {
    pub(super) fn new(server: &'a Arc<Server>) -> io::Result<Self> {
        let bell = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        bell.add(server.connection.as_fd(), EpollEvent::new(flags, 0))?;
        Ok(Self {
            server,
            bell,
            held: None,
            asked: VecDeque::new(),
            lack: Lack::Nothing,
            together: (0, 0),
            failures: 0,
            over: false,
        })
    }

    /// Whether the connection has ended, or cannot be read any more.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it cannot be read any more though it has not ended.
    pub(super) const fn is_broken(&self) -> bool {
        self.failures == MOST_FAILURES
    }

    /// Requests that are taken from here on are handed on together.
    pub(super) const fn begin(&mut self) {
        self.together = (0, 0);
        self.lack = Lack::Nothing;
    }

    /// The next request for the block device, if it is there and belongs to those before it. Answers all others.
    pub(super) fn next(&mut self) -> Option<Asked> {
        loop {
            if let Some(asked) = self.asked.pop_front() {
                if let BlockOp::Write { data, .. } = &asked.0 {
                    self.together.1 += data.len();
                }
                return Some(asked);
            }
            if self.over || self.together.0 >= MOST_TOGETHER || self.together.1 >= ENOUGH_BYTES {
                return None;
            }
            let Some(mut scratch) = self.held.take().or_else(|| self.server.buffers.try_take()) else {
                self.lack = Lack::Buffers;
                return None;
            };
            if !scratch.touched {
                scratch.populate();
            }
            // Every one counts, also what is answered at once: what came before must not wait for ever.
            self.together.0 += 1;
            match receive(&self.server.connection, &mut scratch) {
                // Never from /dev/fuse; from a socket in its place, that the other end is closed.
                Ok(0) => self.end(scratch),
                Ok(len) => {
                    self.failures = 0;
                    self.held = self.server.serve(scratch, len, &mut self.asked);
                }
                Err(error) => match error.raw_os_error() {
                    // Unmounted or aborted.
                    Some(libc::ENODEV | libc::ECONNABORTED) => self.end(scratch),
                    Some(libc::EAGAIN) => {
                        self.held = Some(scratch);
                        self.lack = Lack::Requests;
                        return None;
                    }
                    // A request that was given up while it was being read, or a signal: nothing to it.
                    Some(libc::ENOENT | libc::EINTR) => self.held = Some(scratch),
                    _ => {
                        self.held = Some(scratch);
                        self.failed(&error);
                        return None;
                    }
                },
            }
        }
    }

    fn end(&mut self, scratch: Scratch) {
        self.server.buffers.give_back(scratch);
        self.over = true;
    }

    fn failed(&mut self, error: &io::Error) {
        self.failures += 1;
        tracing::error!(%error, failures = self.failures, "reading a FUSE request");
        self.over = self.is_broken();
        self.lack = Lack::Luck;
    }

    /// Waits for what was missing; a while for a request, and then gives memory back.
    pub(super) fn wait(&mut self) {
        match self.lack {
            Lack::Nothing => {}
            Lack::Buffers => {
                self.held = self.server.buffers.take();
                self.over = self.held.is_none();
            }
            Lack::Requests => self.wait_for_request(),
            Lack::Luck => thread::sleep(Duration::from_millis(1)),
        }
    }

    fn wait_for_request(&mut self) {
        // An error shows itself at the read that follows.
        let came = |timeout| !matches!(self.bell.wait(&mut [EpollEvent::empty()], timeout), Ok(0));
        if came(EpollTimeout::from(IDLE_MILLIS)) {
            return;
        }
        if let Some(scratch) = &mut self.held {
            scratch.release();
        }
        self.server.buffers.trim();
        came(EpollTimeout::NONE);
    }
}

fn receive(connection: &File, scratch: &mut Scratch) -> io::Result<usize> {
    let room = scratch
        .room()
        .ok_or_else(|| io::Error::other("the buffer is still in use"))?;
    debug_assert!(
        room.len() >= MAX_REQUEST + 80,
        "the kernel refuses to fill a smaller buffer"
    );
    (&*connection).read(room)
}
