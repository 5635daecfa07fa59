//! One daemon for each state directory and each run directory.
//!
//! A daemon that is killed with -9 while one of its threads waits for one of its own volumes does not die: the thread
//! waits for an answer that only the dead could give, and keeps the descriptor whose end would wake it. Whoever comes
//! next finds the directory locked by a process that is dead but for such threads, and aborts its volumes.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bulkhead_engine::host::{HostDirs, clean_stale};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// How long a dying daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// The file that is locked.
const NAME: &str = "daemon.lock";
/// Between tries.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a run directory is waited for whose owner has given its state directory back: both go in one moment.
const RUN_DIR: Duration = Duration::from_secs(2);

/// Held as long as the daemon runs; the kernel lets go of it when the process ends, however it ends.
pub(super) struct Instance {
    _state: Flock<File>,
    _run: Flock<File>,
}

/// Makes the state directory this process's own. `dirs` are the host's directories that go with it.
pub(super) fn lock(state_dir: &Path, dirs: &HostDirs) -> anyhow::Result<Instance> {
    fs::create_dir_all(state_dir)
        .with_context(|| format!("cannot make the state directory {}", state_dir.display()))?;
    let path = state_dir.join(NAME);
    let mut file = open(&path)?;
    let end = Instant::now() + PATIENCE;
    let mut cleaned = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                note_owner(&mut lock).with_context(|| format!("cannot write {}", path.display()))?;
                return Ok(Instance {
                    _state: lock,
                    _run: lock_run_dir(dirs)?,
                });
            }
            Err((same, Errno::EWOULDBLOCK)) => file = same,
            Err((_, error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        let owner = owner(&mut file);
        if !owner.is_some_and(is_dying) || Instant::now() >= end {
            bail!(
                "another daemon{} uses the state directory {}; stop it first, or give this one its own with --state-dir",
                owner.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
                state_dir.display()
            );
        }
        if !cleaned {
            tracing::warn!("the daemon before was killed and cannot end by itself; its volumes are aborted");
            clean_stale(dirs).context("what the daemon before left cannot be taken away")?;
            cleaned = true;
        }
        std::thread::sleep(PAUSE);
    }
}

/// What an earlier run left in the run directory is taken away at the start, so it must be nobody else's.
fn lock_run_dir(dirs: &HostDirs) -> anyhow::Result<Flock<File>> {
    fs::create_dir_all(&dirs.run)
        .with_context(|| format!("cannot make the run directory {}", dirs.run.display()))?;
    let path = dirs.run.join(NAME);
    let mut file = open(&path)?;
    let end = Instant::now() + RUN_DIR;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) if Instant::now() < end => file = same,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another daemon uses the run directory {}; give this one its own with --run-dir",
                dirs.run.display()
            ),
            Err((_, error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        std::thread::sleep(PAUSE);
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn note_owner(file: &mut File) -> std::io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn owner(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a process has ended but for threads that hang in the kernel.
fn is_dying(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        // Gone this very moment, or of another namespace: the next try or the patience tells.
        return false;
    };
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| state.starts_with(['Z', 'X']))
}
