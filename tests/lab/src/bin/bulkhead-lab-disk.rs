//! A file system of one file, whose disk fails when it is told to and forgets what was not synced when it is killed.
//!
//! It owns the mount point and the file behind it. Unsynced writes lie in its memory; from time to time a part of one of them
//! gets to the file behind, as in a real disk's cache: at its death some are there, some not, some in part. It must never
//! confirm a sync before all that was written before has got there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bulkhead_lab::disk::{BACKING, MOUNT, Mood, NOW, POOL, WANTED};
use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use rand::Rng;

const PAGE: u64 = 4096;
const SECTOR: u64 = 512;
/// So many pages may be unsynced; beyond, the disk writes some of them by itself.
const CACHE: usize = 16 * 1024;
/// Discards up to this length are forgotten with the rest at a power cut; longer ones take effect at once.
const SMALL: u64 = 1 << 20;
const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let mood = Arc::new(Mutex::new(Mood::Well));
    let disk = Disk {
        mood: Arc::clone(&mood),
        cache: Mutex::new(Cache {
            file: File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(BACKING)
                .with_context(|| format!("cannot open {BACKING}"))?,
            pages: BTreeMap::new(),
        }),
    };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("lab-disk".to_owned()), MountOption::NoAtime];
    let session =
        fuser::spawn_mount(disk, MOUNT, &config).with_context(|| format!("cannot mount {MOUNT}"))?;
    publish(*lock(&mood))?;
    loop {
        thread::sleep(Duration::from_millis(10));
        if session.guard.is_finished() {
            return Ok(());
        }
        let Some(wanted) = fs::read_to_string(WANTED).ok().and_then(|text| text.parse().ok()) else {
            continue;
        };
        if *lock(&mood) != wanted {
            *lock(&mood) = wanted;
            publish(wanted)?;
        }
    }
}

fn publish(mood: Mood) -> Result<()> {
    let part = format!("{NOW}.part");
    fs::write(&part, mood.to_string())?;
    fs::rename(part, NOW).context("cannot tell the mood")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Disk {
    mood: Arc<Mutex<Mood>>,
    cache: Mutex<Cache>,
}

/// The file behind, and what was written and not synced.
struct Cache {
    file: File,
    pages: BTreeMap<u64, Box<[u8]>>,
}

#[derive(PartialEq, Clone, Copy)]
enum Deed {
    Read,
    Write,
    Sync,
}

impl Disk {
    /// Waits as the mood wants it, and fails as it wants it.
    fn endure(&self, deed: Deed) -> Result<(), Errno> {
        let mut slept = false;
        loop {
            let mood = *lock(&self.mood);
            return match mood {
                Mood::Well => Ok(()),
                Mood::Worn if deed == Deed::Read => Ok(()),
                Mood::NoSync if deed != Deed::Sync => Ok(()),
                Mood::Full if deed != Deed::Write => Ok(()),
                Mood::Full => Err(Errno::ENOSPC),
                Mood::Broken | Mood::Worn | Mood::NoSync => Err(Errno::EIO),
                Mood::Slow(_) if slept => Ok(()),
                Mood::Slow(pause) => {
                    thread::sleep(pause);
                    slept = true;
                    continue;
                }
                Mood::Stuck => {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
            };
        }
    }

    fn attr(&self) -> FileAttr {
        let (size, blocks) = lock(&self.cache)
            .file
            .metadata()
            .map_or((0, 0), |meta| (meta.len(), meta.blocks()));
        attr(FILE, FileType::RegularFile, size, blocks)
    }
}

fn attr(ino: INodeNo, kind: FileType, size: u64, blocks: u64) -> FileAttr {
    FileAttr {
        ino,
        size,
        blocks,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: if kind == FileType::Directory { 0o755 } else { 0o600 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Cache {
    fn read(&self, offset: u64, size: u64) -> std::io::Result<Vec<u8>> {
        let end = (offset + size).min(self.file.metadata()?.len());
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset)?;
        for (&page, data) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let (from, to) = ((page * PAGE).max(offset), ((page + 1) * PAGE).min(end));
            bytes[span(from - offset, to - offset)]
                .copy_from_slice(&data[span(from - page * PAGE, to - page * PAGE)]);
        }
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let end = offset + bytes.len() as u64;
        if end > self.file.metadata()?.len() {
            self.file.set_len(end)?;
        }
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let (from, to) = ((page * PAGE).max(offset), ((page + 1) * PAGE).min(end));
            let data = match self.pages.entry(page) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let mut old = vec![0; PAGE as usize].into_boxed_slice();
                    if to - from < PAGE {
                        read_at_most(&self.file, &mut old, page * PAGE)?;
                    }
                    new.insert(old)
                }
            };
            data[span(from - page * PAGE, to - page * PAGE)]
                .copy_from_slice(&bytes[span(from - offset, to - offset)]);
        }
        self.leak()
    }

    /// As a disk's cache does: a page is written some time, and at a power cut one is written in part.
    fn leak(&mut self) -> std::io::Result<()> {
        let mut rng = rand::rng();
        while self.pages.len() > CACHE {
            let Some((page, data)) = self.some_page(&mut rng) else {
                break;
            };
            self.file.write_all_at(&data, page * PAGE)?;
            self.pages.remove(&page);
        }
        if rng.random_ratio(1, 8)
            && let Some((page, data)) = self.some_page(&mut rng)
        {
            // It counts as unsynced still: what is read comes from memory.
            let sectors = rng.random_range(1..=PAGE / SECTOR);
            self.file
                .write_all_at(&data[span(0, sectors * SECTOR)], page * PAGE)?;
        }
        Ok(())
    }

    fn some_page(&self, rng: &mut impl Rng) -> Option<(u64, Box<[u8]>)> {
        let last = *self.pages.last_key_value()?.0;
        let from = rng.random_range(0..=last);
        self.pages
            .range(from..)
            .next()
            .map(|(page, data)| (*page, data.clone()))
    }

    fn sync(&mut self) -> std::io::Result<()> {
        for (page, data) in &self.pages {
            self.file.write_all_at(data, page * PAGE)?;
        }
        self.pages.clear();
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64) -> std::io::Result<()> {
        if length <= SMALL {
            return self.write(offset, &vec![0; usize::try_from(length).unwrap_or(0)]);
        }
        let (first, last) = (offset.div_ceil(PAGE), (offset + length) / PAGE);
        let inside: Vec<u64> = self.pages.range(first..last).map(|(page, _)| *page).collect();
        for page in inside {
            self.pages.remove(&page);
        }
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let whole = (first * PAGE, (last - first) * PAGE);
        fallocate(
            self.file.as_fd(),
            mode,
            whole.0.cast_signed(),
            whole.1.cast_signed(),
        )?;
        self.write(offset, &vec![0; span(0, whole.0 - offset).len()])?;
        let rest = whole.0 + whole.1;
        self.write(rest, &vec![0; span(0, offset + length - rest).len()])
    }

    /// Where the next data or the next hole is. What is in memory counts as data; with it, a hole is looked for at the end only.
    fn seek(&self, offset: i64, whence: i32) -> Result<i64, Errno> {
        let hole = whence == libc::SEEK_HOLE;
        if hole && !self.pages.is_empty() {
            return self
                .file
                .metadata()
                .map(|meta| meta.len().cast_signed())
                .map_err(Errno::from);
        }
        let place = if hole { Whence::SeekHole } else { Whence::SeekData };
        let on_disk = lseek(self.file.as_fd(), offset, place);
        let from = offset.cast_unsigned() / PAGE;
        let in_memory = self
            .pages
            .range(from..)
            .next()
            .map(|(page, _)| (page * PAGE).cast_signed().max(offset));
        match (on_disk, in_memory) {
            (Ok(disk), Some(memory)) if !hole => Ok(disk.min(memory)),
            (Err(_), Some(memory)) if !hole => Ok(memory),
            (Ok(disk), _) => Ok(disk),
            (Err(errno), _) => Err(Errno::from_i32(errno as i32)),
        }
    }

    fn resize(&mut self, size: u64) -> std::io::Result<()> {
        self.pages.split_off(&size.div_ceil(PAGE));
        self.file.set_len(size)
    }
}

