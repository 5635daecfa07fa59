//! Pools from add to remove: what may become one, what is refused and why, and how they are found again.

mod host_support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bulkhead_engine::host::loopdev::{LoopDevice, LoopOptions};
use bulkhead_engine::ids::{ClusterId, NodeId};
use bulkhead_engine::pool::{
    PoolError, PoolInfo, PoolKind, PoolOwner, PoolSpec, PoolState, Pools, Priority, Removal,
};
use host_support::{Outcome, loop_devices, run};

const SIZE: u64 = 320 << 20;

fn owner(node: u128) -> PoolOwner {
    PoolOwner {
        cluster: ClusterId::from_u128(1),
        node: NodeId::from_u128(node),
    }
}

/// A state directory of a test's own, whose pools are unmounted when the test ends, however it ends.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Outcome<Self> {
        Ok(Self(tempfile::Builder::new().prefix("bulkhead-pool-").tempdir()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn open(&self) -> Outcome<Pools> {
        Ok(Pools::open(&self.state(), owner(1))?)
    }

    fn file(&self, name: &str) -> PoolSpec {
        PoolSpec {
            path: self.path(name),
            size: Some(SIZE),
            priority: None,
        }
    }

    fn mounts(&self) -> Outcome<Vec<String>> {
        let root = fs::canonicalize(self.0.path())?.display().to_string();
        Ok(fs::read_to_string("/proc/self/mountinfo")?
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|target| target.starts_with(&root))
            .map(str::to_owned)
            .collect())
    }

    fn loops(&self) -> Outcome<Vec<String>> {
        let root = fs::canonicalize(self.0.path())?.display().to_string();
        let all = loop_devices()?;
        Ok(all
            .into_iter()
            .filter(|(_, file)| file.starts_with(&root))
            .map(|(device, _)| device)
            .collect())
    }

    fn assert_nothing_left(&self) -> Outcome {
        assert_eq!(self.mounts()?, [""; 0]);
        assert_eq!(self.loops()?, [""; 0]);
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for mount in self.mounts().unwrap_or_default().iter().rev() {
            let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn spec_of(path: &Path) -> PoolSpec {
    PoolSpec {
        path: path.into(),
        size: None,
        priority: None,
    }
}

fn refused(outcome: Result<PoolInfo, PoolError>) -> String {
    match outcome {
        Ok(info) => format!("nothing: it became a pool: {info:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_file_becomes_a_pool_and_is_found_again() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let made = pools.add(&home.file("disk"))?;
    assert_eq!((made.kind, &made.state), (PoolKind::File, &PoolState::Ready));
    let usage = made.usage.ok_or("no usage")?;
    assert!(
        usage.capacity > SIZE / 2 && usage.free > SIZE / 2 && usage.allocated == 0,
        "{usage:?}"
    );
    assert_eq!(made.priority, made.medium.priority());
    let sparse = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(home.path("disk"))?) * 512;
    assert!(sparse < 100 << 20, "the file takes {sparse} bytes at once");

    let replica = pools.dir(made.id)?.join("replicas/one");
    fs::create_dir(&replica)?;
    File::create(replica.join("data"))?.set_len(1 << 30)?;
    let info = pools.get(made.id)?;
    let usage = info.usage.ok_or("no usage")?;
    assert_eq!(
        (usage.allocated, usage.replicas),
        (1 << 30, 1),
        "a sparse replica counts as promised"
    );

    // A daemon that was killed leaves the pool mounted; the next one takes it as it is.
    drop(pools);
    assert_eq!(home.open()?.list(), std::slice::from_ref(&info));
    // After a reboot there is nothing but the file.
    let pools = home.open()?;
    assert!(pools.close().is_empty());
    home.assert_nothing_left()?;
    let pools = home.open()?;
    assert_eq!(pools.list(), [info]);
    assert!(replica.exists());

    let listing = serde_json::to_string(&pools.list())?;
    assert!(listing.contains("\"state\":\"ready\""), "{listing}");
    Ok(())
}

#[test]
fn space_that_a_replica_gives_back_leaves_the_file() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let id = pools.add(&home.file("disk"))?.id;
    let taken = || -> Outcome<u64> {
        Ok(std::os::unix::fs::MetadataExt::blocks(&fs::metadata(home.path("disk"))?) * 512)
    };
    let data = pools.dir(id)?.join("data");
    fs::write(&data, vec![0x5a; 128 << 20])?;
    run("sync", &["-f", &data.display().to_string()])?;
    let full = taken()?;
    fs::remove_file(&data)?;
    // XFS frees a deleted file in the background, and discards its blocks when its log is written, which is at the
    // latest half a minute later; a sync does not wait for the former but brings the latter about.
    let root = pools.dir(id)?.display().to_string();
    let given_back = host_support::eventually(std::time::Duration::from_secs(45), || {
        let _ = run("sync", &["-f", &root]);
        taken().is_ok_and(|now| now + (100 << 20) < full)
    });
    assert!(given_back, "{full} bytes when full, {} after", taken()?);
    Ok(())
}

#[test]
fn a_pool_is_removed_only_when_it_is_empty_and_can_come_back() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let made = pools.add(&home.file("disk"))?;
    let replica = pools.dir(made.id)?.join("replicas/one");
    fs::create_dir(&replica)?;
    assert!(matches!(
        pools.remove(made.id, Removal::DeleteFile),
        Err(PoolError::NotEmpty { count: 1, .. })
    ));
    fs::remove_dir(&replica)?;
    pools.remove(made.id, Removal::Keep)?;
    assert!(pools.list().is_empty() && home.open()?.list().is_empty());
    home.assert_nothing_left()?;

    let again = pools.add(&spec_of(&home.path("disk")))?;
    assert_eq!(again.id, made.id, "it is the pool that it was");
    assert!(matches!(
        pools.add(&spec_of(&home.path("disk"))),
        Err(PoolError::AddedAlready { .. })
    ));
    pools.remove(made.id, Removal::DeleteFile)?;
    assert!(!home.path("disk").exists());
    home.assert_nothing_left()
}

#[test]
fn what_holds_something_is_not_touched() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let disk = home.path("disk").display().to_string();
    for (program, holds) in [
        (Some(["mkfs.ext4", "-qF"]), "ext4"),
        (Some(["mkfs.xfs", "-qf"]), "xfs"),
        (Some(["mkfs.btrfs", "-qf"]), "btrfs"),
        (Some(["mkswap", "-f"]), "swap"),
        (None, "partition table"),
    ] {
        let _ = fs::remove_file(&disk);
        File::create(&disk)?.set_len(SIZE)?;
        match program {
            Some([program, option]) => run(program, &[option, &disk]).map(drop)?,
            None => partition(Path::new(&disk))?,
        }
        let before = fs::read(&disk)?;
        let said = refused(pools.add(&spec_of(Path::new(&disk))));
        assert!(said.contains(holds) && said.contains("wipefs"), "{said}");
        assert!(fs::read(&disk)? == before, "{holds}: something was written");
        home.assert_nothing_left()?;
    }
    Ok(())
}

/// A master boot record with one Linux partition from 1 MiB on.
fn partition(disk: &Path) -> Outcome {
    let mut record = [0; 512];
    record[446 + 4] = 0x83;
    record[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
    record[446 + 12..446 + 16].copy_from_slice(&100_000u32.to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(std::os::unix::fs::FileExt::write_all_at(
        &File::options().write(true).open(disk)?,
        &record,
        0,
    )?)
}

#[test]
fn another_nodes_pool_is_refused_by_name() -> Outcome {
    let home = Home::new()?;
    let elsewhere = Pools::open(&home.path("elsewhere"), owner(2))?;
    let made = elsewhere.add(&home.file("disk"))?;
    let in_use = refused(home.open()?.add(&spec_of(&home.path("disk"))));
    assert!(in_use.contains("/dev/loop"), "{in_use}");
    assert!(elsewhere.close().is_empty());
    let said = refused(home.open()?.add(&spec_of(&home.path("disk"))));
    assert!(
        said.contains(&made.id.to_string()) && said.contains(&owner(2).node.to_string()),
        "{said}"
    );
    home.assert_nothing_left()
}

#[test]
fn a_request_that_makes_no_sense_says_why() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let small = PoolSpec {
        size: Some(200 << 20),
        ..home.file("small")
    };
    for (spec, hint) in [
        (small, "300 MiB"),
        (spec_of(&home.path("missing")), "--size"),
        (
            PoolSpec {
                size: Some(SIZE),
                ..spec_of(Path::new("/dev/no-such-disk"))
            },
            "does not exist",
        ),
        (spec_of(home.0.path()), "not empty"),
        (spec_of(Path::new("/dev/null")), "neither"),
    ] {
        let said = refused(pools.add(&spec));
        assert!(said.contains(hint), "{said}");
    }
    assert!(!home.path("small").exists() && !Path::new("/dev/no-such-disk").exists());
    let missing = pools.remove(bulkhead_engine::ids::PoolId::from_u128(9), Removal::Keep);
    assert!(matches!(missing, Err(PoolError::Unknown(_))));
    home.assert_nothing_left()
}

#[test]
fn a_block_device_becomes_a_pool_unless_it_is_in_use() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(home.path("disk"))?;
    file.set_len(SIZE)?;
    let options = LoopOptions {
        tag: "a-disk".into(),
        block_size: 512,
        autoclear: true,
    };
    let disk = LoopDevice::attach(&file, &options)?;
    let spec = PoolSpec {
        priority: Some(Priority::Low),
        ..spec_of(disk.path())
    };
    let made = pools.add(&spec)?;
    assert_eq!(
        (made.kind, made.priority, &made.state),
        (PoolKind::Device, Priority::Low, &PoolState::Ready)
    );
    let stranger = Pools::open(&home.path("stranger"), owner(2))?;
    let said = refused(stranger.add(&spec));
    assert!(said.contains("mounted on"), "{said}");
    pools.remove(made.id, Removal::DeleteFile)?;
    assert!(
        home.path("disk").exists(),
        "what lies below a device is not ours to delete"
    );
    assert!(disk.detach(std::time::Duration::from_secs(5))?);
    home.assert_nothing_left()
}

#[test]
fn a_copy_of_a_pools_disk_is_never_taken_for_it() -> Outcome {
    let home = Home::new()?;
    let device = |name: &str| -> Outcome<LoopDevice> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(home.path(name))?;
        file.set_len(SIZE)?;
        let options = LoopOptions {
            tag: format!("a-disk-{name}"),
            block_size: 512,
            autoclear: true,
        };
        Ok(LoopDevice::attach(&file, &options)?)
    };
    let disk = device("disk")?;
    let pools = home.open()?;
    let made = pools.add(&spec_of(disk.path()))?;
    assert!(pools.close().is_empty());
    fs::copy(home.path("disk"), home.path("copy"))?;
    let copy = device("copy")?;
    let pools = home.open()?;
    let PoolState::Failed { reason } = pools.get(made.id)?.state else {
        return Err("one of the two was taken".into());
    };
    assert!(reason.contains("one is a copy"), "{reason}");
    assert!(copy.detach(std::time::Duration::from_secs(5))?);
    assert_eq!(pools.retry(made.id)?.state, PoolState::Ready);
    assert!(pools.close().is_empty());
    assert!(disk.detach(std::time::Duration::from_secs(5))?);
    home.assert_nothing_left()
}

