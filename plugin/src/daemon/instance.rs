//! One daemon for each state directory.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

/// Held as long as the daemon runs; the kernel lets go of it when the process ends, however it ends.
pub(super) struct Instance {
    _lock: Flock<File>,
}

/// Makes the state directory this process's own.
pub(super) fn lock(state_dir: &Path) -> anyhow::Result<Instance> {
    fs::create_dir_all(state_dir)
        .with_context(|| format!("cannot make the state directory {}", state_dir.display()))?;
    let path = state_dir.join("daemon.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Instance { _lock: lock }),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
            "another daemon uses the state directory {}; stop it first, or give this one its own with --state-dir",
            state_dir.display()
        ),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
