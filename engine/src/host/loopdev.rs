//! Loop devices: put one on a file, know one's own again, let go.
//!
//! Uses the ioctls directly: `LOOP_CONFIGURE` sets file, block size, direct I/O and the name in one step, so that no
//! other process ever sees a device that is half set up. Never touches a device that does not carry the given tag.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bounded::{Deadline, bounded, poll_until};
use super::command::pause;
use super::error::{Doing, HostError};
use crate::io::MAX_REQUEST;

const LOOP_CONTROL: &str = "/dev/loop-control";
/// Major number of all loop devices.
pub const MAJOR: u32 = 7;
const NAME_SIZE: usize = 64;
/// Others take devices at the same time; so often is tried again, with a pause of up to 20 ms.
const TRIES: u32 = 200;
/// Every so many tries a new device is made instead of taking one that is called free.
const TRIES_BEFORE_NEW: u32 = 8;
/// How long setting up one device may take, which is a matter of microseconds.
const ONE_TRY: Duration = Duration::from_secs(3);

const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;

#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME_SIZE],
    crypt_name: [u8; NAME_SIZE],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl LoopInfo64 {
    const EMPTY: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; NAME_SIZE],
        crypt_name: [0; NAME_SIZE],
        encrypt_key: [0; 32],
        init: [0; 2],
    };

    fn tag(&self) -> String {
        let name = self.file_name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

mod raw {
    #![allow(missing_docs)]
    use super::{LoopConfig, LoopInfo64};

    nix::ioctl_none_bad!(clr_fd, 0x4C01);
    nix::ioctl_read_bad!(get_status, 0x4C05, LoopInfo64);
    nix::ioctl_none_bad!(set_capacity, 0x4C07);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, LoopConfig);
    nix::ioctl_write_int_bad!(add, 0x4C80);
    nix::ioctl_none_bad!(get_free, 0x4C82);
}

/// How a loop device is set up.
#[derive(Clone, Debug)]
pub struct LoopOptions {
    /// Its name field, by which it is known again; at most 63 bytes.
    pub tag: String,
    /// Logical block size, 512 or 4096.
    pub block_size: u32,
    /// Whether it goes away with its last user. Then a killed process leaves none behind.
    pub autoclear: bool,
}

/// A loop device that is bound to a file.
#[derive(Debug)]
pub struct LoopDevice {
    file: File,
    number: u32,
    path: PathBuf,
    tag: String,
}

impl LoopDevice {
    /// Binds a free loop device to a file, with direct I/O. Others may take devices at the same time, and a device
    /// that the kernel calls free may be held by somebody, or be stuck half-way in somebody's own call: after a few
    /// tries a new device is made.
    pub fn attach(backing: &File, options: &LoopOptions) -> Result<Self, HostError> {
        let control = File::options()
            .read(true)
            .write(true)
            .open(LOOP_CONTROL)
            .doing(|| {
                format!("opening {LOOP_CONTROL} (is the module loop loaded, and the device allowed here?)")
            })?;
        let mut wants_new = false;
        for attempt in 1..=TRIES {
            if let Some(number) = candidate(&control, wants_new || attempt % TRIES_BEFORE_NEW == 0)? {
                let backing = backing.try_clone().doing(|| "copying a descriptor".into())?;
                let options = options.clone();
                // A device that comes about after this was given up goes by itself when it is dropped.
                let what = format!("setting up {}", path_of(number).display());
                match bounded(what, ONE_TRY, move || Self::configure(number, &backing, &options)) {
                    Ok(outcome) => match outcome? {
                        Some(device) => return Ok(device),
                        None => wants_new = false,
                    },
                    Err(error) => {
                        tracing::warn!(%error, "another loop device is tried");
                        wants_new = true;
                    }
                }
            }
            pause(u64::from(attempt.min(20)));
        }
        Err(HostError::NoLoopDevice { tries: TRIES })
    }

