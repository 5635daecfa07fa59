//! A block file on a file system, through the page cache or past it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::unistd::{Whence, lseek64};

use super::block_file::BlockFile;
use crate::geometry::{ByteRange, SECTOR};
use crate::io::{ALIGN, AlignedBuf, MAX_REQUEST};

/// Whether a data file is read and written through the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Through the page cache. A write is one copy into memory, and a killed process loses nothing.
    #[default]
    PageCache,
    /// Past it (`O_DIRECT`), if the file system takes requests of one sector; else as above.
    Direct,
}

/// How a file is locked against others, in this process and outside of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// With others that only look.
    Shared,
    /// Alone.
    Exclusive,
}

/// A file of the operating system.
#[derive(Debug)]
pub struct OsFile {
    file: File,
    direct: bool,
    /// Whether the file system can say that a read would wait; assumed until it has said that it cannot.
    tells_misses: AtomicBool,
    is_locked: AtomicBool,
}

impl OsFile {
    /// Opens an existing file for reading and writing.
    pub fn open(path: &Path, caching: Caching) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        if caching == Caching::Direct && takes_direct_sectors(&file)? {
            let file = File::options()
                .read(true)
                .write(true)
                .custom_flags(libc::O_DIRECT)
                .open(path)?;
            return Ok(Self::of(file, true));
        }
        Ok(Self::of(file, false))
    }

    const fn of(file: File, direct: bool) -> Self {
        Self {
            file,
            direct,
            tells_misses: AtomicBool::new(true),
            is_locked: AtomicBool::new(false),
        }
    }

    /// Reads what the page cache holds of a range; EAGAIN if it holds nothing of its start.
    fn read_cached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let part = libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        // SAFETY: one vector, over memory that is valid to write to and lent to us for the call; the descriptor is open.
        let read = unsafe {
            libc::preadv2(
                self.file.as_raw_fd(),
                &raw const part,
                1,
                offset as libc::off_t,
                libc::RWF_NOWAIT,
            )
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Takes an open-file-description lock on the whole file; whether it got it. The lock ends with this value, and
    /// by the kernel's hand with the process, also by a kill -9.
    pub(super) fn lock(&self, lock: Lock) -> io::Result<bool> {
        let kind = match lock {
            Lock::Shared => libc::F_RDLCK,
            Lock::Exclusive => libc::F_WRLCK,
        };
        let taken = self.set_lock(kind)?;
        self.is_locked.fetch_or(taken, Ordering::Relaxed);
        Ok(taken)
    }

    fn set_lock(&self, kind: i32) -> io::Result<bool> {
        // SAFETY: all-zero is a valid `flock`, plain integers.
        let mut whole: libc::flock = unsafe { std::mem::zeroed() };
        whole.l_type = kind as libc::c_short;
        whole.l_whence = libc::SEEK_SET as libc::c_short;
        match fcntl(self.file.as_fd(), FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The open file, for a look at it.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether the page cache is passed by.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    fn write_zeroes(&self, range: ByteRange) -> io::Result<()> {
        let zeroes = AlignedBuf::zeroed(MAX_REQUEST.min(range.len as usize));
        let mut at = range.offset;
        while at < range.end() {
            let len = (range.end() - at).min(zeroes.len() as u64);
            self.write_at(&zeroes[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
}

impl Drop for OsFile {
    fn drop(&mut self) {
        // A child that has just been forked has the file open as well until it executes its program: closing alone
        // would leave the lock with it, and who opens the replica next would find it in use.
        if *self.is_locked.get_mut() {
            let _ = self.set_lock(libc::F_UNLCK);
        }
    }
}

/// Whether direct I/O on this file may start and end at any sector. Where it may not, direct and cached access to
/// one page would have to be mixed, which loses writes.
fn takes_direct_sectors(file: &File) -> io::Result<bool> {
    // SAFETY: all-zero is a valid `statx`, plain integers.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the path an empty C string (AT_EMPTY_PATH), and `stat` is valid to write to.
    let done = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut stat,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let offset_align = u64::from(stat.stx_dio_offset_align);
    let told = stat.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok(told && offset_align != 0 && offset_align <= SECTOR && stat.stx_dio_mem_align <= ALIGN as u32)
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGN)
}

impl BlockFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.direct && !is_aligned(buf) {
            let mut aligned = AlignedBuf::zeroed(buf.len());
            self.file.read_exact_at(&mut aligned, offset)?;
            buf.copy_from_slice(&aligned);
            return Ok(());
        }
        self.file.read_exact_at(buf, offset)
    }

    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        if self.direct {
            return Ok(false);
        }
        if !self.tells_misses.load(Ordering::Relaxed) {
            return self.read_at(buf, offset).map(|()| true);
        }
        match self.read_cached(buf, offset) {
            // Less is there, or the file ends: the plain read tells them apart.
            Ok(read) => Ok(read == buf.len()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(false),
                Some(libc::EOPNOTSUPP) => {
                    self.tells_misses.store(false, Ordering::Relaxed);
                    self.read_at(buf, offset).map(|()| true)
                }
                _ => Err(error),
            },
        }
    }

    fn is_cached(&self) -> bool {
        !self.direct
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.direct && !is_aligned(bytes) {
            let mut aligned = AlignedBuf::zeroed(bytes.len());
            aligned.copy_from_slice(bytes);
            return self.file.write_all_at(&aligned, offset);
        }
        self.file.write_all_at(bytes, offset)
    }

    fn zero(&self, range: ByteRange) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, range.offset as i64, range.len as i64) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => self.write_zeroes(range),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<ByteRange>> {
        let start = match lseek64(&self.file, from as i64, Whence::SeekData) {
            Ok(start) => start as u64,
            Err(Errno::ENXIO) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let end = lseek64(&self.file, start as i64, Whence::SeekHole)? as u64;
        Ok(Some(ByteRange::new(start, end.saturating_sub(start))))
    }

    fn allocated(&self) -> io::Result<u64> {
        // st_blocks counts 512 bytes whatever the file system's block size is.
        Ok(self.file.metadata()?.blocks() * 512)
    }
}
