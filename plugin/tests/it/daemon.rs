//! The real daemon: what dockerd sends against real volumes, and what is left when it is killed, stopped or in trouble.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::node::{Node, eventually};
use serde_json::{Value, json};

fn mountpoint(answer: &Value) -> PathBuf {
    answer["Mountpoint"]
        .as_str()
        .map(PathBuf::from)
        .expect("a mount point")
}

fn write(path: &Path, text: &str) {
    let mut file = fs::File::create(path).expect("a file in the volume");
    file.write_all(text.as_bytes()).expect("written");
    file.sync_all().expect("synced");
}

#[test]
fn a_volumes_life_as_docker_drives_it() {
    let node = Node::new();
    let docker = node.docker();
    docker.activate();
    docker.get("v").refused("there is no volume \"v\"");
    docker.create("v", json!({"size": "64M"})).ok();

    // docker run: copy-up, then the container; docker cp while it runs; docker stop.
    docker.get("v").ok();
    let copy_up = mountpoint(&docker.mount("v", "a").ok());
    assert!(
        fs::read_dir(&copy_up).expect("a directory").next().is_none(),
        "lost+found is not in it"
    );
    write(&copy_up.join("from-image"), "x");
    docker.unmount("v", "a").ok();
    assert!(node.volume_mounts().is_empty(), "{:?}", node.volume_mounts());
    let mounted = mountpoint(&docker.mount("v", "b").ok());
    write(&mounted.join("file"), "hello");
    docker.mount("v", "b").ok();
    docker.unmount("v", "b").ok();
    assert_eq!(
        fs::read_to_string(mounted.join("file")).expect("still mounted"),
        "hello"
    );
    docker
        .remove("v")
        .refused("is mounted on this node (n1); stop the containers");
    let status = docker.get("v").ok()["Volume"]["Status"].clone();
    assert_eq!(status["State"], "attached");
    assert_eq!(status["Size"], "64 MiB");
    assert_eq!(status["Mounts"], 1);
    assert!(
        status["AttachedOn"]
            .as_str()
            .unwrap_or_default()
            .starts_with("n1 since 20")
    );
    for key in [
        "Used",
        "Allocated",
        "FileSystem",
        "ReplicaSet",
        "Message",
        "Health",
    ] {
        assert!(!status[key].is_null(), "{key} is missing in {status}");
    }
    docker.unmount("v", "b").ok();

    // again docker run: the data is there
    let again = mountpoint(&docker.mount("v", "c").ok());
    assert_eq!(fs::read_to_string(again.join("file")).expect("kept"), "hello");
    assert_eq!(fs::read_to_string(again.join("from-image")).expect("kept"), "x");
    docker.unmount("v", "c").ok();
    docker.remove("v").ok();
    assert!(docker.list().is_empty());
    assert!(node.replicas().is_empty(), "the space is given back");
}

#[test]
fn every_file_system_and_option_arrives() {
    let node = Node::new();
    let docker = node.docker();
    for (fs, size) in [("ext4", "64M"), ("xfs", "320M"), ("btrfs", "160M")] {
        docker
            .create(
                fs,
                json!({"fs": fs, "size": size, "mount_options": "noatime,nodev", "labels": "app=shop"}),
            )
            .ok();
        let mounted = mountpoint(&docker.mount(fs, "a").ok());
        write(&mounted.join("file"), "x");
        let mounts = node.volume_mounts();
        let line = mounts
            .iter()
            .find(|line| line.contains(&format!(" {fs} ")))
            .expect("mounted as asked");
        assert!(line.contains("noatime") && line.contains("nodev"), "{line}");
        docker.unmount(fs, "a").ok();
    }
    docker
        .create("ext4", json!({"fs": "xfs"}))
        .refused("fs: asked for xfs, is ext4");
    docker
        .create("ext4", json!({"size": "65M"}))
        .refused("size: asked for 65 MiB, is 64 MiB");
    docker.create("ext4", json!({"size": "64M"})).ok();
    docker
        .create("x", json!({"class": "gold"}))
        .refused("there is no storage class \"gold\"");
    docker
        .create("x", json!({"repl": "2"}))
        .refused("cannot be placed");
    docker
        .create("x", json!({"size": "100T"}))
        .refused("cannot be placed");
    docker.create("x", json!({"nodes": "n7"})).refused("n7");
    docker.create("x", json!({"mkfs_options": "-Z 1"})).refused("-Z");
    docker.get("x").refused("no volume");
    let volume = node.json(&["volume", "inspect", "xfs"]);
    assert_eq!(volume[0]["labels"], json!({"app": "shop"}));
    assert_eq!(volume[0]["mount_options"], "noatime,nodev");
}

