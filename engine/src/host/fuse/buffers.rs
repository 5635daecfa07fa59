//! Where requests are read into: page-aligned, so placed that the bytes of a write begin on a page, and bounded.
//!
//! A large write is passed on in the buffer that it was read into, without a copy; the buffer is used again when
//! the device has let go of it. A small write is copied out, so that 4 KiB do not hold a megabyte.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::abi;
use crate::host::memory::{populate_pages, release_pages};
use crate::io::{ALIGN, AlignedBuf, Data, MAX_REQUEST};

/// Where a message begins in its buffer: the headers of a write end at the first page bound.
pub(super) const START: usize = ALIGN - abi::IN_HEADER - abi::WRITE_IN;
/// Writes up to this size are copied.
const COPY_UP_TO: usize = 32 << 10;
/// How many idle buffers are kept besides those that the threads hold.
const KEEP: usize = 2;

/// The buffers of one volume.
pub(super) struct Buffers {
    state: Mutex<State>,
    freed: Condvar,
    most: usize,
}

#[derive(Default)]
struct State {
    free: Vec<Arc<AlignedBuf>>,
    /// Passed on with a write; free again when nobody else holds them.
    lent: Vec<Arc<AlignedBuf>>,
    /// All that exist: free, lent, and with a thread.
    total: usize,
    closed: bool,
}

/// A buffer that a thread reads into.
pub(super) struct Scratch {
    pub(super) buf: Arc<AlignedBuf>,
    /// Whether all of it is resident, and not only a few pages.
    pub(super) touched: bool,
}

impl Buffers {
    /// At most `most` buffers, at least one for each thread.
    pub(super) fn new(most: usize) -> Self {
        Self {
            state: Mutex::default(),
            freed: Condvar::new(),
            most: most.max(1),
        }
    }

    /// A buffer to read into. Waits until one is free, which is how the memory in flight stays bounded; `None`
    /// once the transport closes.
    pub(super) fn take(&self) -> Option<Scratch> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(scratch) = state.at_hand(self.most) {
                return Some(scratch);
            }
            // A buffer comes free when its last holder drops it, which nobody is told of if that is not the
            // answer to the kernel; hence look again after a moment.
            self.freed.wait_for(&mut state, Duration::from_millis(5));
        }
    }

    /// A buffer to read into, if one is to be had without waiting.
    pub(super) fn try_take(&self) -> Option<Scratch> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        state.at_hand(self.most)
    }

    /// The bytes of a write, and the buffer to read the next request into if this one was not passed on with them.
    pub(super) fn payload(
        &self,
        scratch: Scratch,
        part: std::ops::Range<usize>,
    ) -> (Option<Data>, Option<Scratch>) {
        let part = START + part.start..START + part.end;
        if part.len() <= COPY_UP_TO {
            let data = scratch.buf.get(part).map(Data::copy_of);
            return (data, Some(scratch));
        }
        self.state.lock().lent.push(scratch.buf.clone());
        (Data::new(scratch.buf, part), None)
    }

    /// Something was answered: a buffer may have come free.
    pub(super) fn notify(&self) {
        self.freed.notify_one();
    }

    /// Gives memory back while there is nothing to do.
    pub(super) fn trim(&self) {
        let mut state = self.state.lock();
        while let Some(buf) = state.reclaim() {
            state.free.push(buf);
        }
        state.total -= state.free.len();
        state.free.clear();
    }

    /// Wakes every thread that waits for a buffer, for good.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.freed.notify_all();
    }

    /// A thread ends, and its buffer with it.
    pub(super) fn give_back(&self, scratch: Scratch) {
        let mut state = self.state.lock();
        if state.free.len() < KEEP {
            state.free.push(scratch.buf);
        } else {
            state.total -= 1;
        }
        self.freed.notify_one();
    }
}

impl State {
    /// One that is free, or a new one if there may be one more than there are.
    fn at_hand(&mut self, most: usize) -> Option<Scratch> {
        if let Some(buf) = self.free.pop().or_else(|| self.reclaim()) {
            return Some(Scratch { buf, touched: true });
        }
        if self.total >= most {
            return None;
        }
        self.total += 1;
        let buf = Arc::new(AlignedBuf::zeroed(ALIGN + MAX_REQUEST));
        let mut scratch = Scratch { buf, touched: false };
        // Zeroing it has made all of it resident, and most volumes never need most of it.
        scratch.release();
        Some(scratch)
    }

    /// A lent buffer that only this list still holds.
    fn reclaim(&mut self) -> Option<Arc<AlignedBuf>> {
        let idle = self.lent.iter_mut().position(|buf| Arc::get_mut(buf).is_some())?;
        Some(self.lent.swap_remove(idle))
    }
}

impl Scratch {
    /// The part that a message is read into; `None` if somebody else still holds the buffer, which is a bug.
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        Arc::get_mut(&mut self.buf).map(|buf| &mut buf[START..])
    }

    /// Makes all of it resident. The kernel ends a request with an error whose reader is killed while it has to make a page
    /// resident for it; one that was read whole is sent again instead.
    pub(super) fn populate(&mut self) {
        if let Some(buf) = Arc::get_mut(&mut self.buf) {
            populate_pages(buf);
        }
        self.touched = true;
    }

    /// Gives its pages back; it stays usable.
    pub(super) fn release(&mut self) {
        if let Some(buf) = Arc::get_mut(&mut self.buf) {
            release_pages(buf);
        }
        self.touched = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_write_is_passed_on_without_a_copy_and_aligned() {
        let buffers = Buffers::new(2);
        let mut scratch = buffers.take().expect("open");
        scratch.room().expect("only holder")[80] = 42;
        let before = scratch.buf.as_ptr();
        let (data, rest) = buffers.payload(scratch, 80..80 + MAX_REQUEST);
        let data = data.expect("inside");
        assert!(rest.is_none());
        assert_eq!((data.len(), data[0]), (MAX_REQUEST, 42));
        assert_eq!(data.as_ptr() as usize % ALIGN, 0);
        assert_eq!(data.as_ptr(), before.wrapping_add(ALIGN));
    }

    #[test]
    fn memory_is_bounded_and_comes_back_when_the_device_lets_go() {
        let buffers = Arc::new(Buffers::new(2));
        let held: Vec<_> = (0..2)
            .filter_map(|_| buffers.payload(buffers.take()?, 80..80 + MAX_REQUEST).0)
            .collect();
        assert_eq!(held.len(), 2);
        let waiter = std::thread::spawn({
            let buffers = buffers.clone();
            move || buffers.take().is_some()
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiter.is_finished(), "a third buffer was handed out");
        drop(held);
        assert!(waiter.join().expect("no panic"));
        assert_eq!(buffers.state.lock().total, 2);
    }

    #[test]
    fn a_small_write_does_not_hold_the_buffer() {
        let buffers = Buffers::new(1);
        let (data, rest) = buffers.payload(buffers.take().expect("open"), 80..80 + 4096);
        assert_eq!(data.expect("inside").len(), 4096);
        assert!(rest.expect("kept").room().is_some());
    }

    #[test]
    fn closing_wakes_who_waits() {
        let buffers = Arc::new(Buffers::new(1));
        let held = buffers.take();
        let waiter = std::thread::spawn({
            let buffers = buffers.clone();
            move || buffers.take().is_none()
        });
        buffers.close();
        assert!(waiter.join().expect("no panic"));
        drop(held);
    }
}
