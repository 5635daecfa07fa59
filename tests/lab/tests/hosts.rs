//! The lab of several hosts itself: their network, its cuts, their power, the store's members, Swarm, and the disk that forgets.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets what it does not expect has failed"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_lab::disk::{FaultyDisk, Mood};
use bulkhead_lab::switch::{Switch, address};
use bulkhead_lab::{Host, Lab, StoreKind, node, wait};

/// Whether `from` reaches the host of this number.
fn reaches(from: &Host, number: u8) -> bool {
    let line = format!("busybox ping -q -c 1 -W 1 {}", address(number));
    from.sh(&line).output().unwrap().status.success()
}

#[test]
fn hosts_reach_each_other_until_they_are_cut_off() {
    let switch = Switch::start("cuts").unwrap();
    let hosts: Vec<_> = (1..=2)
        .map(|number| {
            let name = format!("n{number}");
            let host = Host::start_with(&format!("cuts-{name}"), Some(&name), "").unwrap();
            switch.plug_in(&host, number).unwrap();
            host
        })
        .collect();
    let [one, two] = &hosts[..] else { unreachable!() };
    assert_eq!(one.sh("hostname").run().unwrap(), "n1");
    assert!(reaches(one, 2) && reaches(two, 1));

    // What arrives one way is told by datagrams and a counter, for a ping needs both ways.
    let arrives = |from: &Host, to: &Host, number: u8| {
        let rule = "INPUT -p udp --dport 777 -j ACCEPT";
        to.sh(&format!("iptables -A {rule}")).run().unwrap();
        from.sh(&format!(
            "for i in 1 2 3; do bash -c 'echo hallo >/dev/udp/{}/777' || :; done",
            address(number)
        ))
        .run()
        .unwrap();
        let count = "iptables -nvxL INPUT | awk '/dpt:777/ {print $1}'";
        let heard = to.sh(count).run().unwrap();
        to.sh(&format!("iptables -D {rule}")).run().unwrap();
        heard != "0"
    };
    one.cut().unwrap();
    assert!(!reaches(one, 2) && !reaches(two, 1));
    assert!(!reaches(one, 1), "the story's cut takes loopback with it");
    assert!(arrives(two, one, 1), "the story's cut leaves what comes in");
    one.heal().unwrap();
    assert!(reaches(one, 2));
    assert_eq!(one.sh("iptables -S OUTPUT").run().unwrap(), "-P OUTPUT ACCEPT");
    one.cut_incoming().unwrap();
    assert!(reaches(one, 1) && !reaches(two, 1));
    assert!(arrives(one, two, 2) && !arrives(two, one, 1));
    one.heal().unwrap();
    one.cut_both().unwrap();
    assert!(!reaches(one, 2) && reaches(one, 1));
    one.heal().unwrap();
    one.cut_from(address(2)).unwrap();
    assert!(!reaches(one, 2) && !reaches(two, 1));
    one.heal().unwrap();
    assert!(reaches(two, 1));

    // Without power it is silent, and comes back with another boot.
    let boot = || one.sh("cat /proc/sys/kernel/random/boot_id").run().unwrap();
    let first = boot();
    assert_eq!(boot(), first);
    one.sh("echo kept >/var/lib/bulkhead/kept; echo lost >/run/lost")
        .run()
        .unwrap();
    switch.unplug(1).unwrap();
    one.power_off().unwrap();
    assert!(!reaches(two, 1));
    one.power_on().unwrap();
    switch.plug_in(one, 1).unwrap();
    assert!(reaches(two, 1));
    assert_ne!(boot(), first);
    assert_eq!(
        one.sh("cat /var/lib/bulkhead/kept; ls /run/lost || :")
            .run()
            .unwrap(),
        "kept"
    );
}

