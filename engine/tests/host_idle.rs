//! What a volume costs while nothing happens on it: hundreds of them must be cheap. Alone in its process, because
//! it measures that.

mod host_support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use bulkhead_engine::host::{AttachOptions, Attachment};
use bulkhead_engine::ids::VolumeId;
use bulkhead_engine::io::AlignedBuf;
use host_support::{Bench, FileDevice, Outcome, eventually};

const VOLUMES: usize = 40;
/// More than this, in KiB of memory, an idle volume must not take. It takes about a third.
const EACH: u64 = 200;

fn resident() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS")?;
    Ok(line.split_whitespace().next().ok_or("no number")?.parse()?)
}

#[test]
fn an_idle_volume_takes_little_memory_also_after_it_was_busy() -> Outcome {
    let bench = Bench::new()?;
    let before = resident()?;
    let mut attachments = Vec::new();
    for _ in 0..VOLUMES {
        let volume = VolumeId::from_u128(rand::random());
        let device = FileDevice::open(&bench.tmp.path().join(volume.to_string()), 64 << 20)?;
        attachments.push(Attachment::attach(
            &bench.dirs,
            volume,
            device,
            AttachOptions::default(),
        )?);
    }
    let limit = before + EACH * VOLUMES as u64;
    // What they were read into is given back a second after the last request of attaching them.
    let settled = eventually(Duration::from_secs(10), || {
        resident().is_ok_and(|now| now < limit)
    });
    let idle = resident()?;
    assert!(settled, "{before} KiB before, {idle} with {VOLUMES} idle volumes");
    println!(
        "{} KiB for each of {VOLUMES} idle volumes",
        idle.saturating_sub(before) / VOLUMES as u64
    );

    let block = AlignedBuf::zeroed(1 << 20);
    for attachment in &attachments {
        let device = File::options()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(attachment.device())?;
        for offset in 0..16 {
            device.write_all_at(&block, offset << 20)?;
        }
    }
    let busy = resident()?;
    let limit = limit + 2048;
    let settled = eventually(Duration::from_secs(10), || {
        resident().is_ok_and(|now| now < limit)
    });
    println!("{busy} KiB after writes, {} KiB a little later", resident()?);
    assert!(
        settled,
        "{idle} KiB idle, {busy} KiB after writes, {} KiB later",
        resident()?
    );
    for attachment in attachments {
        assert!(attachment.detach(Duration::from_secs(10)).is_clean());
    }
    Ok(())
}
