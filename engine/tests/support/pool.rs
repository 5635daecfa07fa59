//! A small file system of its own for a test, as a pool. Needs root for the mount.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// A mounted file system, unmounted when this goes.
pub struct Pool {
    /// Dropped last: what is mounted lies in it.
    place: TempDir,
    kind: String,
}

impl Pool {
    /// Makes and mounts one; says so and gives none without root.
    pub fn make(kind: &str, mib: u64) -> Option<Self> {
        Self::make_in(fast_place(), kind, mib)
    }

    /// As [`make`](Self::make), with its image in a directory of another pool.
    pub fn make_on(outer: &Pool, kind: &str, mib: u64) -> Option<Self> {
        Self::make_in(TempDir::new_in(outer.dir()).unwrap(), kind, mib)
    }

    fn make_in(place: TempDir, kind: &str, mib: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not root: a pool of {kind} cannot be mounted, nothing was checked");
            return None;
        }
        enter_own_namespace();
        let pool = Self {
            place,
            kind: kind.into(),
        };
        std::fs::create_dir(pool.dir()).unwrap();
        if kind == "tmpfs" {
            run(
                "mount",
                &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"],
                &pool.dir(),
            );
            return Some(pool);
        }
        let image = pool.image();
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run(&format!("mkfs.{kind}"), &["-q"], &image);
        pool.mount();
        Some(pool)
    }

    fn image(&self) -> PathBuf {
        self.place.path().join("image")
    }

    /// Where it is mounted.
    pub fn dir(&self) -> PathBuf {
        self.place.path().join("pool")
    }

    /// Mounts it again.
    pub fn mount(&self) {
        let image = self.image();
        run(
            "mount",
            &["-t", &self.kind, "-o", "loop", image.to_str().unwrap()],
            &self.dir(),
        );
    }

    /// Unmounts it; the loop device goes with the mount.
    pub fn unmount(&self) {
        run("umount", &[], &self.dir());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-q").arg(self.dir()).status();
    }
}

/// A directory in memory if there is plenty, else on disk: what is tested is not how fast the machine's disk is.
fn fast_place() -> TempDir {
    let memory = Path::new("/dev/shm");
    match statvfs(memory) {
        Ok(found) if found.blocks_available() * found.fragment_size() >= 4 << 30 => TempDir::new_in(memory),
        _ => TempDir::new(),
    }
    .unwrap()
}

/// Moves this thread to mounts of its own: a namespace that some other process makes meanwhile would copy the mount, and
/// keep the file system alive behind our back. And whatever is left goes with the thread.
fn enter_own_namespace() {
    thread_local! {
        static ENTERED: OnceCell<()> = const { OnceCell::new() };
    }
    ENTERED.with(|entered| {
        entered.get_or_init(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        });
    });
}

fn run(program: &str, arguments: &[&str], last: &Path) {
    let output = Command::new(program).args(arguments).arg(last).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
