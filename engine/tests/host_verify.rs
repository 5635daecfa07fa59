//! fio checks every byte it wrote: on the bare device and on each file system, random and sequential, with trims,
//! across a detach and attach, and with a device that answers later and from other threads.

mod host_support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_engine::host::{AttachOptions, Attachment, BlockSize, FsKind, MkfsSpec, MountOptions};
use bulkhead_engine::io::BlockDevice;
use host_support::{Bench, FileDevice, Outcome, run};

const LIMIT: Duration = Duration::from_secs(20);
const SIZE: u64 = 400 << 20;

/// One pass of fio over a file or device, which it also checks unless it only writes.
fn fio(name: &str, path: &Path, more: &[&str]) -> Outcome {
    let filename = format!("--filename={}", path.display());
    let name = format!("--name={name}");
    let mut args = vec![
        name.as_str(),
        filename.as_str(),
        "--ioengine=libaio",
        "--direct=1",
        "--size=96m",
        "--randseed=7",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--output-format=terse",
    ];
    args.extend(more);
    run("fio", &args).map(drop)
}

const RANDOM: &[&str] = &[
    "--rw=randwrite",
    "--bsrange=4k-128k",
    "--blockalign=4k",
    "--iodepth=16",
    "--norandommap=0",
];
const SEQUENTIAL: &[&str] = &["--rw=write", "--bs=1m", "--iodepth=4", "--offset=128m"];
const TRIMS: &[&str] = &[
    "--rw=randtrimwrite",
    "--bs=64k",
    "--iodepth=8",
    "--offset=256m",
    "--size=64m",
];

fn with<'a>(job: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    job.iter().chain(more).copied().collect()
}

fn write_then_verify_after_reattach(
    bench: &Bench,
    open: impl Fn() -> Outcome<Arc<dyn BlockDevice>>,
) -> Outcome {
    let jobs = [("random", RANDOM), ("sequential", SEQUENTIAL), ("trims", TRIMS)];
    let attach = || -> Outcome<Attachment> {
        Ok(Attachment::attach(
            &bench.dirs,
            bench.volume,
            open()?,
            AttachOptions::default(),
        )?)
    };
    let attachment = attach()?;
    for (name, job) in jobs {
        fio(
            name,
            attachment.device(),
            &with(job, &["--do_verify=1", "--end_fsync=1"]),
        )?;
    }
    let report = attachment.detach(LIMIT);
    assert!(report.is_clean(), "{report:?}");
    let attachment = attach()?;
    for (name, job) in jobs {
        fio(name, attachment.device(), &with(job, &["--verify_only"]))?;
    }
    assert!(attachment.detach(LIMIT).is_clean());
    assert_eq!(bench.traces()?, [""; 0]);
    Ok(())
}

#[test]
fn the_bare_device_keeps_every_byte() -> Outcome {
    let bench = Bench::new()?;
    write_then_verify_after_reattach(&bench, || Ok(FileDevice::open(&bench.data(), SIZE)?))
}

#[test]
fn answers_that_come_late_and_from_other_threads_fit_their_requests() -> Outcome {
    let bench = Bench::new()?;
    write_then_verify_after_reattach(&bench, || Ok(FileDevice::open_async(&bench.data(), SIZE, 4)?))
}

#[test]
fn blocks_of_512_bytes_keep_every_byte() -> Outcome {
    let bench = Bench::new()?;
    let options = AttachOptions {
        block_size: BlockSize::B512,
        ..AttachOptions::default()
    };
    let device = FileDevice::open(&bench.data(), SIZE)?;
    let attachment = Attachment::attach(&bench.dirs, bench.volume, device, options)?;
    let job = [
        "--rw=randwrite",
        "--bsrange=512-16k",
        "--blockalign=512",
        "--iodepth=16",
        "--size=8m",
    ];
    fio("small", attachment.device(), &with(&job, &["--do_verify=1"]))?;
    assert!(attachment.detach(LIMIT).is_clean());
    Ok(())
}

#[test]
fn every_file_system_keeps_every_byte() -> Outcome {
    for fs in FsKind::ALL {
        let bench = Bench::new()?;
        let target = bench.target();
        let path = target.join("file");
        let job = with(RANDOM, &["--size=64m"]);
        let attachment = bench.attach(SIZE)?;
        attachment.mkfs(&MkfsSpec {
            fs,
            pristine: true,
            ..MkfsSpec::default()
        })?;
        attachment.mount(&target, fs, &MountOptions::parse(fs, "discard")?)?;
        fio("random", &path, &with(&job, &["--do_verify=1", "--fsync=64"]))?;
        attachment.trim(&target)?;
        let report = attachment.detach(LIMIT);
        assert!(report.is_clean(), "{fs}: {report:?}");
        let attachment = bench.attach(SIZE)?;
        attachment.mount(&target, fs, &MountOptions::parse(fs, "")?)?;
        fio("random", &path, &with(&job, &["--verify_only"]))?;
        let report = attachment.detach(LIMIT);
        assert!(report.is_clean(), "{fs}: {report:?}");
    }
    Ok(())
}
