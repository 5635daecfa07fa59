//! A server process on loopback, with ports and a directory of its own. It dies with the test that started it, also when
//! that panics or is killed.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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
    nurse
        .lock()
        .expect("a server of the test")
        .send((command, answer))
        .expect("a server of the test");
    child
        .recv()
        .expect("a server of the test")
        .expect("a server of the test")
}

/// A port of loopback that nobody uses right now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .expect("a server of the test")
        .local_addr()
        .expect("a server of the test")
        .port()
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
        .expect("a server of the test")
}

/// A server that can be killed, paused and started again.
pub struct Server {
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Server {
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

    pub fn restart(&self) {
        self.kill();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a server of the test");
        let mut command = Command::new("setpriv");
        command
            .arg("--pdeathsig")
            .arg("KILL")
            .arg(&self.program)
            .args(&self.args);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a server of the test"))
            .stderr(log);
        *self.child.lock().expect("a server of the test") = Some(spawn(command));
    }

    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().expect("a server of the test").take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        if let Some(child) = &*self.child.lock().expect("a server of the test") {
            let pid = child.id().to_string();
            assert!(
                Command::new("kill")
                    .args(["-s", signal, &pid])
                    .status()
                    .expect("a server of the test")
                    .success()
            );
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
