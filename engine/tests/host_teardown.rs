//! Teardown always ends, whatever hangs, dies or still holds the volume, and leaves nothing behind.

mod host_support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_engine::host::stale::clean_volume;
use bulkhead_engine::host::{
    AttachOptions, Attachment, FsKind, HostDirs, HostError, MkfsSpec, MountOptions, clean_stale,
};
use bulkhead_engine::ids::VolumeId;
use host_support::{Bench, FileDevice, Outcome, eventually, state_of};

const LIMIT: Duration = Duration::from_secs(20);
const SIZE: u64 = 64 << 20;
const SERVE: &str = "BULKHEAD_TEST_SERVE";

/// A process that is killed when the test ends, however it ends.
struct Killed(Child);

impl Killed {
    fn signal(&self, signal: nix::sys::signal::Signal) -> Outcome {
        Ok(nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            signal,
        )?)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An attached, formatted and mounted volume on a device of which the test keeps hold.
fn mounted(bench: &Bench) -> Outcome<(Attachment, Arc<FileDevice>)> {
    let device = FileDevice::open(&bench.data(), SIZE)?;
    let attachment = Attachment::attach(
        &bench.dirs,
        bench.volume,
        device.clone(),
        AttachOptions::default(),
    )?;
    attachment.mkfs(&MkfsSpec {
        pristine: true,
        ..MkfsSpec::default()
    })?;
    attachment.mount(
        &bench.target(),
        FsKind::Ext4,
        &MountOptions::parse(FsKind::Ext4, "")?,
    )?;
    Ok((attachment, device))
}

/// Not a test of its own: the server of those tests that kill it, in a process of its own.
#[test]
fn serve_for_another_test() -> Outcome {
    let Ok(spec) = std::env::var(SERVE) else {
        return Ok(());
    };
    let mut words = spec.split('|');
    let mut word = || words.next().ok_or("a word is missing");
    let dirs = HostDirs {
        run: word()?.into(),
        mounts: word()?.into(),
    };
    let volume: VolumeId = word()?.parse()?;
    let device = FileDevice::open(Path::new(word()?), SIZE)?;
    let attachment = Attachment::attach(&dirs, volume, device, AttachOptions::default())?;
    attachment.mkfs(&MkfsSpec {
        pristine: true,
        ..MkfsSpec::default()
    })?;
    attachment.mount(
        &dirs.mount_point(volume),
        FsKind::Ext4,
        &MountOptions::parse(FsKind::Ext4, "")?,
    )?;
    println!("\nserving");
    thread::sleep(Duration::from_secs(60));
    Ok(())
}

fn serve_elsewhere(bench: &Bench) -> Outcome<Killed> {
    let spec = [
        bench.dirs.run.display().to_string(),
        bench.dirs.mounts.display().to_string(),
        bench.volume.to_string(),
        bench.data().display().to_string(),
    ];
    let mut child = Killed(
        Command::new(std::env::current_exe()?)
            .args(["--exact", "serve_for_another_test", "--nocapture"])
            .env(SERVE, spec.join("|"))
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let lines = BufReader::new(child.0.stdout.take().ok_or("no output")?).lines();
    for line in lines {
        if line? == "serving" {
            return Ok(child);
        }
    }
    Err("the server ended before it served".into())
}

/// A process that writes and syncs until it fails.
fn writer(target: &Path) -> Outcome<Killed> {
    let script = format!(
        "while dd if=/dev/zero of={}/file bs=64k count=16 conv=fsync 2>/dev/null; do :; done",
        target.display()
    );
    Ok(Killed(Command::new("sh").args(["-c", &script]).spawn()?))
}

fn ends(process: &mut Killed) -> bool {
    eventually(LIMIT, || {
        process.0.try_wait().is_ok_and(|status| status.is_some())
    })
}

#[test]
fn a_server_killed_under_load_leaves_nothing_after_the_next_start() -> Outcome {
    let bench = Bench::new()?;
    let mut server = serve_elsewhere(&bench)?;
    let mut writer = writer(&bench.target())?;
    thread::sleep(Duration::from_millis(500));
    assert!(writer.0.try_wait()?.is_none(), "the writer never worked");
    server.0.kill()?;
    server.0.wait()?;
    assert!(
        ends(&mut writer),
        "the writer hangs, in state {:?}",
        state_of(writer.0.id())
    );
    let start = Instant::now();
    let report = clean_stale(&bench.dirs)?;
    assert!(start.elapsed() < LIMIT);
    assert_eq!(
        (report.unmounted.len(), report.connections.len()),
        (1, 1),
        "{report:?}"
    );
    assert!(
        report.lingering.is_empty() && report.faults.is_empty(),
        "{report:?}"
    );
    assert_eq!(bench.traces()?, [""; 0]);
    assert!(
        clean_stale(&bench.dirs)?.is_empty(),
        "the second time there is nothing to do"
    );

    // What was synced before the kill is there.
    let attachment = bench.attach(SIZE)?;
    attachment.mount(
        &bench.target(),
        FsKind::Ext4,
        &MountOptions::parse(FsKind::Ext4, "")?,
    )?;
    assert!(bench.target().join("file").exists());
    assert!(attachment.detach(LIMIT).is_clean());
    Ok(())
}

#[test]
fn a_frozen_server_is_torn_down_from_outside() -> Outcome {
    let bench = Bench::new()?;
    let server = serve_elsewhere(&bench)?;
    let mut writer = writer(&bench.target())?;
    thread::sleep(Duration::from_millis(300));
    server.signal(nix::sys::signal::Signal::SIGSTOP)?;
    thread::sleep(Duration::from_millis(300));
    assert!(
        writer.0.try_wait()?.is_none(),
        "the writer should hang on the frozen server"
    );
    let start = Instant::now();
    let report = clean_volume(&bench.dirs, bench.volume)?;
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    assert!(
        ends(&mut writer),
        "the writer hangs, in state {:?}",
        state_of(writer.0.id())
    );
    assert!(report.faults.is_empty(), "{report:?}");
    // The loop device is held by the frozen process itself, and by nobody else: it goes with that.
    let [(_, holders)] = &report.lingering[..] else {
        panic!("{report:?}")
    };
    assert_eq!(
        holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(),
        [server.0.id()]
    );
    drop(server);
    assert!(
        eventually(LIMIT, || bench.traces().is_ok_and(|traces| traces.is_empty())),
        "{:?}",
        bench.traces()?
    );
    Ok(())
}

#[test]
fn what_is_left_of_another_host_with_the_same_kernel_stays() -> Outcome {
    let (mine, other) = (Bench::new()?, Bench::new()?);
    let (attachment, _device) = mounted(&other)?;
    let report = clean_stale(&mine.dirs)?;
    assert!(report.is_empty(), "{report:?}");
    // Even a host that would take over the other's directory of mounts finds no device of its own.
    let stranger = HostDirs {
        run: mine.dirs.run.clone(),
        mounts: other.dirs.mounts.clone(),
    };
    stranger.create()?;
    assert!(clean_stale(&stranger)?.is_empty());
    fs::write(other.target().join("file"), "still here")?;
    assert!(attachment.detach(LIMIT).is_clean());
    Ok(())
}

#[test]
fn a_device_that_never_answers_again_is_torn_down_in_time() -> Outcome {
    let bench = Bench::new()?;
    let (attachment, device) = mounted(&bench)?;
    device.hang();
    let mut writer = writer(&bench.target())?;
    thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    let report = attachment.detach(Duration::from_secs(2));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(8), "it took {took:?}: {report:?}");
    assert!(
        report.aborted && !report.loop_lingers && !report.thread_lingers,
        "{report:?}"
    );
    assert!(
        ends(&mut writer),
        "the writer hangs, in state {:?}",
        state_of(writer.0.id())
    );
    assert_eq!(bench.traces()?, [""; 0]);
    Ok(())
}

#[test]
fn a_call_that_hangs_in_the_device_does_not_hold_up_the_teardown() -> Outcome {
    let bench = Bench::new()?;
    let (attachment, device) = mounted(&bench)?;
    let attachment = Arc::new(attachment);
    fs::write(bench.target().join("file"), vec![1; 1 << 20])?;
    device.hang();
    let freezer = thread::spawn({
        let (attachment, target) = (attachment.clone(), bench.target());
        move || attachment.freeze(&target)
    });
    thread::sleep(Duration::from_millis(200));
    assert!(!freezer.is_finished(), "the freeze should hang");
    let start = Instant::now();
    let report = attachment.detach(Duration::from_secs(2));
    assert!(
        start.elapsed() < Duration::from_secs(12),
        "{:?} {report:?}",
        start.elapsed()
    );
    assert!(report.aborted, "{report:?}");
    let _ = freezer.join();
    assert_eq!(bench.traces()?, [""; 0]);
    Ok(())
}

#[test]
fn a_fenced_volume_fails_its_writers_at_once() -> Outcome {
    let bench = Bench::new()?;
    let (attachment, _device) = mounted(&bench)?;
    let mut writer = writer(&bench.target())?;
    thread::sleep(Duration::from_millis(200));
    attachment.abort()?;
    assert!(
        ends(&mut writer),
        "the writer hangs, in state {:?}",
        state_of(writer.0.id())
    );
    assert!(eventually(LIMIT, || !attachment.is_alive()));
    let report = attachment.detach(LIMIT);
    assert!(!report.loop_lingers, "{report:?}");
    assert_eq!(bench.traces()?, [""; 0]);
    Ok(())
}

#[test]
fn a_file_system_in_use_is_taken_away_after_it_was_written_back() -> Outcome {
    let bench = Bench::new()?;
    let (attachment, _device) = mounted(&bench)?;
    let mut file = File::create(bench.target().join("file"))?;
    file.write_all(b"not synced")?;
    let busy = attachment.unmount(&bench.target(), LIMIT, Duration::from_millis(100));
    assert!(matches!(busy, Err(HostError::System { .. })), "{busy:?}");
    let report = attachment.detach(Duration::from_secs(2));
    assert_eq!(report.lazily.len(), 1, "{report:?}");
    assert!(report.aborted, "{report:?}");
    assert!(
        file.write_all_at(&[1; 4096], 0)
            .and_then(|()| file.sync_all())
            .is_err()
    );
    drop(file);
    drop(attachment);
    assert!(eventually(LIMIT, || bench.traces().is_ok_and(|traces| {
        traces.iter().all(|trace| !trace.starts_with("loop"))
    })));
    let attachment = bench.attach(SIZE)?;
    attachment.mount(
        &bench.target(),
        FsKind::Ext4,
        &MountOptions::parse(FsKind::Ext4, "")?,
    )?;
    assert_eq!(fs::read(bench.target().join("file"))?, b"not synced");
    assert!(attachment.detach(LIMIT).is_clean());
    Ok(())
}

#[test]
fn a_mount_in_another_namespace_is_seen_and_named() -> Outcome {
    let bench = Bench::new()?;
    let (attachment, _device) = mounted(&bench)?;
    fs::write(bench.target().join("file"), "kept")?;
    // As a container does: a mount namespace that has a copy of the mount.
    let mut container = Killed(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sleep", "60"])
            .spawn()?,
    );
    // Once it is `sleep`, its mounts are private.
    let ready = eventually(LIMIT, || {
        attachment
            .holders()
            .is_ok_and(|holders| holders.iter().any(|holder| holder.name == "sleep"))
    });
    assert!(ready, "{:?}", attachment.holders());
    match attachment.unmount(&bench.target(), LIMIT, Duration::from_secs(1)) {
        Err(HostError::Held { holders, .. }) => {
            assert!(holders.iter().any(|holder| holder.pid == container.0.id()))
        }
        other => panic!("{other:?}"),
    }
    let report = attachment.detach(Duration::from_secs(3));
    assert!(report.aborted && report.loop_lingers, "{report:?}");
    assert!(
        report.holders.iter().any(|holder| holder.pid == container.0.id()),
        "{report:?}"
    );
    container.0.kill()?;
    container.0.wait()?;
    assert!(
        eventually(LIMIT, || bench.traces().is_ok_and(|traces| traces.is_empty())),
        "{:?}",
        bench.traces()?
    );

    let attachment = bench.attach(SIZE)?;
    attachment.mount(
        &bench.target(),
        FsKind::Ext4,
        &MountOptions::parse(FsKind::Ext4, "")?,
    )?;
    assert_eq!(
        fs::read_to_string(bench.target().join("file"))?,
        "kept",
        "written back before the abort"
    );
    assert!(attachment.detach(LIMIT).is_clean());
    Ok(())
}

#[test]
fn fifty_at_once_leave_nothing() -> Outcome {
    let bench = Bench::new()?;
    thread::scope(|scope| {
        let all: Vec<_> = (0..50)
            .map(|_| scope.spawn(|| one_life(&bench.dirs, bench.tmp.path())))
            .collect();
        for one in all {
            one.join().map_err(|_| "a life panicked")??;
        }
        Outcome::Ok(())
    })?;
    assert_eq!(bench.traces()?, [""; 0]);
    Ok(())
}

fn one_life(dirs: &HostDirs, tmp: &Path) -> Outcome {
    let volume = VolumeId::from_u128(rand::random());
    let device = FileDevice::open(&tmp.join(format!("data-{volume}")), 16 << 20)?;
    let attachment = Attachment::attach(dirs, volume, device, AttachOptions::default())?;
    attachment.mkfs(&MkfsSpec {
        pristine: true,
        ..MkfsSpec::default()
    })?;
    let target = dirs.mount_point(volume);
    attachment.mount(&target, FsKind::Ext4, &MountOptions::parse(FsKind::Ext4, "")?)?;
    fs::write(target.join("id"), volume.to_string())?;
    assert_eq!(fs::read_to_string(target.join("id"))?, volume.to_string());
    attachment.unmount(&target, LIMIT, LIMIT)?;
    let report = attachment.detach(LIMIT);
    assert!(report.is_clean(), "{report:?}");
    Ok(())
}

#[test]
fn a_panic_in_the_device_fails_the_volume_and_nothing_else() -> Outcome {
    let (bench, other) = (Bench::new()?, Bench::new()?);
    let (attachment, device) = mounted(&bench)?;
    let (sound, _device) = mounted(&other)?;
    device.panic();
    let mut file = File::create(bench.target().join("file"))?;
    assert!(file.write_all(&[1; 4096]).and_then(|()| file.sync_all()).is_err());
    drop(file);
    assert!(
        eventually(LIMIT, || !attachment.is_alive()),
        "a volume went on after a panic"
    );
    let report = attachment.detach(LIMIT);
    assert!(!report.loop_lingers && !report.thread_lingers, "{report:?}");
    assert_eq!(bench.traces()?, [""; 0]);
    fs::write(other.target().join("file"), "sound")?;
    assert!(sound.is_alive() && sound.detach(LIMIT).is_clean());
    Ok(())
}

#[test]
fn a_fenced_volume_in_use_is_taken_away_without_delay() -> Outcome {
    let bench = Bench::new()?;
    let (attachment, _device) = mounted(&bench)?;
    let file = File::create(bench.target().join("file"))?;
    attachment.abort()?;
    assert!(eventually(LIMIT, || !attachment.is_alive()));
    let start = Instant::now();
    let report = attachment.detach(Duration::from_secs(60));
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}: {report:?}",
        start.elapsed()
    );
    assert_eq!(report.lazily.len(), 1, "{report:?}");
    drop(file);
    assert!(
        eventually(LIMIT, || bench.traces().is_ok_and(|traces| traces.is_empty())),
        "{:?}",
        bench.traces()?
    );
    Ok(())
}