#[test]
fn a_file_with_data_that_no_probe_knows_is_not_touched() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let dump = home.path("dump.sql");
    fs::write(&dump, "-- a database dump\n".repeat(4 << 20))?;
    File::options().write(true).open(&dump)?.set_len(SIZE)?;
    let before = fs::read(&dump)?;
    let said = refused(pools.add(&spec_of(&dump)));
    assert!(said.contains("a file with data in it"), "{said}");
    assert!(fs::read(&dump)? == before, "something was written");
    home.assert_nothing_left()
}

#[test]
fn a_pool_that_is_not_there_is_reported_and_comes_back() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let (one, two) = (pools.add(&home.file("one"))?, pools.add(&home.file("two"))?);
    assert!(pools.close().is_empty());
    fs::rename(home.path("one"), home.path("away"))?;
    let pools = home.open()?;
    assert!(matches!(pools.get(one.id)?.state, PoolState::Failed { .. }));
    assert!(matches!(pools.dir(one.id), Err(PoolError::NotReady { .. })));
    assert_eq!(
        pools.get(two.id)?.state,
        PoolState::Ready,
        "the others are not kept from being used"
    );

    // Another disk in its place is not taken for it.
    let other = Pools::open(&home.path("other"), owner(1))?;
    other.add(&home.file("one"))?;
    assert!(other.close().is_empty());
    match pools.retry(one.id)?.state {
        PoolState::Failed { reason } => assert!(reason.contains("does not hold pool"), "{reason}"),
        PoolState::Ready => panic!("another pool was taken for it"),
    }
    fs::rename(home.path("away"), home.path("one"))?;
    assert_eq!(pools.retry(one.id)?.state, PoolState::Ready);
    assert!(pools.close().is_empty());
    home.assert_nothing_left()
}

