//! One server process: started, killed, paused, started again. Owns the process, and lets none of them survive.

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;

use tempfile::TempDir;

/// The kernel's death signal follows the *thread* that started a process, so one thread that never ends starts all.
fn spawn(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static NURSE: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let nurse = NURSE.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = channel();
    nurse.lock().unwrap().send((command, answer)).unwrap();
    child.recv().unwrap().unwrap()
}

/// A port of loopback that nobody uses right now, for TCP and for UDP, and that this process has not given out yet.
///
/// It lies below those that the kernel gives to outgoing connections: one of the hundreds that the tests open would
/// otherwise take it before the server does.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 10_000..32_000;
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Test programs that run at the same time begin far from each other.
    let begin = || AtomicU16::new((std::process::id().wrapping_mul(7_919) % u32::from(PORTS.end)) as u16);
    let next = NEXT.get_or_init(begin);
    let is_free = |port: &u16| {
        let address = ("127.0.0.1", *port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    (0..PORTS.len())
        .map(|_| PORTS.start + next.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start))
        .find(is_free)
        .expect("a free port on loopback")
}

/// A directory for servers' data: in memory where there is room, because the disk's speed is not what is tested.
pub fn data_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("bulkhead-store-");
        builder
    };
    builder()
        .tempdir_in(memory)
        .or_else(|_| builder().tempdir())
        .unwrap()
}

/// A server that can be killed, paused and started again.
pub struct Server {
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// Starts one; what it says goes to the log.
    pub fn start(program: &Path, args: Vec<String>, log: PathBuf) -> Self {
        let server = Self {
            program: program.to_owned(),
            args,
            log,
            child: Mutex::new(None),
        };
        server.restart();
        server
    }

    /// Starts it again, after killing it if it runs.
    pub fn restart(&self) {
        self.kill();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new("setpriv");
        command
            .arg("--pdeathsig")
            .arg("KILL")
            .arg(&self.program)
            .args(&self.args);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        *self.child.lock().unwrap() = Some(spawn(command));
    }

    /// SIGKILL.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        if let Some(child) = &*self.child.lock().unwrap() {
            let pid = child.id().to_string();
            assert!(
                Command::new("kill")
                    .args(["-s", signal, &pid])
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            // Its directory goes with it, and what it said is often the reason.
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            eprintln!("the last words of {}:\n{last}", self.log.display());
        }
    }
}