/// A range of bytes within a request, which is never longer than memory.
fn span(from: u64, to: u64) -> std::ops::Range<usize> {
    from as usize..to as usize
}

fn read_at_most(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(())
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Empty is as good as not there: a pool is made in a new file only.
        let attr = self.attr();
        if Path::new(POOL).file_name() == Some(name) && attr.size > 0 {
            reply.entry(&TTL, &attr, Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if ino == INodeNo::ROOT {
            reply.attr(&TTL, &attr(INodeNo::ROOT, FileType::Directory, 0, 0));
        } else {
            reply.attr(&TTL, &self.attr());
        }
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        if Path::new(POOL).file_name() == Some(name) {
            reply.created(
                &TTL,
                &self.attr(),
                Generation(0),
                FileHandle(0),
                FopenFlags::empty(),
            );
        } else {
            reply.error(Errno::EACCES);
        }
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let outcome = self
            .endure(Deed::Write)
            .and_then(|()| size.map_or(Ok(()), |size| lock(&self.cache).resize(size).map_err(Errno::from)));
        match outcome {
            Ok(()) => reply.attr(&TTL, &self.attr()),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let outcome = self
            .endure(Deed::Read)
            .and_then(|()| lock(&self.cache).read(offset, size.into()).map_err(Errno::from));
        match outcome {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let outcome = self
            .endure(Deed::Write)
            .and_then(|()| lock(&self.cache).write(offset, data).map_err(Errno::from));
        match outcome {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let outcome = self
            .endure(Deed::Sync)
            .and_then(|()| lock(&self.cache).sync().map_err(Errno::from));
        match outcome {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroes = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        let outcome = if mode & zeroes == 0 {
            Err(Errno::EOPNOTSUPP)
        } else {
            self.endure(Deed::Write)
                .and_then(|()| lock(&self.cache).discard(offset, length).map_err(Errno::from))
        };
        match outcome {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self
            .endure(Deed::Read)
            .and_then(|()| lock(&self.cache).seek(offset, whence))
        {
            Ok(place) => reply.offset(place),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if offset == 0 && self.attr().size > 0 {
            let name = Path::new(POOL).file_name().unwrap_or_default();
            let _ = reply.add(FILE, 1, FileType::RegularFile, name);
        }
        reply.ok();
    }
}