#[test]
fn a_pool_that_was_unmounted_behind_our_back_takes_nothing() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let made = pools.add(&home.file("disk"))?;
    nix::mount::umount2(&pools.dir(made.id)?, nix::mount::MntFlags::empty())?;
    assert!(matches!(pools.dir(made.id), Err(PoolError::NotReady { .. })));
    assert!(matches!(pools.get(made.id)?.state, PoolState::Failed { .. }));
    assert_eq!(pools.retry(made.id)?.state, PoolState::Ready);
    Ok(())
}

#[test]
fn a_damaged_list_is_never_taken_for_an_empty_one() -> Outcome {
    let home = Home::new()?;
    home.open()?;
    fs::write(
        home.state().join("pools.json"),
        "{\"version\":1,\"pools\":[{\"id\":",
    )?;
    let Err(error) = Pools::open(&home.state(), owner(1)) else {
        panic!("a torn list was taken");
    };
    assert!(error.to_string().contains("pools.json"), "{error}");
    Ok(())
}

#[test]
fn a_directory_becomes_a_pool_and_is_found_again() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let place = home.path("place");
    fs::create_dir(&place)?;
    let made = pools.add(&spec_of(&place))?;
    assert_eq!((made.kind, &made.state), (PoolKind::Directory, &PoolState::Ready));
    let usage = made.usage.ok_or("no usage")?;
    assert!(usage.capacity > 0 && usage.allocated == 0, "{usage:?}");
    assert_eq!(home.loops()?, [""; 0], "it needs no loop device");

    // What is written to the pool lies in the directory, and counts as promised.
    let replica = pools.dir(made.id)?.join("replicas/one");
    fs::create_dir(&replica)?;
    File::create(replica.join("data"))?.set_len(1 << 30)?;
    assert!(place.join("replicas/one/data").exists());
    let usage = pools.get(made.id)?.usage.ok_or("no usage")?;
    assert_eq!((usage.allocated, usage.replicas), (1 << 30, 1));
    assert!(matches!(
        pools.remove(made.id, Removal::DeleteFile),
        Err(PoolError::NotEmpty { count: 1, .. })
    ));

    // After a restart of the machine it is bound again.
    assert_eq!(pools.close().len(), 0);
    assert_eq!(home.mounts()?, [""; 0]);
    let pools = home.open()?;
    assert_eq!(pools.list()[0].state, PoolState::Ready);

    // Removed and kept, it can be added again as what it is; the second time it is emptied.
    fs::remove_dir_all(pools.dir(made.id)?.join("replicas/one"))?;
    pools.remove(made.id, Removal::Keep)?;
    home.assert_nothing_left()?;
    assert_eq!(pools.add(&spec_of(&place))?.id, made.id);
    pools.remove(made.id, Removal::DeleteFile)?;
    home.assert_nothing_left()?;
    assert_eq!(fs::read_dir(&place)?.count(), 0, "it is empty as it was");
    Ok(())
}

