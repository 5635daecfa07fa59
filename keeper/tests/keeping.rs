//! A real keeper with a real child: both are this very program, in other roles. The child does what the test tells it
//! over a socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bulkhead_keeper::socket::Socket;
use bulkhead_keeper::{Client, Start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn main() -> ExitCode {
    if bulkhead_keeper::is_kept() {
        return child();
    }
    if std::env::args().nth(1).is_some_and(|word| word == "keep") {
        return bulkhead_keeper::run();
    }
    let tests: [(&str, fn()); 11] = [
        (
            "a_killed_child_gets_back_what_it_left",
            a_killed_child_gets_back_what_it_left,
        ),
        ("nonsense_is_refused", nonsense_is_refused),
        (
            "a_killed_keeper_takes_the_child_along",
            a_killed_keeper_takes_the_child_along,
        ),
        ("a_signal_to_stop_is_passed_on", a_signal_to_stop_is_passed_on),
        ("told_twice_it_kills", told_twice_it_kills),
        ("pauses_grow", pauses_grow),
        ("exits_end_it_or_not", exits_end_it_or_not),
        ("it_replaces_itself", it_replaces_itself),
        ("a_bad_successor_is_not_taken", a_bad_successor_is_not_taken),
        ("what_nobody_serves_is_let_go", what_nobody_serves_is_let_go),
        (
            "sockets_of_systemd_are_passed_on",
            sockets_of_systemd_are_passed_on,
        ),
    ];
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    if std::env::args().any(|word| word == "--list") {
        for (name, _) in tests {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    for (name, test) in tests {
        if wanted
            .as_ref()
            .is_none_or(|wanted| name.contains(wanted.as_str()))
        {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

// --- the child ---------------------------------------------------------------------------------------------------

fn child() -> ExitCode {
    let Start { client, kept, starts } = Start::take().expect("a keeper").expect("it is kept");
    let path = std::env::args().nth(2).expect("a path");
    let stream = UnixStream::connect(path).expect("the test listens");
    let mut out = stream.try_clone().expect("a copy");
    let all: Vec<String> = kept
        .iter()
        .map(|kept| {
            let content = kept.descriptor.as_ref().map_or("gone".to_owned(), content);
            let note = String::from_utf8_lossy(&kept.note);
            format!(
                "{}={note}/{content}/{}",
                kept.key.as_str(),
                kept.unserved.as_millis()
            )
        })
        .collect();
    let listen = std::env::var("LISTEN_PID").unwrap_or_default() == std::process::id().to_string();
    let (pid, parent) = (std::process::id(), std::os::unix::process::parent_id());
    writeln!(out, "{pid} {parent} {starts} {listen} {}", all.join(",")).expect("told");
    drop(kept);
    // Held for as long as this runs.
    let mut held = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap_or_default();
        let words: Vec<&str> = line.split(' ').collect();
        let said = match *words.as_slice() {
            ["put", key, note, patience, served] => {
                let file = memory(key);
                let patience = Duration::from_millis(patience.parse().expect("a number"));
                client.put(key, note.as_bytes(), file.as_fd(), served == "served", patience)
            }
            ["pipe", key, path] => {
                let file = File::options().write(true).open(path).expect("a pipe");
                let done = client.put(key, b"", file.as_fd(), true, Duration::from_secs(60));
                held.push(file);
                done
            }
            ["drop", key] => client.forget(key),
            ["reexec"] => client.reexec(),
            ["exit", code] => std::process::exit(code.parse().expect("a number")),
            ["deaf"] => {
                // SAFETY: nothing in it but a number.
                unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
                Ok(())
            }
            ["nonsense"] => {
                writeln!(out, "{}", nonsense(&client)).expect("told");
                continue;
            }
            _ => panic!("{line:?}"),
        };
        match said {
            Ok(()) => writeln!(out, "ok").expect("told"),
            Err(error) => writeln!(out, "{error}").expect("told"),
        }
    }
    ExitCode::SUCCESS
}

/// Things that no client would send, on the very socket; afterwards a sound request is still carried out.
fn nonsense(client: &Client) -> String {
    let number = std::env::var("BULKHEAD_KEEPER").unwrap().parse().unwrap();
    // SAFETY: the client has it open for as long as this process runs.
    let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let say = |bytes: &[u8], along: &[std::os::fd::RawFd]| {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let rights = [ControlMessage::ScmRights(along)];
        let rights = if along.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(
            socket.as_raw_fd(),
            &[std::io::IoSlice::new(bytes)],
            rights,
            MsgFlags::empty(),
            None,
        )
        .expect("sent");
    };
    let file = memory("x");
    let fd = file.as_raw_fd();
    say(b"x", &[]);
    say(&[255; 16], &[]);
    say(&[1; 5000], &[]);
    say(&[0; 60_000], &[fd]);
    say(&[3; 16], &[fd, fd, fd]);
    say(&[1; 16], &[fd; 20]);
    let mut put = vec![1, 1, 1, 0];
    put.extend([0; 12]);
    say(&put, &[]);
    put.push(b'/');
    say(&put, &[fd]);
    put[16] = b'k';
    say(&put, &[]);
    // Without a descriptor it was refused; the answers to all of that are passed over.
    client
        .forget("k")
        .map_or_else(|error| error.to_string(), |()| "ok".to_owned())
}

fn memory(text: &str) -> File {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all_at(text.as_bytes(), 0).unwrap();
    file
}

fn content(descriptor: &std::os::fd::OwnedFd) -> String {
    let file = File::from(descriptor.try_clone().unwrap());
    let mut bytes = [0; 100];
    let len = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

// --- the test's side ---------------------------------------------------------------------------------------------

struct Bench {
    dir: tempfile::TempDir,
    listener: UnixListener,
    keeper: Child,
}

struct Talk {
    lines: BufReader<UnixStream>,
    pid: i32,
    parent: u32,
    starts: u64,
    listen: bool,
    /// key, note, content, for how long unserved.
    kept: Vec<(String, String, String, u64)>,
}

impl Bench {
    fn new() -> Self {
        Self::with(&std::env::current_exe().unwrap(), |_| {})
    }

    fn with(program: &Path, adjust: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut command = Command::new(program);
        command.arg("keep").arg(&path).stdin(Stdio::null());
        command.stderr(File::create(dir.path().join("log")).unwrap());
        adjust(&mut command);
        Self {
            keeper: command.spawn().unwrap(),
            listener,
            dir,
        }
    }

    /// Waits for the next child.
    fn next(&self) -> Talk {
        self.within(Duration::from_secs(20)).expect("a child comes")
    }

    fn within(&self, limit: Duration) -> Option<Talk> {
        let end = Instant::now() + limit;
        self.listener.set_nonblocking(true).unwrap();
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return None,
            }
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        let kept = words.get(4).copied().unwrap_or_default();
        let kept = kept.split(',').filter(|entry| !entry.is_empty()).map(|entry| {
            let (key, rest) = entry.split_once('=').unwrap();
            let parts: Vec<&str> = rest.split('/').collect();
            (
                key.into(),
                parts[0].into(),
                parts[1].into(),
                parts[2].parse().unwrap(),
            )
        });
        Some(Talk {
            pid: words[0].parse().unwrap(),
            parent: words[1].parse().unwrap(),
            starts: words[2].parse().unwrap(),
            listen: words[3] == "true",
            kept: kept.collect(),
            lines,
        })
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.keeper.id().cast_signed()), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Some(status) = self.keeper.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the keeper does not end: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

impl Talk {
    fn say(&mut self, line: &str) -> String {
        writeln!(self.lines.get_mut(), "{line}").unwrap();
        let mut answer = String::new();
        self.lines.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    #[track_caller]
    fn ok(&mut self, line: &str) {
        assert_eq!(self.say(line), "ok", "{line}");
    }

    fn kill(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap();
    }

    /// Its end closes its socket.
    fn is_gone(&mut self) -> bool {
        let mut line = String::new();
        matches!(self.lines.read_line(&mut line), Ok(0) | Err(_))
    }
}

fn a_killed_child_gets_back_what_it_left() {
    let bench = Bench::new();
    let mut first = bench.next();
    assert_eq!((first.starts, first.kept.len()), (1, 0));
    first.ok("put a one 60000 served");
    first.ok("put a two 60000 served");
    first.ok("put b three 60000 served");
    first.ok("put c four 60000 served");
    first.ok("drop c");
    first.ok("drop c");
    first.kill();
    let second = bench.next();
    let said: Vec<_> = second
        .kept
        .iter()
        .map(|(key, note, content, _)| (key.as_str(), note.as_str(), content.as_str()))
        .collect();
    assert_eq!(said, [("a", "two", "a"), ("b", "three", "b")]);
    assert_eq!(second.starts, 2);
    std::thread::sleep(Duration::from_millis(300));
    // It never served them: the time goes on from the first death.
    second.kill();
    let mut third = bench.next();
    assert!(
        third.kept.iter().all(|(_, _, _, unserved)| *unserved >= 300),
        "{:?}",
        third.kept
    );
    third.ok("put a five 60000 served");
    std::thread::sleep(Duration::from_millis(300));
    third.kill();
    let fourth = bench.next();
    let unserved: Vec<u64> = fourth.kept.iter().map(|kept| kept.3).collect();
    assert!(
        unserved[1] >= 600 && unserved[0] + 250 < unserved[1],
        "{unserved:?}"
    );
}

fn nonsense_is_refused() {
    let bench = Bench::new();
    let mut first = bench.next();
    let open = || {
        fs::read_dir(format!("/proc/{}/fd", bench.keeper.id()))
            .unwrap()
            .count()
    };
    let before = open();
    first.ok("put a one 60000 served");
    first.ok("nonsense");
    first.ok("put b two 60000 served");
    let refused = first.say("put ../x two 60000 served");
    assert!(refused.contains("letters"), "{refused}");
    first.kill();
    let second = bench.next();
    assert_eq!(second.kept.len(), 2, "{:?}", second.kept);
    assert_eq!(open(), before + 2, "what came unasked is still open");
}

fn pipe(bench: &Bench) -> (String, File) {
    use std::os::unix::fs::OpenOptionsExt;
    let path = bench.dir.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .unwrap();
    (path.display().to_string(), reader)
}

/// Whether nobody has the other end any more.
fn is_closed(mut pipe: &File, limit: Duration) -> bool {
    use std::io::Read;
    let end = Instant::now() + limit;
    loop {
        match pipe.read(&mut [0; 8]) {
            Ok(0) => return true,
            _ if Instant::now() >= end => return false,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn a_killed_keeper_takes_the_child_along() {
    let mut bench = Bench::new();
    let mut first = bench.next();
    let (path, reader) = pipe(&bench);
    first.ok(&format!("pipe p {path}"));
    bench.keeper.kill().unwrap();
    bench.keeper.wait().unwrap();
    assert!(first.is_gone());
    assert!(
        is_closed(&reader, Duration::from_secs(5)),
        "somebody still holds it"
    );
}

fn a_signal_to_stop_is_passed_on() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut bench = Bench::new();
        let mut first = bench.next();
        first.ok("put a one 60000 served");
        bench.signal(signal);
        // The child dies of it, as it has no handler; and is not started again.
        assert!(first.is_gone());
        assert_eq!(bench.code(), Some(1));
        assert!(bench.within(Duration::ZERO).is_none());
    }
}

fn told_twice_it_kills() {
    let mut bench = Bench::new();
    let mut first = bench.next();
    first.ok("deaf");
    bench.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(300));
    assert!(bench.keeper.try_wait().unwrap().is_none(), "{}", bench.log());
    first.ok("put a one 60000 served");
    bench.signal(Signal::SIGTERM);
    assert_eq!(bench.code(), Some(1));
    assert!(first.is_gone());
    assert!(bench.log().contains("told to stop twice"), "{}", bench.log());
}

fn pauses_grow() {
    let bench = Bench::new();
    let mut child = bench.next();
    child.ok("put a one 60000 served");
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let died = Instant::now();
        child.kill();
        child = bench.next();
        pauses.push(died.elapsed().as_millis());
    }
    for (at, least) in [250, 500, 1000].into_iter().enumerate() {
        assert!(pauses[at + 1] >= least, "{pauses:?}");
    }
    assert!(pauses[0] < pauses[3], "{pauses:?}");
    assert_eq!(child.starts, 5);
}

fn exits_end_it_or_not() {
    // Nothing is kept: its code is the keeper's.
    let mut bench = Bench::new();
    let mut child = bench.next();
    writeln!(child.lines.get_mut(), "exit 7").unwrap();
    assert_eq!(bench.code(), Some(7));

    let mut bench = Bench::new();
    let mut child = bench.next();
    child.ok("put a one 60000 served");
    // An error while something is kept: again.
    writeln!(child.lines.get_mut(), "exit 7").unwrap();
    let mut child = bench.next();
    assert_eq!(child.kept.len(), 1);
    // It wants to be started again.
    std::thread::sleep(Duration::from_millis(1100));
    let asked = Instant::now();
    writeln!(child.lines.get_mut(), "exit 75").unwrap();
    let mut child = bench.next();
    println!("started again after {} ms", asked.elapsed().as_millis());
    assert_eq!((child.starts, child.kept.len()), (3, 1));
    // In order, by itself.
    writeln!(child.lines.get_mut(), "exit 0").unwrap();
    assert_eq!(bench.code(), Some(0));
}

fn it_replaces_itself() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    let own = std::env::current_exe().unwrap();
    fs::copy(&own, &program).unwrap();
    let mut bench = Bench::with(&program, |_| {});
    let mut child = bench.next();
    assert_eq!(child.parent, bench.keeper.id());
    child.ok("put a one 60000 served");
    let (path, reader) = pipe(&bench);
    child.ok(&format!("pipe p {path}"));
    // A newer one in its place.
    fs::copy(&own, dir.path().join("newer")).unwrap();
    fs::rename(dir.path().join("newer"), &program).unwrap();
    let running = |pid: u32| {
        fs::read_link(format!("/proc/{pid}/exe"))
            .unwrap()
            .display()
            .to_string()
    };
    assert!(running(bench.keeper.id()).ends_with("(deleted)"));
    for _ in 0..3 {
        child.ok("reexec");
        assert_eq!(running(bench.keeper.id()), program.display().to_string());
        child.ok("put b two 60000 served");
    }
    assert!(!is_closed(&reader, Duration::from_millis(50)));
    child.kill();
    let mut child = bench.next();
    assert_eq!(child.kept.len(), 3, "{:?}", child.kept);
    assert_eq!((child.starts, child.parent), (2, bench.keeper.id()));
    assert_eq!(running(child.pid.cast_unsigned()), program.display().to_string());
    child.ok("drop p");
    assert!(is_closed(&reader, Duration::from_secs(5)), "it is held twice");
    // It is still told to stop, and still takes the child along.
    bench.signal(Signal::SIGTERM);
    assert!(child.is_gone());
    assert_eq!(bench.code(), Some(1));
}

fn a_bad_successor_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let bench = Bench::with(&program, |_| {});
    let mut child = bench.next();
    child.ok("put a one 60000 served");
    for bad in [
        "#!/bin/false\n",
        "no program at all",
        "#!/bin/sh\nexec sleep 60\n",
    ] {
        fs::remove_file(&program).unwrap();
        fs::write(&program, bad).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let refused = child.say("reexec");
        assert!(refused.contains("cannot take the keeper's place"), "{refused}");
    }
    child.ok("put b two 60000 served");
    fs::remove_file(&program).unwrap();
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    child.ok("reexec");
    child.kill();
    assert_eq!(bench.next().kept.len(), 2);
}

fn what_nobody_serves_is_let_go() {
    let bench = Bench::new();
    let mut child = bench.next();
    let (path, reader) = pipe(&bench);
    child.ok("put short one 400 served");
    child.ok("put long one 60000 served");
    child.ok(&format!("pipe p {path}"));
    std::thread::sleep(Duration::from_millis(600));
    child.kill();
    let child = bench.next();
    assert_eq!(child.kept.len(), 3, "while it was served it did not wait");
    std::thread::sleep(Duration::from_millis(600));
    child.kill();
    let child = bench.next();
    assert_eq!(child.kept.len(), 2, "{:?} {}", child.kept, bench.log());
    assert!(bench.log().contains("nobody has served short"), "{}", bench.log());
    assert!(!is_closed(&reader, Duration::from_millis(50)));
}

fn sockets_of_systemd_are_passed_on() {
    let (one, _other) = Socket::pair().unwrap();
    let number = one.as_fd().as_raw_fd();
    let bench = Bench::with(&std::env::current_exe().unwrap(), |command| {
        use std::os::unix::process::CommandExt;
        let set = move || {
            // SAFETY: dup2(2) of an open descriptor, which clears the flag that would close it.
            if unsafe { libc::dup2(number, 3) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            if number == 3 {
                // SAFETY: as above.
                unsafe { libc::fcntl(3, libc::F_SETFD, 0) };
            }
            Ok(())
        };
        command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
        // SAFETY: only calls that may be made between fork and exec.
        unsafe { command.pre_exec(set) };
    });
    for _ in 0..2 {
        let child = bench.next();
        assert!(child.listen, "they are not for this process");
        assert!(
            fs::read_link(format!("/proc/{}/fd/3", child.pid))
                .unwrap()
                .display()
                .to_string()
                .starts_with("socket:")
        );
        child.kill();
    }
}
