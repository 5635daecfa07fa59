//! The files: a new program beside the old one, and each in the place of the other in one step.
//!
//! It owns the installed program's directory while it works there, and what it has put into it. At every moment there is a whole
//! program under the installed name. It must never leave a half-written file behind.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::super::CliError;

/// Who may run the installed program.
const MODE: u32 = 0o755;

/// A new program that lies beside the installed one.
pub(super) struct Swap {
    installed: PathBuf,
    staged: PathBuf,
    previous: PathBuf,
    /// Held so that two upgrades do not meet.
    directory: Flock<File>,
}

impl Swap {
    /// Copies a new program beside the installed one.
    pub(super) fn stage(new: &Path, installed: &Path) -> Result<Self, CliError> {
        let failed = |what: &str, error: io::Error| {
            CliError::Failed(format!(
                "{what} {} cannot be done: {error}; nothing was changed",
                installed.display()
            ))
        };
        let parent = installed.parent().unwrap_or_else(|| Path::new("/"));
        let directory = File::open(parent).map_err(|error| failed("looking into the directory of", error))?;
        let directory =
            Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
                Errno::EWOULDBLOCK => {
                    CliError::Refused("another upgrade of this node is under way".to_owned())
                }
                errno => failed("taking the directory of", errno.into()),
            })?;
        let swap = Self {
            staged: beside(installed, ".new"),
            previous: previous(installed),
            installed: installed.to_owned(),
            directory,
        };
        swap.copy(new)
            .map_err(|error| failed(&format!("copying {} beside", new.display()), error))?;
        Ok(swap)
    }

    /// The new program, where it will be started from.
    pub(super) fn staged(&self) -> &Path {
        &self.staged
    }

    /// Where the old program is kept.
    pub(super) fn previous(&self) -> &Path {
        &self.previous
    }

    /// Puts the new program in the place of the old one, which stays beside it.
    pub(super) fn make(&self) -> io::Result<()> {
        let link = beside(&self.installed, ".old");
        discard(&link)?;
        // A file system without hard links gets a copy.
        if fs::hard_link(&self.installed, &link).is_err() {
            fs::copy(&self.installed, &link)?;
            File::open(&link)?.sync_all()?;
        }
        fs::rename(&link, &self.previous)?;
        fs::rename(&self.staged, &self.installed)?;
        self.directory.sync_all()
    }

    /// Puts the old program back into its place.
    pub(super) fn undo(&self) -> io::Result<()> {
        fs::rename(&self.previous, &self.installed)?;
        self.directory.sync_all()
    }

    fn copy(&self, new: &Path) -> io::Result<()> {
        discard(&self.staged)?;
        let mut from = File::open(new)?;
        let mut to = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.staged)?;
        io::copy(&mut from, &mut to)?;
        to.set_permissions(fs::Permissions::from_mode(MODE))?;
        to.sync_all()
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // What was not put into its place is of no use to anybody.
        let _ = fs::remove_file(&self.staged);
    }
}

/// Where the program is kept that was installed before this one.
pub(crate) fn previous(installed: &Path) -> PathBuf {
    beside(installed, ".previous")
}

/// A file of the same name and an ending more.
fn beside(installed: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(installed.as_os_str());
    name.push(ending);
    name.into()
}

/// Removes what an earlier upgrade that was ended in the middle may have left.
fn discard(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_new_takes_the_place_of_the_old_and_can_give_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let (installed, new) = (dir.path().join("bulkhead"), dir.path().join("download"));
        fs::write(&installed, "old").unwrap();
        fs::write(&new, "new").unwrap();
        // As an upgrade that was killed would leave it.
        fs::write(dir.path().join("bulkhead.new"), "half").unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();

        let swap = Swap::stage(&new, &installed).unwrap();
        assert_eq!(
            (read(swap.staged()), read(&installed)),
            ("new".into(), "old".into())
        );
        assert_eq!(
            fs::metadata(swap.staged()).unwrap().permissions().mode() & 0o777,
            MODE
        );
        assert!(
            matches!(Swap::stage(&new, &installed), Err(CliError::Refused(_))),
            "one at a time"
        );
        swap.make().unwrap();
        assert_eq!(
            (read(&installed), read(swap.previous())),
            ("new".into(), "old".into())
        );
        swap.undo().unwrap();
        assert_eq!(read(&installed), "old");
        drop(swap);
        assert_eq!(names(dir.path()), ["bulkhead", "download"]);

        // One that is given up before leaves nothing; one that is made keeps the old program.
        drop(Swap::stage(&new, &installed).unwrap());
        assert_eq!(names(dir.path()), ["bulkhead", "download"]);
        Swap::stage(&new, &installed).unwrap().make().unwrap();
        assert_eq!(names(dir.path()), ["bulkhead", "bulkhead.previous", "download"]);
    }
}