#[test]
fn a_directory_that_is_not_there_is_never_written_below() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let place = home.path("place");
    fs::create_dir(&place)?;
    let made = pools.add(&spec_of(&place))?;
    assert_eq!(pools.close().len(), 0);
    // The disk below it is not mounted: another directory is in its place, empty.
    fs::rename(&place, home.path("elsewhere"))?;
    fs::create_dir(&place)?;
    let pools = home.open()?;
    let PoolState::Failed { reason } = &pools.list()[0].state else {
        return Err("an empty directory was taken for the pool".into());
    };
    assert!(reason.contains("something that is no pool"), "{reason}");
    assert!(matches!(pools.dir(made.id), Err(PoolError::NotReady { .. })));
    home.assert_nothing_left()?;
    // Nor one that is not there at all.
    fs::remove_dir(&place)?;
    assert!(matches!(pools.retry(made.id)?.state, PoolState::Failed { .. }));
    home.assert_nothing_left()?;
    fs::rename(home.path("elsewhere"), &place)?;
    assert_eq!(pools.retry(made.id)?.state, PoolState::Ready);
    pools.remove(made.id, Removal::Keep)?;
    home.assert_nothing_left()
}

#[test]
fn a_directory_is_refused_unless_it_is_empty_and_on_a_disk() -> Outcome {
    let home = Home::new()?;
    let pools = home.open()?;
    let place = home.path("place");
    fs::create_dir(&place)?;
    fs::write(place.join("letter"), "dear")?;
    let text = refused(pools.add(&spec_of(&place)));
    assert!(text.contains("not empty (it has `letter`)"), "{text}");
    fs::remove_file(place.join("letter"))?;
    let sized = PoolSpec {
        size: Some(SIZE),
        ..spec_of(&place)
    };
    let text = refused(pools.add(&sized));
    assert!(text.contains("leave `--size` away"), "{text}");
    let memory = tempfile::Builder::new()
        .prefix("bulkhead-pool-")
        .tempdir_in("/dev/shm")?;
    let text = refused(pools.add(&spec_of(memory.path())));
    assert!(text.contains("not on ext4, xfs or btrfs"), "{text}");
    let other = Pools::open(&home.path("other"), owner(2))?;
    let made = other.add(&spec_of(&place))?;
    let text = refused(pools.add(&spec_of(&place)));
    assert!(text.contains("of node"), "{text}");
    other.remove(made.id, Removal::Keep)?;
    home.assert_nothing_left()
}