    /// `None` if somebody else was faster, or the device's node is not there yet.
    fn configure(number: u32, backing: &File, options: &LoopOptions) -> Result<Option<Self>, HostError> {
        let path = path_of(number);
        let what = || format!("setting up {}", path.display());
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if is_transient(&error) => return Ok(None),
            Err(error) => return Err(error).doing(what),
        };
        let mut config = LoopConfig {
            fd: backing.as_raw_fd() as u32,
            block_size: options.block_size,
            info: LoopInfo64::EMPTY,
            reserved: [0; 8],
        };
        config.info.flags = FLAG_DIRECT_IO | if options.autoclear { FLAG_AUTOCLEAR } else { 0 };
        let tag = options.tag.as_bytes();
        let len = tag.len().min(NAME_SIZE - 1);
        config.info.file_name[..len].copy_from_slice(&tag[..len]);
        // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `config` lays out.
        match unsafe { raw::configure(file.as_raw_fd(), &config) } {
            Ok(_) => {}
            Err(nix::errno::Errno::EBUSY) => return Ok(None),
            Err(errno) => return Err(errno).doing(what),
        }
        let device = Self {
            file,
            number,
            path,
            tag: String::from_utf8_lossy(&tag[..len]).into_owned(),
        };
        // FUSE takes at most this much in one request. A larger one would be divided, and if the connection ended between
        // its parts, the kernel would take the first for the whole.
        let limit = format!("/sys/block/loop{number}/queue/max_sectors_kb");
        if let Err(error) = fs::write(&limit, (MAX_REQUEST >> 10).to_string()) {
            tracing::debug!(%error, limit, "requests stay as large as the kernel makes them");
        }
        if status(&device.file).is_ok_and(|info| info.flags & FLAG_DIRECT_IO == 0) {
            tracing::warn!(
                device = %device.path.display(),
                "the kernel refused direct I/O for this loop device: it caches in memory what is cached above already"
            );
        }
        Ok(Some(device))
    }

    /// The device with this tag, among those whose backing file, as the kernel shows it, is a `candidate`.
    pub fn find(tag: &str, candidate: impl Fn(&str) -> bool) -> Result<Option<Self>, HostError> {
        for number in bound()? {
            if backing_file(number).is_some_and(|file| candidate(file.trim_end()))
                && let Some(device) = Self::open_if(number, |found| found == tag)?
            {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// Opens a bound device if its tag is wanted. Opening a device can delay another process's letting go of it, so
    /// ask for candidates only.
    pub(crate) fn open_if(number: u32, wanted: impl Fn(&str) -> bool) -> Result<Option<Self>, HostError> {
        let path = path_of(number);
        let what = || format!("looking at {}", path.display());
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if is_transient(&error) => return Ok(None),
            Err(error) => return Err(error).doing(what),
        };
        let clone = file.try_clone().doing(what)?;
        // The kernel may ask the backing file for its attributes, and its server may not answer.
        let info = match bounded(what(), Duration::from_secs(2), move || status(&clone))? {
            Ok(info) => info,
            Err(error) if is_transient(&error) => return Ok(None),
            Err(error) => return Err(error).doing(what),
        };
        let tag = info.tag();
        Ok(wanted(&tag).then_some(Self {
            file,
            number,
            path,
            tag,
        }))
    }

    /// Its path, `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number, which is its minor device number too.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its name field, by which it was found or set up.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Takes over a size that its file has now.
    pub fn refresh_size(&self) -> Result<(), HostError> {
        // SAFETY: LOOP_SET_CAPACITY takes no argument.
        unsafe { raw::set_capacity(self.file.as_raw_fd()) }
            .map(drop)
            .doing(|| format!("taking over the new size on {}", self.path.display()))
    }

    /// Lets go of the file. Returns whether that is done: while others have the device open, it goes with the last
    /// of them, and this waits for them no longer than `limit`.
    pub fn detach(self, limit: Duration) -> Result<bool, HostError> {
        let Self {
            file, number, path, ..
        } = self;
        let backing = backing_file(number);
        let what = format!("letting go of {}", path.display());
        // Clearing waits for I/O in flight, which may hang; and so may the last close.
        let cleared = bounded(what.clone(), limit, move || {
            // SAFETY: LOOP_CLR_FD takes no argument.
            let cleared = unsafe { raw::clr_fd(file.as_raw_fd()) };
            drop(file);
            cleared
        })?;
        match cleared {
            Ok(_) | Err(nix::errno::Errno::ENXIO) => {}
            Err(errno) => return Err(errno).doing(|| what),
        }
        let deadline = Deadline::within(limit);
        Ok(poll_until(deadline, || {
            backing_file(number) != backing || backing.is_none()
        }))
    }
}

/// The number of a device that is free, or of one that is made now. `None` if it has to be asked for again.
fn candidate(control: &File, new: bool) -> Result<Option<u32>, HostError> {
    let answer = if new {
        // SAFETY: LOOP_CTL_ADD takes a number; a negative one means the next that does not exist.
        unsafe { raw::add(control.as_raw_fd(), -1) }
    } else {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number.
        unsafe { raw::get_free(control.as_raw_fd()) }
    };
    match answer {
        Ok(number) => Ok(u32::try_from(number).ok()),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EBUSY | nix::errno::Errno::EINTR) => Ok(None),
        // The number was taken between the kernel's look and its making.
        Err(nix::errno::Errno::EEXIST) => Ok(None),
        Err(errno) => Err(errno).doing(|| "asking for a free loop device".into()),
    }
}

/// The file that a device is bound to, as the kernel shows it; `None` if it is bound to none. Opens nothing.
pub(crate) fn backing_file(number: u32) -> Option<String> {
    fs::read_to_string(format!("/sys/block/loop{number}/loop/backing_file")).ok()
}

/// The numbers of all devices that are bound to a file.
pub(crate) fn bound() -> Result<Vec<u32>, HostError> {
    let entries = fs::read_dir("/sys/block").doing(|| "listing /sys/block".into())?;
    Ok(entries
        .filter_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_prefix("loop")?
                .parse()
                .ok()
        })
        .filter(|number| backing_file(*number).is_some())
        .collect())
}

fn path_of(number: u32) -> PathBuf {
    format!("/dev/loop{number}").into()
}

fn status(file: &File) -> io::Result<LoopInfo64> {
    let mut info = LoopInfo64::EMPTY;
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, which `info` lays out.
    unsafe { raw::get_status(file.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// The device is in between two users, or its node is still being made.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENXIO | libc::ENOENT | libc::EBUSY | libc::ENODEV)
    )
}

const _: () = assert!(size_of::<LoopInfo64>() == 232 && size_of::<LoopConfig>() == 304);
