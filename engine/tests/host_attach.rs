//! From a block device to a mounted file system and back: what is written is there again, space is given back, and
//! nothing is left behind.

mod host_support;

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_engine::host::{AttachOptions, Attachment, FsKind, HostError, MkfsSpec, MountOptions};
use bulkhead_engine::io::{BlockDevice, BlockOp, Completion};
use host_support::{Bench, FileDevice, Outcome, eventually, run};

const LIMIT: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

fn mkfs(attachment: &Attachment, fs: FsKind) -> Outcome {
    attachment.mkfs(&MkfsSpec {
        fs,
        pristine: true,
        ..MkfsSpec::default()
    })?;
    Ok(())
}

fn options(fs: FsKind) -> Outcome<MountOptions> {
    Ok(MountOptions::parse(fs, "")?)
}

#[track_caller]
fn detach(attachment: &Attachment) {
    let report = attachment.detach(LIMIT);
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_file_written_before_a_detach_is_there_after_the_next_attach() -> Outcome {
    for fs in FsKind::ALL {
        let bench = Bench::new()?;
        let target = bench.target();
        let attachment = bench.attach(400 * MIB)?;
        mkfs(&attachment, fs)?;
        attachment.mount(&target, fs, &options(fs)?)?;
        attachment.mount(&target, fs, &options(fs)?)?;
        fs::write(target.join("greeting"), "hello")?;
        attachment.unmount(&target, LIMIT, LIMIT)?;
        detach(&attachment);
        assert_eq!(bench.traces()?, [""; 0], "{fs}");

        let attachment = bench.attach(400 * MIB)?;
        attachment.mount(&target, fs, &options(fs)?)?;
        assert_eq!(fs::read_to_string(target.join("greeting"))?, "hello");
        let report = attachment.detach(LIMIT);
        assert!(report.is_clean(), "{fs}: {report:?}");
        drop(attachment);
        assert_eq!(bench.traces()?, [""; 0], "{fs}");
    }
    Ok(())
}

/// A device that takes a while for each write, as one behind a busy disk does.
struct Slow(Arc<FileDevice>);

impl BlockDevice for Slow {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn submit(&self, op: BlockOp, done: Completion) {
        if let BlockOp::Write { data, .. } = &op {
            let speed = 8 * MIB;
            thread::sleep(Duration::from_micros(data.len() as u64 * 1_000_000 / speed));
        }
        self.0.submit(op, done);
    }
}

#[test]
fn what_takes_long_to_write_back_is_there_after_an_unmount_in_good_order() -> Outcome {
    let bench = Bench::new()?;
    let target = bench.target();
    let attach = || -> Outcome<Attachment> {
        let device = Arc::new(Slow(FileDevice::open(&bench.data(), 400 * MIB)?));
        let options = AttachOptions::default();
        Ok(Attachment::attach(&bench.dirs, bench.volume, device, options)?)
    };
    let attachment = attach()?;
    mkfs(&attachment, FsKind::Ext4)?;
    attachment.mount(&target, FsKind::Ext4, &options(FsKind::Ext4)?)?;
    let content: Vec<u8> = (0..64 * MIB).map(|at| (at / 4096 + at % 251) as u8).collect();
    fs::write(target.join("large"), &content)?;
    // Within what is allowed for a busy mount it cannot be written back, and that must not be taken for the end.
    let early = attachment.unmount(&target, Duration::from_millis(200), Duration::from_millis(200));
    assert!(matches!(early, Err(HostError::TimedOut { .. })), "{early:?}");
    attachment.unmount(&target, Duration::from_secs(120), Duration::from_millis(500))?;
    detach(&attachment);

    let attachment = attach()?;
    attachment.mount(&target, FsKind::Ext4, &options(FsKind::Ext4)?)?;
    assert!(
        fs::read(target.join("large"))? == content,
        "what was written is not there"
    );
    detach(&attachment);
    Ok(())
}

#[test]
fn a_device_that_holds_something_is_not_formatted() -> Outcome {
    let bench = Bench::new()?;
    let attachment = bench.attach(64 * MIB)?;
    mkfs(&attachment, FsKind::Ext4)?;
    let again = attachment.mkfs(&MkfsSpec {
        fs: FsKind::Btrfs,
        ..MkfsSpec::default()
    });
    assert!(matches!(again, Err(HostError::HoldsData { .. })), "{again:?}");
    let wrong = attachment.mount(&bench.target(), FsKind::Xfs, &options(FsKind::Xfs)?);
    assert!(
        matches!(wrong, Err(HostError::WrongFileSystem { .. })),
        "{wrong:?}"
    );
    let elsewhere = attachment.mount(bench.tmp.path(), FsKind::Ext4, &options(FsKind::Ext4)?);
    assert!(
        matches!(elsewhere, Err(HostError::ForeignMountPoint { .. })),
        "{elsewhere:?}"
    );
    Ok(())
}

#[test]
fn a_volume_is_attached_once_only() -> Outcome {
    let bench = Bench::new()?;
    let _first = bench.attach(64 * MIB)?;
    let device = FileDevice::open(&bench.data(), 64 * MIB)?;
    let second = Attachment::attach(&bench.dirs, bench.volume, device, Default::default());
    assert!(matches!(second, Err(HostError::AttachedAlready { .. })));
    Ok(())
}

#[test]
fn a_flush_reaches_the_device_before_fsync_returns() -> Outcome {
    let bench = Bench::new()?;
    let device = FileDevice::open(&bench.data(), 64 * MIB)?;
    let attachment = Attachment::attach(&bench.dirs, bench.volume, device.clone(), Default::default())?;
    mkfs(&attachment, FsKind::Ext4)?;
    attachment.mount(&bench.target(), FsKind::Ext4, &options(FsKind::Ext4)?)?;
    let mut file = File::create(bench.target().join("file"))?;
    for _ in 0..5 {
        let before = device.flushes.load(std::sync::atomic::Ordering::Relaxed);
        file.write_all(&[1; 4096])?;
        file.sync_all()?;
        assert!(
            device.flushes.load(std::sync::atomic::Ordering::Relaxed) > before,
            "fsync without a flush"
        );
    }
    Ok(())
}

#[test]
fn a_full_file_system_says_so_and_gives_its_space_back() -> Outcome {
    for fs in FsKind::ALL {
        let bench = Bench::new()?;
        let target = bench.target();
        let attachment = bench.attach(320 * MIB)?;
        mkfs(&attachment, fs)?;
        let fresh = bench.allocated()?;
        attachment.mount(&target, fs, &options(fs)?)?;
        let full = fill(&target.join("big"));
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{fs}");
        run("sync", &["-f", &target.to_string_lossy()])?;
        let used = bench.allocated()?;
        assert!(used > 200 * MIB, "{fs}: only {used} bytes were written");
        fs::remove_file(target.join("big"))?;
        run("sync", &["-f", &target.to_string_lossy()])?;
        let trimmed = attachment.trim(&target)?;
        assert!(trimmed > 150 * MIB, "{fs}: trimmed {trimmed}");
        // XFS sends its discards on their way and does not wait for the last of them.
        let given_back = eventually(LIMIT, || bench.allocated().is_ok_and(|left| left < used / 4));
        let left = bench.allocated()?;
        assert!(
            given_back,
            "{fs}: {fresh} bytes fresh, {used} when full, {left} after the trim"
        );
        detach(&attachment);
    }
    Ok(())
}

fn fill(path: &std::path::Path) -> std::io::Error {
    let block = vec![0xa5; 1 << 20];
    let mut file = match File::create(path) {
        Ok(file) => file,
        Err(error) => return error,
    };
    loop {
        if let Err(error) = file.write_all(&block).and_then(|()| file.sync_data()) {
            return error;
        }
    }
}

#[test]
fn a_fresh_file_system_takes_little_space() -> Outcome {
    for (fs, most) in [
        (FsKind::Ext4, 24 * MIB),
        (FsKind::Xfs, 48 * MIB),
        (FsKind::Btrfs, 16 * MIB),
    ] {
        let bench = Bench::new()?;
        let attachment = bench.attach(10 << 30)?;
        let start = Instant::now();
        mkfs(&attachment, fs)?;
        let took = start.elapsed();
        let allocated = bench.allocated()?;
        assert!(allocated < most, "{fs}: {allocated} bytes");
        assert!(took < Duration::from_secs(20), "{fs}: mkfs took {took:?}");
    }
    Ok(())
}

#[test]
fn a_volume_that_was_written_before_is_zeroed_before_it_is_formatted() -> Outcome {
    let bench = Bench::new()?;
    fs::write(bench.data(), vec![0xff; 64 << 20])?;
    let attachment = bench.attach(64 * MIB)?;
    attachment.mkfs(&MkfsSpec::default())?;
    assert!(bench.allocated()? < 16 * MIB, "old data stayed allocated");
    run("e2fsck", &["-fn", &attachment.device().to_string_lossy()])?;
    Ok(())
}

#[test]
fn freeze_holds_writers_and_thaw_lets_them_go() -> Outcome {
    let bench = Bench::new()?;
    let target = bench.target();
    let attachment = bench.attach(64 * MIB)?;
    mkfs(&attachment, FsKind::Ext4)?;
    attachment.mount(&target, FsKind::Ext4, &options(FsKind::Ext4)?)?;
    attachment.freeze(&target)?;
    let writer = std::thread::spawn({
        let path = target.join("file");
        move || fs::write(path, "late")
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(!writer.is_finished(), "a write went through a frozen file system");
    attachment.thaw(&target)?;
    writer.join().map_err(|_| "the writer panicked")??;
    detach(&attachment);
    Ok(())
}

#[test]
fn an_ext4_with_recorded_errors_is_repaired_before_it_is_mounted() -> Outcome {
    let bench = Bench::new()?;
    let target = bench.target();
    let attachment = bench.attach(64 * MIB)?;
    mkfs(&attachment, FsKind::Ext4)?;
    let device = attachment.device().to_string_lossy().into_owned();
    run("debugfs", &["-w", "-R", "ssv state 2", &device])?;
    attachment.mount(&target, FsKind::Ext4, &options(FsKind::Ext4)?)?;
    attachment.unmount(&target, LIMIT, LIMIT)?;
    let state = run("dumpe2fs", &["-h", &device])?;
    assert!(state.contains("Filesystem state:         clean\n"), "{state}");
    Ok(())
}

#[test]
fn a_free_device_that_somebody_holds_is_passed_over() -> Outcome {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let bench = Bench::new()?;
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let free = unsafe { libc::ioctl(control.as_raw_fd(), 0x4C82) };
    let path = format!("/dev/loop{free}");
    let held = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(&path)?;
    let attachment = bench.attach(64 * MIB)?;
    assert_ne!(attachment.device(), std::path::Path::new(&path));
    drop(held);
    detach(&attachment);
    Ok(())
}

/// CAP_SYS_RESOURCE, which a container usually lacks and ext4 insists on.
fn may_exceed_limits() -> Outcome<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .ok_or("no CapEff")?;
    Ok(u64::from_str_radix(line.trim(), 16)? >> 24 & 1 == 1)
}

#[test]
fn a_file_system_grows_with_its_volume_while_it_is_mounted() -> Outcome {
    for fs in FsKind::ALL {
        let bench = Bench::new()?;
        let target = bench.target();
        let attachment = bench.attach(400 * MIB)?;
        mkfs(&attachment, fs)?;
        detach(&attachment);
        let attachment = bench.attach(800 * MIB)?;
        attachment.mount(&target, fs, &options(fs)?)?;
        fs::write(target.join("greeting"), "hello")?;
        let size = || nix::sys::statvfs::statvfs(&target).map(|stat| stat.blocks() * stat.fragment_size());
        let before = size()?;
        match attachment.grow(&target, fs) {
            Err(HostError::GrowNotAllowed { .. }) if fs == FsKind::Ext4 && !may_exceed_limits()? => continue,
            outcome => outcome?,
        }
        let after = size()?;
        assert!(
            before <= 400 * MIB && after > 700 * MIB,
            "{fs}: from {before} to {after} bytes"
        );
        assert_eq!(fs::read_to_string(target.join("greeting"))?, "hello");
        detach(&attachment);
    }
    Ok(())
}
