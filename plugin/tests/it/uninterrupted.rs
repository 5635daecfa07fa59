//! The daemon is killed while containers use its volumes, and is started again by its keeper: they notice a pause, and nothing
//! else. And where they have to be given up they end cleanly.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::node::{Node, eventually};
use crate::several::{Cluster, mountpoint};

/// Blocks in the file that is written.
const BLOCKS: u64 = 2048;
const BLOCK: usize = 4096;

/// Writes blocks of a file all the time, past the page cache, and sees to it that each reads as what was written last.
struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<Outcome>>,
}

/// What a writer has come to.
struct Outcome {
    error: Option<String>,
    longest: Duration,
    /// The content of each block: the number of its last write.
    blocks: Vec<u64>,
    /// The last write that was followed by a sync. What came later a file system may forget that ends before it is told to
    /// write down where it is.
    synced: u64,
}

#[repr(C, align(4096))]
struct Buffer([u8; BLOCK]);

fn filled(number: u64) -> Box<Buffer> {
    let mut buffer = Box::new(Buffer([0; BLOCK]));
    for word in buffer.0.chunks_exact_mut(8) {
        word.copy_from_slice(&number.to_le_bytes());
    }
    buffer
}

impl Writer {
    fn start(path: PathBuf, seed: u64) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (stop.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            let mut outcome = Outcome {
                error: None,
                longest: Duration::ZERO,
                blocks: vec![0; BLOCKS as usize],
                synced: 0,
            };
            if let Err(error) = write_all_the_time(&path, seed, &told, &count, &mut outcome) {
                outcome.error = Some(error);
            }
            outcome
        });
        Self {
            stop,
            done,
            thread: Some(thread),
        }
    }

    fn writes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until it gets on again.
    #[track_caller]
    fn gets_on(&self) {
        let before = self.writes();
        let so = || self.writes() > before + 3 || self.has_failed();
        assert!(
            eventually(Duration::from_secs(40), so),
            "nothing is written any more"
        );
        assert!(!self.has_failed(), "a write has failed");
    }

    fn has_failed(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    fn end(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it was started");
        thread.join().expect("no panic")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write_all_the_time(
    path: &Path,
    seed: u64,
    stop: &AtomicBool,
    done: &AtomicU64,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let failed = |what: &str, error: std::io::Error| format!("{what} {}: {error}", path.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(path)
        .map_err(|error| failed("opening", error))?;
    let mut random = seed;
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let block = (random >> 33) % BLOCKS;
        let begun = Instant::now();
        // What is not acknowledged may be there or not.
        outcome.blocks[block as usize] = 0;
        file.write_all_at(&filled(number).0, block * BLOCK as u64)
            .map_err(|error| failed("writing", error))?;
        outcome.blocks[block as usize] = number;
        if number % 7 == 0 {
            file.sync_all().map_err(|error| failed("syncing", error))?;
            outcome.synced = number;
        }
        if number % 5 == 0 {
            let other = (random >> 20) % BLOCKS;
            check(&file, other, outcome.blocks[other as usize])
                .map_err(|error| format!("at write {number}: {error}"))?;
        }
        outcome.longest = outcome.longest.max(begun.elapsed());
        done.store(number, Ordering::Relaxed);
    }
    Ok(())
}

fn check(file: &File, block: u64, number: u64) -> Result<(), String> {
    if number == 0 {
        return Ok(());
    }
    let mut found = Box::new(Buffer([0; BLOCK]));
    file.read_exact_at(&mut found.0, block * BLOCK as u64)
        .map_err(|error| format!("reading block {block}: {error}"))?;
    if found.0 == filled(number).0 {
        return Ok(());
    }
    let has = u64::from_le_bytes(found.0[..8].try_into().map_err(|_| "no number")?);
    Err(format!("block {block} holds write {has} instead of {number}"))
}

fn verify(path: &Path, outcome: &Outcome) {
    let file = File::options()
        .read(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(path)
        .expect("it is there");
    let has_ended = outcome.error.is_some();
    for (block, number) in outcome.blocks.iter().enumerate() {
        if has_ended && *number > outcome.synced {
            continue;
        }
        if let Err(error) = check(&file, block as u64, *number) {
            panic!("{error}");
        }
    }
}

#[test]
fn containers_notice_nothing_of_a_killed_daemon() {
    let node = Node::new();
    let docker = node.docker();
    docker.activate();
    for name in ["v", "w", "idle"] {
        docker.create(name, json!({"size": "128M"})).ok();
    }
    docker.create("x", json!({"size": "400M", "fs": "xfs"})).ok();
    let target = |name: &str| mountpoint(&docker.mount(name, "a").ok());
    let (v, w, x) = (target("v"), target("w"), target("x"));
    docker.mount("v", "a").ok();
    docker.mount("v", "b").ok();
    let before = (node.volume_mounts(), node.loops());
    let writers: Vec<_> = [&v, &w, &x]
        .into_iter()
        .zip(1..)
        .map(|(dir, seed)| Writer::start(dir.join("file"), seed))
        .collect();
    for kills in 1..=5 {
        writers.iter().for_each(Writer::gets_on);
        node.kill_daemon();
        node.resumed(kills);
        writers.iter().for_each(Writer::gets_on);
    }
    assert_eq!(
        (node.volume_mounts(), node.loops()),
        before,
        "all is mounted as it was"
    );
    let status = node.status().expect("it answers");
    assert_eq!(
        (&status["keeper"], &status["restarts"]),
        (&json!(true), &json!(5))
    );

    // Docker's counts are as before: two of the one ID, one of the other.
    docker.unmount("v", "b").ok();
    docker.unmount("v", "a").ok();
    let path = docker.mountpoint("v");
    assert!(!path.is_empty(), "somebody has it mounted");
    let outcomes: Vec<_> = writers.into_iter().map(Writer::end).collect();
    for (outcome, dir) in outcomes.iter().zip([&v, &w, &x]) {
        assert_eq!(outcome.error, None);
        println!("longest pause: {:?}", outcome.longest);
        verify(&dir.join("file"), outcome);
    }
    for line in node.log().lines().filter(|line| line.contains("resumed: ")) {
        println!("{line}");
    }
    for name in ["v", "w", "x"] {
        docker.unmount(name, "a").ok();
    }
    assert!(node.volume_mounts().is_empty(), "{:?}", node.volume_mounts());
    assert!(eventually(Duration::from_secs(10), || node.loops().is_empty()));
    assert!(
        node.entries("run/devices").is_empty(),
        "{:?}",
        node.entries("run/devices")
    );
    // On the disk, too.
    for (name, outcome) in ["v", "w", "x"].into_iter().zip(&outcomes) {
        let dir = mountpoint(&docker.mount(name, "c").ok());
        verify(&dir.join("file"), outcome);
        docker.unmount(name, "c").ok();
    }
    // Nothing is left to be kept: the next daemon has nothing to go on with.
    node.kill_daemon();
    node.resumed(6);
    assert!(node.volume_mounts().is_empty());
}

#[test]
fn kills_while_it_resumes_are_no_matter() {
    let node = Node::new();
    let docker = node.docker();
    docker.activate();
    docker.create("v", json!({"size": "128M"})).ok();
    let dir = mountpoint(&docker.mount("v", "a").ok());
    let writer = Writer::start(dir.join("file"), 9);
    writer.gets_on();
    let mut kills = 0;
    for pause in [0, 20, 60, 100, 150, 200] {
        node.kill_daemon();
        kills += 1;
        let next = || node.log().matches("bulkhead starts").count() > kills;
        assert!(eventually(Duration::from_secs(20), next), "{}", node.log());
        std::thread::sleep(Duration::from_millis(pause));
    }
    node.resumed(kills as u64);
    writer.gets_on();
    let outcome = writer.end();
    assert_eq!(outcome.error, None, "{}", node.log());
    println!("longest pause: {:?}", outcome.longest);
    verify(&dir.join("file"), &outcome);
    docker.unmount("v", "a").ok();
    assert!(node.volume_mounts().is_empty());
}

#[test]
fn a_killed_keeper_fails_what_is_open_and_the_next_start_cleans_up() {
    let mut node = Node::new();
    let docker = node.docker();
    docker.activate();
    docker.create("v", json!({"size": "128M"})).ok();
    let dir = mountpoint(&docker.mount("v", "a").ok());
    let writer = Writer::start(dir.join("file"), 3);
    // Beyond its first sync.
    assert!(eventually(Duration::from_secs(40), || writer.writes() > 20));
    node.kill();
    assert!(
        eventually(Duration::from_secs(10), || writer.has_failed()),
        "it hangs instead of failing"
    );
    let outcome = writer.end();
    assert!(outcome.error.is_some());
    node.start();
    assert!(node.volume_mounts().is_empty(), "{:?}", node.volume_mounts());
    let status = node.status().expect("it answers");
    assert_eq!(status["restarts"], 0);
    let dir = mountpoint(&docker.mount("v", "a").ok());
    let file = File::open(dir.join("file")).expect("it is there");
    drop(file);
    docker.unmount("v", "a").ok();
    assert!(eventually(Duration::from_secs(10), || node.loops().is_empty()));
}

#[test]
fn a_restart_on_request_keeps_what_is_open() {
    let node = Node::new();
    let docker = node.docker();
    docker.activate();
    docker.create("v", json!({"size": "128M"})).ok();
    let dir = mountpoint(&docker.mount("v", "a").ok());
    let writer = Writer::start(dir.join("file"), 5);
    writer.gets_on();
    let keeper = node.keeper();
    for (restarts, body) in [(1, "{}"), (2, r#"{"keeper": true}"#), (3, "{}")] {
        let before = node.pid();
        let answer = ask(&node, body);
        assert!(answer.contains("202 Accepted"), "{answer}");
        node.resumed(restarts);
        assert_ne!(node.pid(), before);
        writer.gets_on();
    }
    assert_eq!(
        node.keeper(),
        keeper,
        "it has replaced itself, and is the same process"
    );
    let outcome = writer.end();
    assert_eq!(outcome.error, None);
    println!("longest pause: {:?}", outcome.longest);
    verify(&dir.join("file"), &outcome);
    docker.unmount("v", "a").ok();
    assert!(node.volume_mounts().is_empty());
}

#[test]
fn without_a_keeper_a_restart_is_refused() {
    let node = Node::with_flags(&["--no-keeper"]);
    let answer = ask(&node, "{}");
    assert!(answer.contains("without a keeper"), "{answer}");
    let status = node.status().expect("it answers");
    assert_eq!(status["keeper"], false);
}

/// Asks for a restart over the control socket.
fn ask(node: &Node, body: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(node.path("control.sock")).expect("it answers");
    write!(
        stream,
        "POST /v1/restart HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

/// A node that is cut off fences itself, also if its daemon is started again meanwhile.
#[test]
fn who_cannot_resume_in_time_ends() {
    let cluster = Cluster::of(2);
    cluster.create(0, "v", json!({"size": "128M", "repl": "2"}));
    let dir = mountpoint(&cluster.docker(0).mount("v", "a").ok());
    let writer = Writer::start(dir.join("file"), 11);
    writer.gets_on();
    // First, that it can.
    cluster.nodes[0].kill_daemon();
    cluster.nodes[0].resumed(1);
    let enough = || writer.writes() > 50;
    assert!(
        eventually(Duration::from_secs(40), enough),
        "{}",
        cluster.nodes[0].log()
    );
    cluster.pause_store(true);
    let cut = Instant::now();
    cluster.nodes[0].kill_daemon();
    std::thread::sleep(Duration::from_secs(3));
    cluster.nodes[0].kill_daemon();
    let ended = eventually(Duration::from_secs(30), || writer.has_failed());
    let took = cut.elapsed();
    cluster.pause_store(false);
    assert!(ended, "{}", cluster.nodes[0].log());
    println!("ended after {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(took > Duration::from_secs(5), "{took:?}: it did not wait");
    let outcome = writer.end();
    println!("{:?}", outcome.error);
    let gone = || cluster.nodes[0].volume_mounts().is_empty();
    assert!(
        eventually(Duration::from_secs(60), gone),
        "{}",
        cluster.nodes[0].log()
    );
    // And it can be had again, with all that was acknowledged.
    cluster.docker(0).unmount("v", "a").ok();
    let docker = cluster.docker(1);
    let mounts = || docker.mount("v", "b").error().is_empty();
    assert!(
        eventually(Duration::from_secs(60), mounts),
        "{}",
        cluster.nodes[1].log()
    );
    let dir = PathBuf::from(docker.mountpoint("v"));
    verify(&dir.join("file"), &outcome);
    docker.unmount("v", "b").ok();
    assert!(fs::read_dir(dir).is_err(), "it is unmounted");
}