#[test]
fn a_killed_daemon_leaves_nothing_that_its_successor_does_not_clean() {
    let mut node = Node::new();
    let docker = node.docker();
    docker.activate();
    for name in ["v", "w"] {
        docker.create(name, json!({"size": "64M"})).ok();
        let mounted = mountpoint(&docker.mount(name, "a").ok());
        write(&mounted.join("file"), name);
    }
    // A container that runs has a namespace of its own with a copy of the mount, and a file open.
    let held = mountpoint(&docker.path("w").ok());
    let mut container = Container::start(&held);
    node.kill();
    assert!(!node.volume_mounts().is_empty());
    node.start();
    assert!(node.volume_mounts().is_empty(), "{:?}", node.volume_mounts());

    // Late calls for what was before harm nothing.
    docker.unmount("v", "a").ok();
    docker.unmount("w", "unknown").ok();
    assert_eq!(docker.mountpoint("v"), "");
    // Docker restarts the containers, with old or new IDs.
    let mounted = mountpoint(&docker.mount("v", "a").ok());
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "v");
    let mounted = mountpoint(&docker.mount("w", "b").ok());
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("kept"), "w");
    docker.unmount("w", "a").ok();
    assert!(
        mounted.join("file").exists(),
        "the Unmount of the old ID takes nothing away"
    );
    container.end();
    docker.unmount("v", "a").ok();
    docker.unmount("w", "b").ok();
    docker.remove("v").ok();
    docker.remove("w").ok();
    assert!(
        eventually(Duration::from_secs(10), || node.loops().is_empty()),
        "{:?}",
        node.loops()
    );
}