#[test]
fn a_faulty_disk_keeps_what_was_synced_and_forgets_the_rest_at_a_power_cut() {
    let host = Host::start("disk").unwrap();
    let mut disk = FaultyDisk::start(&host).unwrap();
    let fill = |letter: char, start: u32, sync: &str| {
        let line = format!(
            "dd if=/dev/zero bs=1M count=8 2>/dev/null | tr '\\0' {letter} | \
             dd of=/disk/pool-0.img bs=64k iflag=fullblock conv=notrunc seek={start} {sync}"
        );
        host.sh(&line).run()
    };
    let letters = |start: u32| {
        let line = format!(
            "dd if=/disk/pool-0.img bs=64k skip={start} count=128 2>/dev/null | fold -w 512 | cut -c 1 | sort | uniq -c"
        );
        host.sh(&line).run().unwrap()
    };
    host.sh("truncate -s 64M /disk/pool-0.img").run().unwrap();
    fill('a', 0, "conv=notrunc,fsync").unwrap();
    fill('b', 0, "").unwrap();
    assert!(letters(0).ends_with("16384 b"), "{}", letters(0));
    host.power_off().unwrap();
    host.power_on().unwrap();
    disk.restart().unwrap();
    let left = letters(0);
    let old: u32 = left.split_whitespace().next().unwrap().parse().unwrap();
    assert!(
        left.contains(" a") && old > 1000,
        "unsynced writes survived the power cut: {left}"
    );

    fill('c', 0, "conv=notrunc,fsync").unwrap();
    host.power_off().unwrap();
    host.power_on().unwrap();
    disk.restart().unwrap();
    assert!(
        letters(0).ends_with("16384 c"),
        "a synced write is lost: {}",
        letters(0)
    );

    disk.set(Mood::Worn).unwrap();
    let told = fill('d', 0, "").unwrap_err().to_string();
    assert!(told.contains("Input/output error"), "{told}");
    assert!(letters(0).ends_with("16384 c"));
    disk.set(Mood::Full).unwrap();
    let told = fill('d', 0, "").unwrap_err().to_string();
    assert!(told.contains("No space left"), "{told}");
    disk.set(Mood::NoSync).unwrap();
    let told = fill('d', 0, "conv=notrunc,fsync").unwrap_err().to_string();
    assert!(told.contains("Input/output error"), "{told}");
    disk.set(Mood::Slow(Duration::from_millis(30))).unwrap();
    let begin = Instant::now();
    fill('e', 0, "").unwrap();
    assert!(
        begin.elapsed() >= Duration::from_millis(240),
        "{:?}",
        begin.elapsed()
    );
    disk.set(Mood::Well).unwrap();

    // As a pool lies on it: a file system on a loop device that goes past the page cache.
    host.sh(
        "loop=$(losetup --find --show --direct-io=on /disk/pool-0.img); mkfs.ext4 -q $loop; mkdir -p /tmp/m; mount $loop /tmp/m; \
         echo synced >/tmp/m/synced; sync -f /tmp/m; fstrim /tmp/m; echo unsynced >/tmp/m/unsynced",
    )
    .run()
    .unwrap();
    host.power_off().unwrap();
    host.power_on().unwrap();
    disk.restart().unwrap();
    let found = host
        .sh("mkdir -p /tmp/m; mount -o loop /disk/pool-0.img /tmp/m; cat /tmp/m/synced; ls /tmp/m; umount /tmp/m")
        .run()
        .unwrap();
    assert!(
        found.starts_with("synced") && !found.contains("unsynced"),
        "{found}"
    );
}

#[test]
fn three_hosts_with_etcd_and_swarm() {
    let store = StoreKind::Etcd;
    let _alone = node::alone().unwrap();
    let begin = Instant::now();
    let lab = Lab::new(3).label("three").swarm().start().unwrap();
    println!(
        "three hosts with dockerd, daemon, pool and Swarm: {:?}",
        begin.elapsed()
    );
    let mut members: Vec<_> = (1..=3)
        .map(|number| {
            let host = lab.host(usize::from(number) - 1);
            bulkhead_lab::store::StoreMember::start(host, store, number, 3).unwrap()
        })
        .collect();
    let begin = Instant::now();
    members
        .iter_mut()
        .for_each(|member| member.await_ready().unwrap());
    println!("three members of {store}: {:?}", begin.elapsed());

    // The store goes on when its leader is cut off.
    let leader = bulkhead_lab::store::leader(store, lab.switch.host(), 3).unwrap();
    let begin = Instant::now();
    lab.host(usize::from(leader) - 1).cut().unwrap();
    let other = usize::from(leader % 3);
    wait::until("another member leads", Duration::from_secs(30), || {
        let now = bulkhead_lab::store::leader(store, lab.host(other), 3)?;
        Ok((now != leader).then_some(()))
    })
    .unwrap();
    println!("another leader of {store} after {:?}", begin.elapsed());
    lab.host(usize::from(leader) - 1).heal().unwrap();

    lab.members[0].pause_all(true).unwrap();
    assert!(
        lab.node(0)
            .dockerd
            .docker(["version"])
            .within(Duration::from_secs(2))
            .output()
            .is_err()
    );
    lab.members[0].pause_all(false).unwrap();
    lab.node(0).dockerd.run("version").unwrap();

    let dirs: Vec<_> = (0..3).map(|index| lab.host(index).dir().to_owned()).collect();
    let begin = Instant::now();
    drop((members, lab));
    println!("all gone after {:?}", begin.elapsed());
    assert!(
        dirs.iter()
            .all(|dir: &std::path::PathBuf| !Path::new(dir).exists())
    );
}
