//! What file systems ask of a volume: data verified across detach and attach with trims in between, a full volume, a full pool.

use std::time::Duration;

use bulkhead_lab::{Cmd, Node, image, node, wait};

/// fio's jobs share all but what they do.
const FIO: &str = "fio --name=v --filename=/data/file --size=192M --ioengine=libaio --direct=1 --iodepth=16 \
    --verify=crc32c --verify_fatal=1 --randseed=7 --output-format=terse";

fn fio(node: &Node, line: &str) -> Cmd {
    node.with("disk", image::FIO, line)
        .within(Duration::from_secs(120))
}

fn trim(node: &Node) -> anyhow::Result<String> {
    // As a user would who has no timer for it: in a container that may.
    let run = "run --rm --cap-add=SYS_ADMIN --network=none -v disk:/data fio /usr/sbin/fstrim -v /data";
    node.dockerd.run(run)
}

fn verified(fs: &str) -> anyhow::Result<()> {
    let _alone = node::alone()?;
    let node = Node::start(fs, "4G")?;
    image::fio(&node.dockerd)?;
    let empty = node.pool_used()?;
    node.create("disk", &format!("size=1G fs={fs}"))?;
    let kind = node.sh("disk", "awk '$2 == \"/data\" {print $3}' /proc/mounts")?;
    assert_eq!(kind, fs);

    // Each container's end is a detach, each start an attach.
    fio(&node, &format!("{FIO} --rw=write --bs=1M --do_verify=0 >/dev/null; dd if=/dev/urandom of=/data/rubbish bs=1M count=300; sync"))
        .run()
        ?;
    let full = node.pool_used()?;
    fio(
        &node,
        &format!("{FIO} --rw=write --bs=1M --verify_only >/dev/null; rm /data/rubbish; sync"),
    )
    .run()?;
    let trimmed = trim(&node)?;
    let after = node.pool_used()?;
    assert!(
        full - after >= 250 << 20,
        "fstrim said {trimmed:?} and gave {} bytes back",
        full.saturating_sub(after)
    );
    fio(
        &node,
        &format!("{FIO} --rw=write --bs=1M --verify_only >/dev/null"),
    )
    .run()?;

    // Random writes over it, while files come and go and are trimmed.
    let churn = "(i=0; while [ $i -lt 5 ]; do dd if=/dev/zero of=/data/churn bs=1M count=40 2>/dev/null; rm /data/churn; \
        /usr/sbin/fstrim /data; i=$((i + 1)); done) & ";
    let volume = [
        "run",
        "--rm",
        "--cap-add=SYS_ADMIN",
        "--network=none",
        "-v",
        "disk:/data",
        "fio",
        "sh",
        "-euc",
    ];
    let line = format!("{churn} {FIO} --rw=randwrite --bs=4k --do_verify=0 >/dev/null; wait; sync");
    node.dockerd
        .docker(volume)
        .arg(line)
        .within(Duration::from_secs(120))
        .run()?;
    fio(
        &node,
        &format!("{FIO} --rw=randwrite --bs=4k --verify_only >/dev/null"),
    )
    .run()?;

    // A full volume says so, and works again once there is room.
    let fill = node.try_sh("disk", "dd if=/dev/zero of=/data/fill bs=1M count=2000")?;
    assert!(fill.all().contains("No space left"), "{}", fill.all());
    node.sh("disk", "rm /data/fill; echo room >/data/room; sync")?;
    fio(
        &node,
        &format!("{FIO} --rw=randwrite --bs=4k --verify_only >/dev/null"),
    )
    .run()?;

    node.dockerd.run("volume rm disk")?;
    let left = node.pool_used()?;
    assert!(
        left <= empty + (8 << 20),
        "{} bytes are still taken in the pool",
        left - empty
    );
    node.assert_idle()
}

#[test]
fn ext4_keeps_what_fio_wrote() {
    verified("ext4").unwrap();
}