#[test]
fn creations_and_deletions_that_a_kill_cut_short_are_undone() {
    let mut node = Node::new();
    let docker = node.docker();
    docker.create("kept", json!({"size": "64M"})).ok();
    for round in 0..6_u64 {
        let creators: Vec<_> = (0..3)
            .map(|worker| {
                let docker = node.docker();
                std::thread::spawn(move || {
                    let body = json!({"Name": format!("c{worker}"), "Opts": {"size": "64M"}}).to_string();
                    let _ = docker
                        .raw((crate::client::head("VolumeDriver.Create", body.len()) + &body).as_bytes());
                    let body = json!({"Name": format!("c{worker}")}).to_string();
                    let _ = docker
                        .raw((crate::client::head("VolumeDriver.Remove", body.len()) + &body).as_bytes());
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(7 + 13 * round));
        node.kill();
        // Before the creators are waited for: a dead daemon may hold their connections until the next one is there.
        node.start();
        for creator in creators {
            creator.join().expect("it only loses its connection");
        }
        // What is there now is whole: mountable, removable; nothing is in between.
        for name in docker.list() {
            let volume = node.json(&["volume", "inspect", &name]);
            assert_eq!(volume[0]["state"], "ready", "{volume}");
            docker.mount(&name, "a").ok();
            docker.unmount(&name, "a").ok();
        }
        for worker in 0..3 {
            docker.remove(&format!("c{worker}")).ok();
        }
        assert_eq!(docker.list(), ["kept"]);
        assert_eq!(node.replicas().len(), 1);
        assert!(node.volume_mounts().is_empty());
    }
}

#[test]
fn a_stop_unmounts_what_is_possible_and_ends_in_time() {
    let mut node = Node::with_flags(&["--timeout-stop", "4s"]);
    node.add_pool("2G");
    let docker = node.docker();
    for name in ["free", "held"] {
        docker.create(name, json!({"size": "64M"})).ok();
        let mounted = mountpoint(&docker.mount(name, "a").ok());
        fs::write(mounted.join("file"), name).expect("written, not synced");
    }
    let mut container = Container::start(&mountpoint(&docker.path("held").ok()));
    let (code, took) = node.terminate();
    assert_eq!(code, Some(0), "{}", node.log());
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(node.volume_mounts().is_empty(), "{:?}", node.volume_mounts());
    assert!(!node.path("docker.sock").exists() && !node.path("control.sock").exists());
    container.end();
    node.start();
    for name in ["free", "held"] {
        let mounted = mountpoint(&docker.mount(name, "b").ok());
        assert_eq!(
            fs::read_to_string(mounted.join("file")).expect("written back"),
            name
        );
        docker.unmount(name, "b").ok();
    }
}

#[test]
fn what_a_container_still_holds_is_released_when_it_ends() {
    let node = Node::new();
    let docker = node.docker();
    docker.create("v", json!({"size": "64M"})).ok();
    let mounted = mountpoint(&docker.mount("v", "a").ok());
    let mut container = Container::start(&mounted);
    docker.unmount("v", "a").ok();
    docker.remove("v").refused("still in use");
    let status = docker.get("v").ok()["Volume"]["Status"]["Message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        status.contains("released when it can be") && status.contains(&container.pid().to_string()),
        "{status}"
    );
    assert!(container.can_write(), "nothing is taken away from it");
    // Somebody else may mount it meanwhile, and is not disturbed.
    docker.mount("v", "b").ok();
    container.end();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(docker.mountpoint("v"), mounted.display().to_string());
    docker.unmount("v", "b").ok();
    assert!(eventually(Duration::from_secs(15), || node
        .volume_mounts()
        .is_empty()));
    docker.remove("v").ok();

    // And without anybody asking again.
    docker.create("w", json!({"size": "64M"})).ok();
    let mut container = Container::start(&mountpoint(&docker.mount("w", "a").ok()));
    docker.unmount("w", "a").ok();
    container.end();
    assert!(eventually(Duration::from_secs(15), || node
        .volume_mounts()
        .is_empty()));
    docker.remove("w").ok();
}

#[test]
fn a_volume_whose_disk_fails_is_taken_down_and_says_why() {
    let node = Node::new();
    let docker = node.docker();
    docker.create("v", json!({"size": "256M"})).ok();
    let mounted = mountpoint(&docker.mount("v", "a").ok());
    // The pool's file system stops as it does when its disk fails: from here on everything on it is EIO.
    let pool = pool_mount(&node);
    let shutdown = Command::new("xfs_io")
        .args(["-x", "-c", "shutdown"])
        .arg(&pool)
        .status()
        .expect("xfs_io runs");
    assert!(shutdown.success());
    let start = Instant::now();
    let failed = (0..100).any(|round| {
        fs::File::create(mounted.join(format!("file{round}")))
            .and_then(|mut file| file.write_all(&[1; 1 << 16]).and_then(|()| file.sync_all()))
            .is_err()
    });
    assert!(failed, "writes go on without a disk");
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(
        eventually(Duration::from_secs(30), || node.volume_mounts().is_empty()),
        "{}",
        node.log()
    );
    let status = docker.get("v").ok()["Volume"]["Status"].clone();
    assert_eq!(status["State"], "failed", "{status}");
    assert!(
        status["Message"]
            .as_str()
            .is_some_and(|text| text.starts_with("down: ")),
        "{status}"
    );
    let output = node.cli(&["status"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(
        crate::node::text(&output.stdout).contains("volume \"v\": down"),
        "{output:?}"
    );
    docker.unmount("v", "a").ok();
}

#[test]
fn a_damaged_replica_is_refused_in_words_and_others_are_served() {
    let node = Node::new();
    let docker = node.docker();
    docker.create("bad", json!({"size": "64M"})).ok();
    docker.create("good", json!({"size": "64M"})).ok();
    let id = node.json(&["volume", "inspect", "bad"])[0]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let meta = replica_dir(&node, &id).join("meta");
    let file = fs::File::options().write(true).open(meta).expect("its metadata");
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 8192], 0).expect("damaged");
    docker
        .mount("bad", "a")
        .refused("volume \"bad\" cannot be attached");
    let status = docker.get("bad").ok()["Volume"]["Status"].clone();
    assert_eq!(
        (&status["State"], &status["Health"]),
        (&json!("failed"), &json!("needs attention"))
    );
    docker.mount("good", "a").ok();
    docker.unmount("good", "a").ok();
    docker.remove("bad").ok();
}

#[test]
fn one_state_directory_has_one_daemon() {
    let node = Node::new();
    let output = node.command_at("second.sock").output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        crate::node::text(&output.stderr).contains("uses the state directory"),
        "{output:?}"
    );
    node.docker().activate();
}

/// Where the pool is mounted.
fn pool_mount(node: &Node) -> PathBuf {
    fs::read_to_string("/proc/self/mountinfo")
        .expect("mounts")
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .find(|target| target.starts_with(node.path("state")) && target.join("replicas").is_dir())
        .expect("the pool is mounted")
}

fn replica_dir(node: &Node, id: &str) -> PathBuf {
    pool_mount(node).join("replicas").join(id)
}

/// Stands for a container: a process in a mount namespace of its own that has a file of the volume open.
struct Container {
    process: std::process::Child,
}

impl Container {
    fn start(volume: &Path) -> Self {
        let script = format!(
            "exec 3>>{0}/open; echo up >&3; while echo tick >&3; do sleep 0.1; done",
            volume.display()
        );
        let process = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare runs");
        assert!(eventually(Duration::from_secs(5), || volume
            .join("open")
            .metadata()
            .is_ok_and(|file| file.len() > 0)));
        Self { process }
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn can_write(&mut self) -> bool {
        self.process.try_wait().is_ok_and(|ended| ended.is_none())
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end();
    }
}
