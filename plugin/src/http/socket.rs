//! The listening end of a Unix socket. Owns its file: replaces one that nobody serves, refuses to take over one that
//! somebody does, and removes only its own.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use thiserror::Error;
use tokio::net::UnixListener;

/// Why a socket cannot be listened on.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another process serves it.
    #[error("{0}: another daemon already answers on this socket; stop it first, or give this one its own")]
    Taken(PathBuf),
    /// Something that is not a socket is in the way.
    #[error("{0}: something that is not a socket is in the way; move it, or choose another path")]
    NotASocket(PathBuf),
    /// The path is longer than the kernel takes.
    #[error("{0}: the path of a socket has at most 107 bytes, and a few are needed beside it")]
    TooLong(PathBuf),
    /// The system refused.
    #[error("{path}: cannot {what}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A socket that is listened on. Its file goes away with it, unless another process has put its own there or systemd
/// owns it.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    own: Option<(PathBuf, u64)>,
}

impl Listening {
    /// Listens on `path`, for root only. A file left by a dead daemon is replaced in one step, so that a client finds
    /// either none or a socket that is served. Needs a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let fail = |what| {
            move |error| SocketError::Io {
                path: path.to_owned(),
                what,
                error,
            }
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(fail("make its directory"))?;
        }
        refuse_if_taken(path)?;
        let fresh = fresh_name(path);
        if fresh.as_os_str().len() > 107 {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        remove(&fresh).map_err(fail("remove an old file beside it"))?;
        let listener = StdListener::bind(&fresh).map_err(fail("make it"))?;
        let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::metadata(&fresh))
            .and_then(|found| fs::rename(&fresh, path).map(|()| found.ino()));
        let inode = match placed {
            Ok(inode) => inode,
            Err(error) => {
                let _ = fs::remove_file(&fresh);
                return Err(fail("put it in place")(error));
            }
        };
        listener.set_nonblocking(true).map_err(fail("use it"))?;
        Ok(Self {
            listener: UnixListener::from_std(listener).map_err(fail("use it"))?,
            own: Some((path.to_owned(), inode)),
        })
    }

    /// The socket at `path` that systemd made and passed to this process, if it did.
    pub fn from_systemd(path: &Path) -> Option<Self> {
        sd_notify::listen_fds().ok()?.find_map(|fd| Self::adopt(fd, path))
    }

    fn adopt(fd: RawFd, path: &Path) -> Option<Self> {
        // A duplicate is used and the original left open: it may be meant for another socket, and systemd keeps the
        // socket alive anyway.
        // SAFETY: systemd passed the descriptor to this process, and nothing here ever closes it.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let listener = StdListener::from(borrowed.try_clone_to_owned().ok()?);
        if listener.local_addr().ok()?.as_pathname()? != path {
            return None;
        }
        listener.set_nonblocking(true).ok()?;
        Some(Self {
            listener: UnixListener::from_std(listener).ok()?,
            own: None,
        })
    }

    pub(super) const fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some((path, inode)) = &self.own
            && fs::metadata(path).is_ok_and(|found| found.ino() == *inode)
        {
            let _ = fs::remove_file(path);
        }
    }
}

fn fresh_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn refuse_if_taken(path: &Path) -> Result<(), SocketError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    if is_served(path).map_err(|error| SocketError::Io {
        path: path.to_owned(),
        what: "see whether it is served",
        error: error.into(),
    })? {
        return Err(SocketError::Taken(path.to_owned()));
    }
    Ok(())
}

/// Whether a process listens on the socket at `path`. Does not block: one that is stopped has a full queue.
fn is_served(path: &Path) -> nix::Result<bool> {
    let probe = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("sub/b.sock");
        fs::create_dir_all(path.parent().ok_or_else(|| anyhow::anyhow!("no parent"))?)?;
        drop(StdListener::bind(&path)?);
        assert!(path.exists(), "a killed daemon leaves its file");

        let first = Listening::bind(&path)?;
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        let refused = Listening::bind(&path)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(refused.contains("another daemon already answers"), "{refused}");
        drop(first);
        assert!(!path.exists());
        assert_eq!(
            fs::read_dir(dir.path().join("sub"))?.count(),
            0,
            "nothing is left beside it"
        );
        Ok(())
    }

    #[tokio::test]
    async fn only_its_own_file_is_removed() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("b.sock");
        let first = Listening::bind(&path)?;
        fs::remove_file(&path)?;
        let second = Listening::bind(&path)?;
        drop(first);
        assert!(path.exists(), "the second daemon's socket stays");
        drop(second);

        fs::write(&path, "precious")?;
        assert!(matches!(Listening::bind(&path), Err(SocketError::NotASocket(_))));
        Ok(())
    }
}
