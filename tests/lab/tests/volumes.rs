//! Volumes as a user of Docker has them: made, written, found again after anything was restarted, removed.

use bulkhead_lab::{Node, node};

/// Writes 64 MiB of noise and notes its sum beside it.
const WRITE: &str =
    "dd if=/dev/urandom of=/data/noise bs=1M count=64 2>/dev/null; cd /data; sha256sum noise >sum; sync";
/// Fails unless the noise is what was noted.
const CHECK: &str = "cd /data; sha256sum -c sum";

#[test]
fn a_volume_outlives_its_containers_and_its_space_comes_back() {
    let _alone = node::alone().unwrap();
    let node = Node::start("volume", "10G").unwrap();
    let empty = node.pool_used().unwrap();
    node.create("first", "size=1G").unwrap();
    let made = node.pool_used().unwrap();

    assert_eq!(
        node.sh("first", "ls -A /data").unwrap(),
        "",
        "a new volume is not empty"
    );
    let size: u64 = node
        .sh("first", "df -P -k /data | tail -n 1 | awk '{print $2}'")
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        (900_000..=1_048_576).contains(&size),
        "a volume of 1 GiB has {size} KiB"
    );
    node.sh("first", WRITE).unwrap();
    node.sh("first", CHECK).unwrap();
    // Two containers at a time see the same files.
    node.dockerd
        .run("run -d --name holder -v first:/data busybox sleep 600")
        .unwrap();
    node.sh("first", "echo from-the-second >/data/note").unwrap();
    assert_eq!(
        node.dockerd.exec("holder", "cat /data/note").run().unwrap(),
        "from-the-second"
    );
    let refused = node.dockerd.docker(["volume", "rm", "first"]).fails().unwrap();
    assert!(refused.contains("in use"), "{refused}");
    node.dockerd.run("rm -f holder").unwrap();

    let status = node.status("first").unwrap();
    let status = status.as_object().unwrap();
    assert!(status.len() >= 5, "the status tells too little: {status:?}");
    let written = node.pool_used().unwrap();
    assert!(
        written >= made + (60 << 20),
        "64 MiB of noise took {} bytes of the pool",
        written - made
    );
    node.dockerd.run("volume rm first").unwrap();
    let freed = node.pool_used().unwrap();
    assert!(
        freed <= empty + (8 << 20),
        "{} bytes are still taken in the pool",
        freed - empty
    );
    node.dockerd
        .docker(["volume", "inspect", "first"])
        .fails()
        .unwrap();
    node.assert_idle().unwrap();
}

#[test]
fn data_is_found_again_after_everything_was_restarted_or_killed() {
    let _alone = node::alone().unwrap();
    let mut node = Node::start("restart", "4G").unwrap();
    node.create("kept", "size=1G").unwrap();
    node.sh("kept", WRITE).unwrap();

    node.dockerd.stop().unwrap();
    node.bulkhead.terminate().unwrap();
    node.bulkhead.restart().unwrap();
    node.dockerd.restart().unwrap();
    node.sh("kept", CHECK).unwrap();

    // Killed while a container has it mounted: all at once, as in a crash of every process of the machine.
    node.dockerd
        .run("run -d --name holder --restart=always -v kept:/data busybox sleep 600")
        .unwrap();
    node.dockerd.kill().unwrap();
    node.bulkhead.kill().unwrap();
    node.bulkhead.restart().unwrap();
    node.dockerd.restart().unwrap();
    node.dockerd.await_running("holder").unwrap();
    assert_eq!(node.dockerd.exec("holder", CHECK).run().unwrap(), "noise: OK");
    node.dockerd
        .exec("holder", "echo again >/data/note; sync")
        .run()
        .unwrap();

    // The daemon alone: what was mounted gives errors, never wrong data; the container started again works.
    node.bulkhead.kill().unwrap();
    let broken = node
        .dockerd
        .exec("holder", "dd if=/dev/zero of=/data/note bs=4k count=1 conv=fsync")
        .output()
        .unwrap();
    assert!(
        !broken.status.success(),
        "a write reached a volume without its daemon"
    );
    node.bulkhead.restart().unwrap();
    node.dockerd.run("restart -t 0 holder").unwrap();
    assert_eq!(node.dockerd.exec("holder", CHECK).run().unwrap(), "noise: OK");
    assert_eq!(
        node.dockerd.exec("holder", "cat /data/note").run().unwrap(),
        "again"
    );
    node.dockerd.run("rm -f holder").unwrap();
    node.dockerd.run("volume rm kept").unwrap();
    node.assert_idle().unwrap();
}

#[test]
fn many_volumes_at_once_leave_nothing_behind() {
    let _alone = node::alone().unwrap();
    let node = Node::start("many", "10G").unwrap();
    let empty = node.pool_used().unwrap();
    let each = |volume: &str| -> anyhow::Result<()> {
        node.create(volume, "size=256M")?;
        node.sh(volume, &format!("echo {volume} >/data/name"))?;
        let name = node.sh(volume, "cat /data/name")?;
        anyhow::ensure!(name == volume, "{volume} holds {name}");
        node.dockerd.run(&format!("volume rm {volume}")).map(drop)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|worker| scope.spawn(move || (0..6).try_for_each(|n| each(&format!("many-{worker}-{n}")))))
            .collect();
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap().unwrap());
    });
    assert_eq!(node.dockerd.run("volume ls -q").unwrap(), "");
    let left = node.pool_used().unwrap();
    assert!(
        left <= empty + (8 << 20),
        "{} bytes are still taken in the pool",
        left - empty
    );
    node.assert_idle().unwrap();
}
