//! One daemon for each state directory and each run directory.
//!
//! A daemon that is killed with -9 while one of its threads waits for one of its own volumes does not die: the thread
//! waits for an answer that only the dead could give, and keeps all that the process had open: with the replicas' files, of
//! which nobody may take another opening before, and the descriptor whose end would wake it. Whoever comes next finds the
//! directory locked by a process that is dead but for such threads. It aborts the volumes that they wait for, and all that
//! there are if that does not suffice; the others go on with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bulkhead_engine::host::{HostDirs, clean_stale, clean_volume, volumes_that_hold};
use bulkhead_engine::ids::VolumeId;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::proc::stat;

/// How long a dying daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// The file that is locked.
const NAME: &str = "daemon.lock";
/// Between tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A process that was killed has so long until it is looked at what keeps it: most end at once.
const HANGS: Duration = Duration::from_secs(2);
/// After that, and after what was done about it, so long until everything is aborted.
const HANGS_STILL: Duration = Duration::from_secs(4);
/// A process that is not known to be dying may have been killed this very moment.
const MOMENT: Duration = Duration::from_millis(1500);

/// How long a run directory is waited for whose owner has given its state directory back: both go in one moment.
const RUN_DIR: Duration = Duration::from_secs(2);

/// Held as long as the daemon runs; the kernel lets go of it when the process ends, however it ends.
pub(super) struct Instance {
    _state: Flock<File>,
    _run: Flock<File>,
}

/// Makes the state directory this process's own. `dirs` are the host's directories that go with it. Says which volumes had
/// to be aborted to let the process before go; they are cleaned up. If none is `kept`, there is nothing to be gentle about.
pub(super) fn lock(state_dir: &Path, dirs: &HostDirs, kept: bool) -> anyhow::Result<(Instance, Aborted)> {
    fs::create_dir_all(state_dir)
        .with_context(|| format!("cannot make the state directory {}", state_dir.display()))?;
    let path = state_dir.join(NAME);
    let mut file = open(&path)?;
    let begun = Instant::now();
    let mut force = Force::new(begun, kept);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                note_owner(&mut lock).with_context(|| format!("cannot write {}", path.display()))?;
                let instance = Instance {
                    _state: lock,
                    _run: lock_run_dir(dirs)?,
                };
                return Ok((instance, force.aborted));
            }
            Err((same, Errno::EWOULDBLOCK)) => file = same,
            Err((_, error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        let owner = owner(&mut file);
        let dying = owner.filter(|pid| is_dying(*pid));
        let patience = if dying.is_some() { PATIENCE } else { MOMENT };
        if begun.elapsed() >= patience {
            bail!(
                "another daemon{} uses the state directory {}; stop it first, or give this one its own with --state-dir",
                owner.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
                state_dir.display()
            );
        }
        if let Some(pid) = dying {
            force.press(dirs, pid)?;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Volumes that were aborted.
#[derive(Debug, Default)]
pub(super) struct Aborted {
    volumes: BTreeSet<VolumeId>,
    all: bool,
}

impl Aborted {
    /// Whether this one was.
    pub(super) fn contains(&self, id: VolumeId) -> bool {
        self.all || self.volumes.contains(&id)
    }
}

/// What is done about a process that is dead but for threads that hang.
struct Force {
    begun: Instant,
    gentle: bool,
    aborted: Aborted,
    has_looked: bool,
}

impl Force {
    fn new(begun: Instant, gentle: bool) -> Self {
        Self {
            begun,
            gentle,
            aborted: Aborted::default(),
            has_looked: false,
        }
    }

    fn press(&mut self, dirs: &HostDirs, pid: u32) -> anyhow::Result<()> {
        let failed = "what the daemon before left cannot be taken away";
        if self.gentle && !self.has_looked && self.begun.elapsed() >= HANGS {
            self.has_looked = true;
            let volumes = volumes_that_hold(dirs, pid).unwrap_or_default();
            for id in volumes {
                tracing::error!(volume = %id, "the daemon before was killed while it waited for it, and cannot end: its connection is aborted");
                clean_volume(dirs, id).context(failed)?;
                self.aborted.volumes.insert(id);
            }
        }
        let is_over = !self.gentle || self.begun.elapsed() >= HANGS_STILL;
        if !self.aborted.all && is_over {
            self.aborted.all = true;
            tracing::error!(
                "the daemon before was killed and cannot end by itself: all its volumes are aborted"
            );
            clean_stale(dirs).context(failed)?;
        }
        Ok(())
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
    // One of which nothing is told is gone this very moment, or of another namespace: the next try or the patience tells.
    stat(pid, 0).is_some_and(|state| state.starts_with(['Z', 'X']))
}
