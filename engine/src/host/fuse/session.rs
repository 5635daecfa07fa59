//! The threads that serve one volume's file, and the transport that an attachment holds.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use parking_lot::{Condvar, Mutex};

use super::buffers::Buffers;
use super::inbox::Inbox;
use super::mount::Connection;
use super::reply::notify_resend;
use super::serve::Server;
use crate::host::bounded::Deadline;
use crate::host::error::{Doing, HostError};
use crate::host::transport::{Handover, Negotiated, Transport};
use crate::io::BlockDevice;

/// Room for the volume's state machine, which runs on these threads.
const STACK: usize = 512 << 10;

/// How a volume's file is served.
#[derive(Clone, Copy, Debug)]
pub struct FuseOptions {
    /// Threads. Requests are answered asynchronously, so few serve many requests.
    pub threads: usize,
    /// Buffers of 1 MiB for large writes in flight; the threads wait when all are in use.
    pub buffers: usize,
    /// Requests that the kernel may have outstanding; a loop device has at most 128.
    pub max_background: u16,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            threads: 2,
            buffers: 32,
            max_background: 128,
        }
    }
}

/// A volume's file over `/dev/fuse`.
pub struct FuseTransport {
    connection: Connection,
    file: PathBuf,
    server: Arc<Server>,
    running: Arc<Running>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// How many threads are left.
struct Running {
    left: Mutex<usize>,
    ended: Condvar,
    stopping: AtomicBool,
}

impl FuseTransport {
    /// Makes the mount on `dir`, with one file of this name, and serves it.
    pub fn start(
        dir: &Path,
        file_name: String,
        device: Arc<dyn BlockDevice>,
        options: FuseOptions,
    ) -> Result<Self, HostError> {
        let (connection, descriptor) = Connection::mount(dir)?;
        Self::serve(
            connection,
            descriptor,
            file_name,
            device,
            options,
            OnceLock::new(),
        )
    }

    /// Serves a connection that another process has opened and mounted on `dir`, and may have served until it
    /// ended: what that one had read and not answered comes again. The mount stays as it is.
    pub fn adopt(
        dir: &Path,
        file_name: String,
        handover: Handover,
        device: Arc<dyn BlockDevice>,
        options: FuseOptions,
    ) -> Result<Self, HostError> {
        let connection = Connection::existing(dir)?;
        let known = handover.negotiated.map_or_else(OnceLock::new, OnceLock::from);
        let descriptor = File::from(handover.descriptor);
        // Before anything is read: what this process reads and what comes again must not be the same request, of which the
        // second time could be carried out, answered and followed by another before the first is.
        if handover.negotiated.is_some_and(|negotiated| negotiated.resends()) {
            notify_resend(&descriptor).doing(|| {
                format!(
                    "asking the kernel to send again what {} left unanswered",
                    dir.display()
                )
            })?;
        }
        Self::serve(connection, descriptor.into(), file_name, device, options, known)
    }

    fn serve(
        connection: Connection,
        descriptor: OwnedFd,
        file_name: String,
        device: Arc<dyn BlockDevice>,
        options: FuseOptions,
        negotiated: OnceLock<Negotiated>,
    ) -> Result<Self, HostError> {
        let threads = options.threads.max(1);
        // A thread that waits for a request waits where it can still give memory back, and not in the reading.
        fcntl(&descriptor, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
            .doing(|| format!("setting up the connection on {}", connection.dir().display()))?;
        let transport = Self {
            file: connection.dir().join(&file_name),
            server: Arc::new(Server {
                connection: Arc::new(File::from(descriptor)),
                device,
                file_name,
                buffers: Buffers::new(options.buffers.max(threads)),
                negotiated,
                max_background: options.max_background.max(1),
            }),
            running: Arc::new(Running {
                left: Mutex::new(0),
                ended: Condvar::new(),
                stopping: AtomicBool::new(false),
            }),
            threads: Mutex::default(),
            connection,
        };
        for _ in 0..threads {
            if let Err(error) = transport.start_thread() {
                let _ = transport.close(Duration::from_secs(5));
                return Err(error);
            }
        }
        Ok(transport)
    }

    fn start_thread(&self) -> Result<(), HostError> {
        let seat = Seat::take(self.running.clone(), self.connection.clone());
        let server = self.server.clone();
        let thread = thread::Builder::new()
            .name("fuse".into())
            .stack_size(STACK)
            .spawn(move || work(&server, &seat))
            .doing(|| format!("starting a thread for {}", self.file.display()))?;
        self.threads.lock().push(thread);
        Ok(())
    }
}

impl Transport for FuseTransport {
    fn file(&self) -> &Path {
        &self.file
    }

    fn abort(&self) -> Result<(), HostError> {
        self.running.stopping.store(true, Ordering::Release);
        self.connection.abort()
    }

    fn is_alive(&self) -> bool {
        *self.running.left.lock() > 0
    }

    fn handover(&self) -> Result<Handover, HostError> {
        let what = || format!("handing over the connection of {}", self.file.display());
        let descriptor = self.server.connection.as_fd().try_clone_to_owned().doing(what)?;
        Ok(Handover {
            negotiated: self.server.negotiated.get().copied(),
            descriptor,
        })
    }

    fn close(&self, limit: Duration) -> Result<bool, HostError> {
        self.running.stopping.store(true, Ordering::Release);
        let deadline = Deadline::within(limit);
        let unmounted = self.connection.unmount();
        self.server.buffers.close();
        let ended = {
            let mut left = self.running.left.lock();
            while *left > 0 && !deadline.is_over() {
                self.running.ended.wait_for(&mut left, deadline.left());
            }
            *left == 0
        };
        if ended {
            for thread in self.threads.lock().drain(..) {
                // A panic was reported by the thread's own hook, and has aborted the connection already.
                let _ = thread.join();
            }
        }
        unmounted.map(|()| ended)
    }
}

impl Drop for FuseTransport {
    fn drop(&mut self) {
        if let Err(error) = self.close(Duration::from_secs(1)) {
            tracing::error!(%error, "closing a FUSE mount");
        }
    }
}

/// A thread's place among those that serve. Leaving it in a panic aborts the connection: a volume whose state may
/// be half-way between two steps must not go on.
struct Seat {
    running: Arc<Running>,
    connection: Connection,
}

impl Seat {
    fn take(running: Arc<Running>, connection: Connection) -> Self {
        *running.left.lock() += 1;
        Self { running, connection }
    }

    fn give_up(&self, why: &str) {
        if !self.running.stopping.swap(true, Ordering::AcqRel) {
            tracing::error!(mount = %self.connection.dir().display(), why, "the FUSE connection is aborted");
            if let Err(error) = self.connection.abort() {
                tracing::error!(%error, "aborting a FUSE connection");
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if thread::panicking() {
            self.give_up("a thread panicked");
        }
        *self.running.left.lock() -= 1;
        self.running.ended.notify_all();
    }
}

/// Serves requests until the connection ends.
fn work(server: &Arc<Server>, seat: &Seat) {
    let mut inbox = match Inbox::new(server) {
        Ok(inbox) => inbox,
        Err(error) => return seat.give_up(&format!("no request can be waited for: {error}")),
    };
    while !inbox.is_over() {
        inbox.begin();
        server.device.submit_all(&mut || inbox.next());
        inbox.wait();
    }
    if inbox.is_broken() {
        seat.give_up("no request can be read any more");
    }
}
