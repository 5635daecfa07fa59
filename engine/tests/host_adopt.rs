//! A connection outlives its server: killed with requests unanswered, a second one goes on, and nobody sees an error.

mod host_support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use bulkhead_engine::host::fuse::mount::Connection;
use bulkhead_engine::host::fuse::{FuseOptions, FuseTransport};
use bulkhead_engine::host::loopdev::{LoopDevice, LoopOptions};
use bulkhead_engine::host::transport::{Handover, Negotiated, Transport};
use host_support::{Bench, FileDevice, Outcome, eventually};

const SIZE: u64 = 64 << 20;
const SERVE: &str = "BULKHEAD_TEST_ADOPT";
const NAME: &str = "file";

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: a server in a process of its own, on an inherited descriptor. It tells what was negotiated
/// and then, if told so, answers nothing any more.
#[test]
fn serve_for_another_test() -> Outcome {
    let Ok(spec) = std::env::var(SERVE) else {
        return Ok(());
    };
    let (fd, mute, dir, data, known): (RawFd, bool, String, String, Option<Negotiated>) =
        serde_json::from_str(&spec)?;
    let device = FileDevice::open(Path::new(&data), SIZE)?;
    // SAFETY: the parent passed this descriptor on to this process, and nothing else here uses it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
    let handover = Handover {
        descriptor,
        negotiated: known,
    };
    let options = FuseOptions {
        threads: 3,
        ..FuseOptions::default()
    };
    let transport = FuseTransport::adopt(Path::new(&dir), NAME.into(), handover, device.clone(), options)?;
    // The kernel's first request comes by itself.
    let mut negotiated = None;
    eventually(Duration::from_secs(10), || {
        negotiated = transport.handover().ok().and_then(|handover| handover.negotiated);
        negotiated.is_some()
    });
    println!("\nnegotiated {}", serde_json::to_string(&negotiated)?);
    if mute {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        device.hang();
        println!("mute");
    }
    thread::sleep(Duration::from_secs(60));
    Ok(())
}

struct Server {
    process: Killed,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    negotiated: Option<Negotiated>,
}

fn serve(keeper: RawFd, mute: bool, dir: &Path, data: &Path, known: Option<Negotiated>) -> Outcome<Server> {
    let spec = serde_json::to_string(&(keeper, mute, dir, data, known))?;
    let mut process = Killed(
        Command::new(std::env::current_exe()?)
            .args(["--exact", "serve_for_another_test", "--nocapture"])
            .env(SERVE, spec)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let stdout = process.0.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let said = wait_for(&mut lines, "negotiated ")?;
    Ok(Server {
        process,
        lines,
        negotiated: serde_json::from_str(&said)?,
    })
}

fn wait_for(lines: &mut std::io::Lines<BufReader<std::process::ChildStdout>>, word: &str) -> Outcome<String> {
    for line in lines {
        if let Some(rest) = line?.strip_prefix(word) {
            return Ok(rest.to_owned());
        }
    }
    Err(format!("the server ended before it said {word:?}").into())
}

#[test]
fn requests_that_a_killed_server_left_unanswered_are_answered_by_the_next() -> Outcome {
    let bench = Bench::new()?;
    // Below the directory in which a clean-up looks, and with a name that it knows.
    let dir = bench.dirs.run.join("devices").join(bench.volume.to_string());
    fs::create_dir_all(&dir)?;
    let (_connection, keeper) = Connection::mount(&dir)?;
    nix::fcntl::fcntl(
        &keeper,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )?;
    let mut first = serve(keeper.as_raw_fd(), true, &dir, &bench.data(), None)?;
    let negotiated = first.negotiated.ok_or("nothing was negotiated")?;
    if !negotiated.resends() {
        // Linux before 6.9 cannot: then there is nothing to go on with.
        return Ok(());
    }
    let options = LoopOptions {
        tag: "adopt".into(),
        block_size: 4096,
        autoclear: true,
    };
    let backing = File::options().read(true).write(true).open(dir.join(NAME))?;
    let device = LoopDevice::attach(&backing, &options)?;
    drop(backing);

    std::io::Write::write_all(first.process.0.stdin.as_mut().ok_or("no input")?, b"mute\n")?;
    wait_for(&mut first.lines, "mute")?;
    let path = device.path().to_path_buf();
    let writers: Vec<_> = (0..8u8)
        .map(|part| {
            let path = path.clone();
            thread::spawn(move || {
                use std::os::unix::fs::OpenOptionsExt;
                let file = File::options()
                    .write(true)
                    .custom_flags(libc::O_DIRECT)
                    .open(path)?;
                let mut block = bulkhead_engine::io::AlignedBuf::zeroed(64 << 10);
                block.fill(part + 1);
                file.write_all_at(&block, u64::from(part) << 20)?;
                file.sync_all()
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    assert!(
        writers.iter().all(|writer| !writer.is_finished()),
        "the server answered"
    );
    drop(first);

    let _second = serve(keeper.as_raw_fd(), false, &dir, &bench.data(), Some(negotiated))?;
    for writer in writers {
        writer.join().map_err(|_| "a writer panicked")??;
    }
    let data = File::open(bench.data())?;
    for part in 0..8u8 {
        let mut block = vec![0; 64 << 10];
        data.read_exact_at(&mut block, u64::from(part) << 20)?;
        assert!(
            block.iter().all(|byte| *byte == part + 1),
            "write {part} is not there"
        );
    }
    assert!(device.detach(Duration::from_secs(10))?);
    Ok(())
}
