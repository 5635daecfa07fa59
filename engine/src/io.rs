//! Block requests as a front end makes them, and the buffers that carry their data.
//!
//! Owns the aligned buffer and the request; never decides in which order requests run.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::geometry::ByteRange;

/// Alignment of every buffer in bytes: a page, as direct I/O needs it.
pub const ALIGN: usize = 4096;
/// The largest request, in bytes.
pub const MAX_REQUEST: usize = 1 << 20;

/// Page-aligned memory of a fixed size.
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory and has no interior mutability; `&mut` is needed to write.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes, aligned to [`ALIGN`].
    pub fn zeroed(len: usize) -> Self {
        let layout = layout(capacity(len));
        // SAFETY: the layout's size is at least one page, never zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self { start, len }
    }

    /// `len` bytes for somebody who overwrites all of them, or shows them to nobody: what is in them may be left from an
    /// earlier buffer. Saves making a large one resident and zero again and again.
    pub fn stale(len: usize) -> Self {
        match spare::take(capacity(len)) {
            Some(start) => Self { start, len },
            None => Self::zeroed(len),
        }
    }
}

/// What is allocated for so many bytes: whole pages.
fn capacity(len: usize) -> usize {
    len.max(1).next_multiple_of(ALIGN)
}

fn layout(capacity: usize) -> Layout {
    match Layout::from_size_align(capacity, ALIGN) {
        Ok(layout) => layout,
        // Requests are bounded by MAX_REQUEST; a size near isize::MAX is a bug of ours, not input.
        Err(_) => handle_alloc_error(Layout::new::<u8>()),
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        let capacity = capacity(self.len);
        if !spare::keep(self.start, capacity) {
            // SAFETY: allocated in `zeroed` with this same layout, and freed once.
            unsafe { dealloc(self.start.as_ptr(), layout(capacity)) }
        }
    }
}

/// Memory of buffers that are gone, for the next ones: a bounded amount of the sizes that come often.
mod spare {
    use std::ptr::NonNull;

    use parking_lot::Mutex;

    use super::{ALIGN, MAX_REQUEST};

    /// At most so many bytes of each size are kept.
    const MOST: usize = 4 << 20;

    /// Memory that nobody uses.
    struct Free(NonNull<u8>);

    // SAFETY: it is owned by whoever has it, and nothing refers to it.
    unsafe impl Send for Free {}

    /// One page; 64 KiB; and so on to [`MAX_REQUEST`].
    static SIZES: [Mutex<Vec<Free>>; 6] = [const { Mutex::new(Vec::new()) }; 6];

    fn place(capacity: usize) -> Option<&'static Mutex<Vec<Free>>> {
        match capacity {
            ALIGN => SIZES.first(),
            65_536..=MAX_REQUEST if capacity.is_power_of_two() => SIZES.get(capacity.ilog2() as usize - 15),
            _ => None,
        }
    }

    pub(super) fn take(capacity: usize) -> Option<NonNull<u8>> {
        place(capacity)?.lock().pop().map(|free| free.0)
    }

    /// Whether it was kept; else it is still the caller's.
    pub(super) fn keep(start: NonNull<u8>, capacity: usize) -> bool {
        let Some(place) = place(capacity) else {
            return false;
        };
        let mut kept = place.lock();
        let room = (kept.len() + 1) * capacity <= MOST;
        if room {
            kept.push(Free(start));
        }
        room
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` initialised bytes as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// A part of a shared, immutable buffer: what one write carries, to every member the same bytes (failure: a
/// buffer that changes while it is being sent). Cloning it copies no data.
#[derive(Clone, Debug)]
pub struct Data {
    buf: Arc<AlignedBuf>,
    part: Range<usize>,
}

impl Data {
    /// `part` of `buf`; `None` if it reaches beyond the buffer.
    pub fn new(buf: Arc<AlignedBuf>, part: Range<usize>) -> Option<Self> {
        (part.start <= part.end && part.end <= buf.len()).then_some(Self { buf, part })
    }

    /// The whole of a buffer.
    pub fn whole(buf: AlignedBuf) -> Self {
        let part = 0..buf.len();
        Self {
            buf: Arc::new(buf),
            part,
        }
    }

    /// A copy of these bytes, in an aligned buffer.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = AlignedBuf::stale(bytes.len());
        buf.copy_from_slice(bytes);
        Self::whole(buf)
    }
}

impl std::ops::Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buf[self.part.clone()]
    }
}

/// What a front end asks of a block device. Ranges are in bytes, on sector bounds, within the device.
#[derive(Debug)]
pub enum BlockOp {
    /// Read a range.
    Read(ByteRange),
    /// Write `data` from `offset` on.
    Write {
        /// First byte.
        offset: u64,
        /// The bytes; their number is the length of the write.
        data: Data,
    },
    /// Make everything acknowledged so far durable on every member.
    Flush,
    /// Make a range zero, and give its space back where possible. Discard and write-zeroes are the same here: the
    /// result must be the same on every member.
    Zero(ByteRange),
}

/// Why a block request failed, as far as the kernel can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// EINVAL: the request is malformed (off bounds or unaligned).
    #[error("the request lies outside the device or off its sectors")]
    Invalid,
    /// ENOSPC: the pool is full. Nothing was written, and the replica goes on.
    #[error("the pool is full")]
    NoSpace,
    /// EIO: everything else; the volume may be gone.
    #[error("input/output error")]
    Io,
}

/// Called once with the outcome: the bytes of a read, `None` for the others. May be called on any thread, also
/// before `submit` has returned; must not block.
pub type Completion = Box<dyn FnOnce(Result<Option<Data>, IoError>) + Send>;

/// A device that takes block requests: a volume, or in tests a plain file.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size in bytes, fixed while it is open.
    fn size(&self) -> u64;

    /// Takes a request. Every request is completed exactly once, in bounded time. Requests that are in flight
    /// together may complete in any order, but overlapping ones take effect one after the other.
    fn submit(&self, op: BlockOp, done: Completion);

    /// Takes requests one after the other as long as `next` gives any, each as by [`submit`](Self::submit). What they need may be done
    /// together: none of them has to be under way before `next` gives nothing, so `next` must not wait.
    fn submit_all(&self, next: &mut dyn FnMut() -> Option<(BlockOp, Completion)>) {
        while let Some((op, done)) = next() {
            self.submit(op, done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_only_by_who_overwrites_it() {
        for len in [
            1,
            4096,
            4097,
            40_000,
            65_536,
            700_000,
            MAX_REQUEST,
            MAX_REQUEST + ALIGN,
        ] {
            let mut first = AlignedBuf::zeroed(len);
            assert!(first.iter().all(|byte| *byte == 0));
            first.fill(7);
            drop(first);
            let again = AlignedBuf::stale(len);
            assert_eq!((again.len(), again.as_ptr() as usize % ALIGN), (len, 0));
            assert!(AlignedBuf::zeroed(len).iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let many: Vec<_> = (0..20).map(|_| AlignedBuf::stale(MAX_REQUEST)).collect();
        drop(many);
        let mut kept = 0;
        while spare::take(MAX_REQUEST).is_some() {
            kept += 1;
        }
        assert!(kept <= 4, "{kept}");
    }
}