#[test]
fn xfs_keeps_what_fio_wrote() {
    verified("xfs").unwrap();
}

#[test]
fn btrfs_keeps_what_fio_wrote() {
    verified("btrfs").unwrap();
}

#[test]
fn a_full_pool_gives_an_error_and_harms_nothing() {
    let _alone = node::alone().unwrap();
    let node = Node::start("full", "1G").unwrap();
    node.create("precious", "size=800M").unwrap();
    node.create("greedy", "size=1G").unwrap();
    let write =
        "dd if=/dev/urandom of=/data/noise bs=1M count=200 2>/dev/null; cd /data; sha256sum noise >sum; sync";
    node.sh("precious", write).unwrap();

    // Thin volumes promise more than there is; the one that comes too late is told.
    let line = "dd if=/dev/urandom of=/data/fill bs=1M count=900 conv=fsync";
    let told = node
        .with("greedy", image::BUSYBOX, line)
        .within(Duration::from_secs(120))
        .output()
        .unwrap();
    assert!(
        !told.status.success(),
        "900 MiB fitted into what is left of 1 GiB: {}",
        told.all()
    );
    let all = told.all();
    assert!(
        all.contains("No space left") || all.contains("I/O error") || all.contains("Read-only"),
        "{all}"
    );
    let status = node.bulkhead.cli("status").output().unwrap().all();
    assert!(
        status.to_lowercase().contains("full"),
        "the status does not tell that the pool is full:\n{status}"
    );

    // The other volume's data is whole, and after room was made both can be used.
    // What its file system still has in memory cannot be written; the daemon gives up on that in a moment.
    wait::retry(
        "the greedy volume can be removed",
        Duration::from_secs(15),
        || node.dockerd.run("volume rm greedy"),
    )
    .unwrap();
    node.sh("precious", "cd /data; sha256sum -c sum").unwrap();
    node.sh(
        "precious",
        "dd if=/dev/urandom of=/data/more bs=1M count=100 conv=fsync",
    )
    .unwrap();
    node.create("modest", "size=256M").unwrap();
    node.sh(
        "modest",
        "dd if=/dev/urandom of=/data/noise bs=1M count=50 conv=fsync",
    )
    .unwrap();
    node.sh("precious", "cd /data; sha256sum -c sum").unwrap();
    for volume in ["precious", "modest"] {
        node.dockerd.run(&format!("volume rm {volume}")).unwrap();
    }
    node.assert_idle().unwrap();
}

#[test]
fn a_volume_in_a_full_pool_goes_on_once_there_is_room() {
    let _alone = node::alone().unwrap();
    let node = Node::start("room", "1G").unwrap();
    node.create("ballast", "size=512M").unwrap();
    node.sh(
        "ballast",
        "dd if=/dev/urandom of=/data/noise bs=1M count=400 conv=fsync",
    )
    .unwrap();
    node.create("mine", "size=1G").unwrap();
    let write =
        "dd if=/dev/urandom of=/data/noise bs=1M count=100 2>/dev/null; cd /data; sha256sum noise >sum; sync";
    node.sh("mine", write).unwrap();
    let line = "dd if=/dev/urandom of=/data/fill bs=1M count=900 conv=fsync";
    let told = node
        .with("mine", image::BUSYBOX, line)
        .within(Duration::from_secs(120))
        .output()
        .unwrap();
    assert!(!told.status.success(), "{}", told.all());

    node.dockerd.run("volume rm ballast").unwrap();
    node.sh("mine", "cd /data; sha256sum -c sum; rm -f fill; sync")
        .unwrap();
    node.sh(
        "mine",
        "dd if=/dev/urandom of=/data/more bs=1M count=200 conv=fsync",
    )
    .unwrap();
    node.sh("mine", "cd /data; sha256sum -c sum").unwrap();
    node.dockerd.run("volume rm mine").unwrap();
    node.assert_idle().unwrap();
}
