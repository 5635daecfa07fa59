//! The lab itself: hosts are apart from each other and from the machine, and leave nothing behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bulkhead_lab::{Cmd, Dockerd, Host, Postgres, image, wait};

#[test]
fn a_host_is_apart_and_ends_without_a_trace() {
    let host = Host::start("apart").unwrap();
    let name = host.name().to_owned();
    let before = host.leaks().unwrap();
    assert_eq!(host.sh("hostname").run().unwrap(), name);
    host.sh("touch /etc/only-here /run/only-here /root/only-here")
        .run()
        .unwrap();
    assert!(host.outside("/etc/only-here").exists());
    for path in ["/etc/only-here", "/run/only-here", "/root/only-here"] {
        assert!(!Path::new(path).exists(), "{path} got out");
    }
    assert_eq!(host.sh("ls /sys/class/net").run().unwrap(), "lo");

    host.sh("truncate -s 64M /var/lib/bulkhead/disk; mkfs.ext4 -q /var/lib/bulkhead/disk; mkdir /tmp/m")
        .run()
        .unwrap();
    host.sh("mount -o loop /var/lib/bulkhead/disk /tmp/m")
        .run()
        .unwrap();
    let sleeper = host.spawn("sleeper", Cmd::new("sleep").arg("600")).unwrap();
    let pid = sleeper.pid();
    // A process that is being started has its name a moment before its arguments.
    wait::retry("all of it is found", Duration::from_secs(5), || {
        let found = host.leaks()?.since(&before).to_string();
        for part in [
            "process sleep sleep 600",
            "mount ext4 on /tmp/m",
            "loop device, number 1 on a file disk",
        ] {
            anyhow::ensure!(found.contains(part), "{part} is not in\n{found}");
        }
        Ok(())
    })
    .unwrap();
    let error = before.await_same(&host, Duration::from_millis(300)).unwrap_err();
    assert!(format!("{error:#}").contains("mount ext4 on /tmp/m"), "{error:#}");
    let device = host
        .sh("losetup -n -O NAME -j /var/lib/bulkhead/disk")
        .run()
        .unwrap();
    let dir = host.dir().to_owned();
    drop(host);

    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "a process outlived its host"
    );
    assert!(!dir.exists(), "{} is still there", dir.display());
    let left = Cmd::new("losetup")
        .args(["-n", "-O", "BACK-FILE", &device])
        .output()
        .unwrap()
        .stdout;
    assert!(!left.contains(&name), "{device} is still on {left}");
    drop(sleeper);
}

#[test]
fn a_host_ends_when_the_test_panics() {
    let (send, receive) = std::sync::mpsc::channel();
    let outcome = std::thread::spawn(move || {
        let host = Host::start("panic").unwrap();
        send.send((host.dir().to_owned(), host.pid())).unwrap();
        panic!("on purpose");
    })
    .join();
    assert!(outcome.is_err());
    let (dir, pid) = receive.recv().unwrap();
    assert!(!dir.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_host_ends_without_a_trace_when_the_test_is_killed() {
    const ROLE: &str = "LAB_VICTIM";
    if std::env::var_os(ROLE).is_some() {
        let host = Host::start("victim").unwrap();
        host.sh("truncate -s 1M /var/lib/bulkhead/disk; losetup -f /var/lib/bulkhead/disk")
            .run()
            .unwrap();
        println!("\nhost {}", host.dir().display());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "a_host_ends_without_a_trace_when_the_test_is_killed",
        "--nocapture",
    ]);
    let mut victim = command.env(ROLE, "1").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let dir = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("host ").map(PathBuf::from))
        .unwrap();
    let inode = std::fs::metadata(dir.join("disk/bulkhead/disk"))
        .unwrap()
        .ino()
        .to_string();
    let files = || {
        Cmd::new("losetup")
            .args(["-l", "-n", "-O", "BACK-INO"])
            .run()
            .unwrap()
    };
    let attached = || files().lines().any(|line| line.trim() == inode);
    assert!(attached());
    victim.kill().unwrap();
    victim.wait().unwrap();
    let gone = || Ok((!dir.exists()).then_some(()));
    wait::until("the host's folder is gone", Duration::from_secs(20), gone).unwrap();
    assert!(!attached(), "a loop device outlived its host");
}

#[test]
fn a_dockerd_of_its_own_is_killed_and_comes_back() {
    let host = Host::start("dockerd").unwrap();
    let before = host.leaks().unwrap();
    let mut dockerd = Dockerd::start(&host).unwrap();
    image::busybox(&dockerd).unwrap();
    dockerd.run("volume create local").unwrap();
    dockerd
        .run("run --rm -v local:/data busybox touch /data/written")
        .unwrap();
    dockerd
        .run("run -d --name web --restart always -v local:/data busybox sleep 600")
        .unwrap();
    dockerd.kill().unwrap();
    dockerd.restart().unwrap();
    dockerd.await_running("web").unwrap();
    assert_eq!(dockerd.exec("web", "ls /data").run().unwrap(), "written");
    dockerd.run("rm -f web").unwrap();
    drop(dockerd);
    before.await_same(&host, Duration::from_secs(10)).unwrap();
    let name = host.name().to_owned();
    drop(host);
    let groups = Cmd::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", &name])
        .run()
        .unwrap();
    assert_eq!(groups, "");
}

#[test]
fn postgres_survives_the_kill_of_its_container_on_a_local_volume() {
    let host = Host::start("postgres").unwrap();
    let dockerd = Dockerd::start(&host).unwrap();
    image::postgres(&dockerd).unwrap();
    let postgres = Postgres::new("pg", "plain");
    postgres.run(&dockerd).unwrap();
    postgres.fill(&dockerd).unwrap();
    let mut load = postgres.load(&host, "first").unwrap();
    load.await_commits(20).unwrap();
    dockerd.run("kill -s KILL pg").unwrap();
    let commits = load.end().unwrap();
    assert!(commits.len() >= 40);
    dockerd.run("start pg").unwrap();
    postgres.await_ready(&dockerd).unwrap();
    postgres.verify(&dockerd, &commits).unwrap();

    // What the check is worth: a commit that was never made is missed, and a flipped bit is found.
    let error = postgres.verify(&dockerd, &[u64::MAX].into()).unwrap_err();
    assert!(error.to_string().contains("are lost"), "{error:#}");
    let file = postgres
        .sql(
            &dockerd,
            "checkpoint; select pg_relation_filepath('pgbench_accounts')",
        )
        .unwrap();
    let file = file.lines().last().unwrap().to_owned();
    dockerd.run("stop pg").unwrap();
    let path = host.outside(&format!("/var/lib/docker/volumes/plain/_data/{file}"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[8192 * 100 + 4000] ^= 1;
    fs::write(&path, bytes).unwrap();
    dockerd.run("start pg").unwrap();
    postgres.await_ready(&dockerd).unwrap();
    assert!(
        postgres.verify(&dockerd, &commits).is_err(),
        "a flipped bit went unnoticed"
    );
}
