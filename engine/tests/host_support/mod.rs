//! What the tests of the host room share: a plain file as block device, directories of their own, and a look at what
//! is left behind. Cleans up also when a test fails, and touches nothing that it did not make.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bulkhead_engine::host::{AttachOptions, Attachment, HostDirs, clean_stale};
use bulkhead_engine::ids::VolumeId;
use bulkhead_engine::io::{AlignedBuf, BlockDevice, BlockOp, Completion, Data, IoError};
use nix::fcntl::{FallocateFlags, fallocate};

pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A plain file as block device: what every write does is done by the kernel to a real file.
pub struct FileDevice {
    file: File,
    size: u64,
    pub flushes: AtomicU64,
    pub zeroed: AtomicU64,
    hanging: AtomicBool,
    panicking: AtomicBool,
    held: Mutex<Vec<Completion>>,
    /// Where requests are done on other threads than those of the front end.
    others: Option<mpsc::SyncSender<(BlockOp, Completion)>>,
}

impl FileDevice {
    pub fn open(path: &Path, size: u64) -> Outcome<Arc<Self>> {
        Ok(Arc::new(Self::new(path, size)?))
    }

    /// Answers every request later and from other threads, in any order.
    pub fn open_async(path: &Path, size: u64, threads: usize) -> Outcome<Arc<Self>> {
        let (sender, receiver) = mpsc::sync_channel::<(BlockOp, Completion)>(1024);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..threads {
            let device = Self::new(path, size)?;
            let receiver = receiver.clone();
            thread::spawn(move || {
                while let Ok((op, done)) = { receiver.lock().unwrap().recv() } {
                    done(device.run(op));
                }
            });
        }
        let mut device = Self::new(path, size)?;
        device.others = Some(sender);
        Ok(Arc::new(device))
    }

    fn new(path: &Path, size: u64) -> Outcome<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.set_len(size)?;
        Ok(Self {
            file,
            size,
            flushes: AtomicU64::new(0),
            zeroed: AtomicU64::new(0),
            hanging: AtomicBool::new(false),
            panicking: AtomicBool::new(false),
            held: Mutex::default(),
            others: None,
        })
    }

    /// From now on no request is completed.
    pub fn hang(&self) {
        self.hanging.store(true, Ordering::SeqCst);
    }

    /// From now on every request panics.
    pub fn panic(&self) {
        self.panicking.store(true, Ordering::SeqCst);
    }

    fn run(&self, op: BlockOp) -> Result<Option<Data>, IoError> {
        let outcome = match op {
            BlockOp::Read(range) => {
                let mut buf = AlignedBuf::zeroed(range.len as usize);
                return match self.file.read_exact_at(&mut buf, range.offset) {
                    Ok(()) => Ok(Some(Data::whole(buf))),
                    Err(_) => Err(IoError::Io),
                };
            }
            BlockOp::Write { offset, data } => self.file.write_all_at(&data, offset),
            BlockOp::Flush => {
                self.flushes.fetch_add(1, Ordering::Relaxed);
                self.file.sync_data()
            }
            BlockOp::Zero(range) => {
                self.zeroed.fetch_add(range.len, Ordering::Relaxed);
                let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&self.file, how, range.offset as i64, range.len as i64).map_err(Into::into)
            }
        };
        outcome
            .map(|()| None)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOSPC) => IoError::NoSpace,
                _ => IoError::Io,
            })
    }
}

impl BlockDevice for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn submit(&self, op: BlockOp, done: Completion) {
        assert!(!self.panicking.load(Ordering::SeqCst), "as it was told to");
        if self.hanging.load(Ordering::SeqCst) {
            self.held.lock().unwrap().push(done);
            return;
        }
        match &self.others {
            Some(others) => {
                let _ = others.send((op, done));
            }
            None => done(self.run(op)),
        }
    }
}

/// Directories and a backing file of a test's own.
pub struct Bench {
    pub tmp: tempfile::TempDir,
    pub dirs: HostDirs,
    pub volume: VolumeId,
}

impl Bench {
    pub fn new() -> Outcome<Self> {
        let tmp = tempfile::Builder::new().prefix("bulkhead-host-").tempdir()?;
        let dirs = HostDirs {
            run: tmp.path().join("run"),
            mounts: tmp.path().join("mnt"),
        };
        let volume = VolumeId::from_u128(rand::random());
        Ok(Self { tmp, dirs, volume })
    }

    pub fn data(&self) -> PathBuf {
        self.tmp.path().join(format!("data-{}", self.volume))
    }

    pub fn target(&self) -> PathBuf {
        self.dirs.mount_point(self.volume)
    }

    pub fn attach(&self, size: u64) -> Outcome<Attachment> {
        let device = FileDevice::open(&self.data(), size)?;
        Ok(Attachment::attach(
            &self.dirs,
            self.volume,
            device,
            AttachOptions::default(),
        )?)
    }

    /// Bytes that the backing file really takes.
    pub fn allocated(&self) -> Outcome<u64> {
        let file = File::open(self.data())?;
        file.sync_all()?;
        Ok(file.metadata()?.blocks() * 512)
    }

    /// Everything of this test that the kernel still knows.
    pub fn traces(&self) -> Outcome<Vec<String>> {
        let root = fs::canonicalize(self.tmp.path())?;
        let root = root.to_string_lossy();
        let mut traces: Vec<String> = fs::read_to_string("/proc/self/mountinfo")?
            .lines()
            .filter(|line| line.contains(&*root))
            .map(|line| format!("mount {line}"))
            .collect();
        traces.extend(
            loop_devices()?
                .into_iter()
                .filter(|(_, file)| file.contains(&*root) || file.contains(&self.volume.to_string()))
                .map(|(device, file)| format!("loop {device} on {file}")),
        );
        for dir in [self.dirs.run.join("devices"), self.dirs.mounts.clone()] {
            if let Ok(entries) = fs::read_dir(&dir) {
                traces.extend(
                    entries.filter_map(|entry| Some(format!("left {}", entry.ok()?.path().display()))),
                );
            }
        }
        Ok(traces)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = clean_stale(&self.dirs) {
            eprintln!("cleaning up: {error}");
        }
    }
}

/// All bound loop devices and what they are bound to.
pub fn loop_devices() -> Outcome<Vec<(String, String)>> {
    Ok(fs::read_dir("/sys/block")?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            Some((
                entry.file_name().to_string_lossy().into_owned(),
                file.trim().to_owned(),
            ))
        })
        .collect())
}

/// Runs a program and fails with what it said.
pub fn run(program: &str, args: &[&str]) -> Outcome<String> {
    let output = Command::new(program).args(args).output()?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{program} {args:?}: {}\n{text}", output.status).into())
    }
}

/// Processes of ours (by their working directory or open files below this path) in uninterruptible sleep.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Waits until a condition holds; `false` if it does not in time.
pub fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = std::time::Instant::now() + limit;
    while std::time::Instant::now() < end {
        if holds() {
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    holds()
}

/// Opens with O_DIRECT and reads one block.
pub fn read_direct(path: &Path, offset: u64, len: usize) -> Outcome<AlignedBuf> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let mut buf = AlignedBuf::zeroed(len);
    file.read_exact_at(&mut buf, offset)?;
    let _ = file.as_raw_fd();
    Ok(buf)
}
