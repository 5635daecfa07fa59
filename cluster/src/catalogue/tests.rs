//! The catalogue follows, answers while the store is away and after a restart, and says how old it is.

use std::path::Path;

use bulkhead_engine::ids::{NodeId, PoolId, ReplicaId};

use super::*;
use crate::schema::{ClassRecord, VolumeSpec};
use crate::sqlite::Sqlite;
use crate::store::{Expect, Options, Txn};
use crate::volumes::{NewVolume, Placed, Volumes};

const SOON: Duration = Duration::from_secs(10);

async fn store(dir: &Path) -> Arc<Sqlite> {
    Arc::new(
        Sqlite::open(&dir.join("store.db"), &Options::default())
            .await
            .unwrap(),
    )
}

async fn create(volumes: &Volumes, name: &str) -> Revision {
    let node = NodeId::from_u128(1);
    let place = Placed {
        node,
        pool: PoolId::from_u128(2),
    };
    let new = NewVolume::new(name, VolumeSpec::new(1 << 30), &[place], node).unwrap();
    let begun = volumes.begin_create(&new).await.unwrap();
    let ours: Vec<ReplicaId> = begun.volume().replicas.iter().map(|replica| replica.id).collect();
    let made = volumes.replicas_made(begun.volume(), node, &ours).await.unwrap();
    volumes.finish_create(&made.unwrap()).await.unwrap().revision
}

fn names(catalogue: &Catalogue) -> Vec<String> {
    catalogue.read(|contents| contents.named().map(|volume| volume.name.clone()).collect())
}

#[tokio::test]
async fn it_follows_and_knows_how_far_it_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let volumes = Volumes::new(Arc::clone(&store) as Arc<dyn Store>);
    let catalogue = Catalogue::start(Arc::clone(&store) as _, None).await;
    for name in ["b", "a", "c d%"] {
        let revision = create(&volumes, name).await;
        assert!(catalogue.caught_up(revision, SOON).await);
        assert!(catalogue.read(|contents| contents.by_name(name).is_some()));
    }
    assert_eq!(names(&catalogue), ["a", "b", "c d%"]);
    let fresh = catalogue.freshness();
    assert!(fresh.away.is_none() && !fresh.from_disk && fresh.warning().is_none());
    let deleted = volumes.begin_delete("a", NodeId::from_u128(1)).await.unwrap();
    assert!(catalogue.caught_up(deleted.revision, SOON).await);
    assert_eq!(names(&catalogue), ["b", "c d%"]);
    assert_eq!(
        catalogue.read(|contents| contents.volumes().count()),
        3,
        "one of them is being deleted"
    );
    volumes
        .finish_delete(deleted.id, NodeId::from_u128(1))
        .await
        .unwrap();
    let (_, revision) = store.list("").await.unwrap();
    assert!(catalogue.caught_up(revision, SOON).await);
    assert_eq!(catalogue.read(|contents| contents.volumes().count()), 2);
    assert!(
        !catalogue
            .caught_up(Revision(revision.0 + 1), Duration::from_millis(50))
            .await
    );
}

#[tokio::test]
async fn what_was_just_written_is_found_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let volumes = Volumes::new(Arc::clone(&store) as Arc<dyn Store>);
    let catalogue = Catalogue::start(Arc::clone(&store) as _, None).await;
    assert!(catalogue.filled(SOON).await);
    for n in 0..50 {
        let name = format!("v{}", n % 3);
        create(&volumes, &name).await;
        let made = volumes.by_name(&name).await.unwrap().unwrap();
        catalogue.note(&made);
        assert_eq!(
            catalogue.read(|contents| contents.by_name(&name).cloned()),
            Some(Arc::new(made))
        );
        let gone = volumes.begin_delete(&name, NodeId::from_u128(1)).await.unwrap();
        catalogue.note(&gone);
        // The watch is behind now, and must not bring back what it was.
        tokio::task::yield_now().await;
        assert_eq!(catalogue.read(|contents| contents.by_name(&name).cloned()), None);
    }
}

#[tokio::test]
async fn a_damaged_record_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let volumes = Volumes::new(Arc::clone(&store) as Arc<dyn Store>);
    create(&volumes, "a").await;
    let b = create(&volumes, "b").await;
    let catalogue = Catalogue::start(Arc::clone(&store) as _, None).await;
    assert!(catalogue.caught_up(b, SOON).await);
    let key = catalogue.read(|contents| format!("volumes/{}", contents.by_name("a").unwrap().id));
    let revision = store
        .commit(Txn::new().put(&key, "{").put("of/later/versions", "1"))
        .await
        .unwrap();
    assert!(catalogue.caught_up(revision, SOON).await);
    assert_eq!(names(&catalogue), ["b"]);
    assert_eq!(catalogue.read(|contents| contents.faults().count()), 1);
    let revision = store.commit(Txn::new().delete(&key)).await.unwrap();
    assert!(catalogue.caught_up(revision, SOON).await);
    assert_eq!(catalogue.read(|contents| contents.faults().count()), 0);
}

#[tokio::test]
async fn it_is_there_at_once_after_a_restart_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catalogue");
    let store = store(dir.path()).await;
    let volumes = Volumes::new(Arc::clone(&store) as Arc<dyn Store>);
    let class = ClassRecord::new("fast");
    store
        .swap(
            "classes/fast",
            Expect::Absent,
            crate::schema::encode("classes/fast", &class).unwrap(),
        )
        .await
        .unwrap();
    create(&volumes, "gone").await;
    let last = create(&volumes, "kept").await;
    let catalogue = Catalogue::start(Arc::clone(&store) as _, Some(file.clone())).await;
    assert!(catalogue.caught_up(last, SOON).await);
    tokio::time::timeout(SOON, async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    drop(catalogue);
    volumes.begin_delete("gone", NodeId::from_u128(1)).await.unwrap();

    // The store is away: an etcd that is not there.
    let options = Options {
        deadline: Duration::from_millis(300),
        ..Options::default()
    };
    let nowhere = crate::store::open("etcd://127.0.0.1:1", &options).await.unwrap();
    let catalogue = Catalogue::start(nowhere, Some(file.clone())).await;
    assert_eq!(names(&catalogue), ["gone", "kept"], "as of the last run");
    assert_eq!(catalogue.read(|contents| contents.classes().count()), 1);
    assert!(catalogue.freshness().from_disk);
    tokio::time::timeout(SOON, async {
        while catalogue.freshness().away.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let warning = catalogue.freshness().warning().unwrap();
    assert!(
        warning.contains("cannot be reached since") && warning.contains("what was known at"),
        "{warning}"
    );
    assert_eq!(names(&catalogue), ["gone", "kept"], "it still answers");
    drop(catalogue);

    // The store is back: what has gone meanwhile is gone.
    let catalogue = Catalogue::start(Arc::clone(&store) as _, Some(file.clone())).await;
    let (_, revision) = store.list("").await.unwrap();
    assert!(catalogue.caught_up(revision, SOON).await);
    assert_eq!(names(&catalogue), ["kept"]);
    drop(catalogue);

    // A damaged copy is passed over.
    let whole = std::fs::read(&file).unwrap();
    for damage in [&whole[..whole.len() / 2], b"", b"[]\n", &[0xff; 100]] {
        std::fs::write(&file, damage).unwrap();
        assert!(!matches!(file::load(&file), Ok(Some(_))));
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&file, &flipped).unwrap();
    assert!(file::load(&file).is_err());
}

/// What is promised is kept in step with every change, so it must say the same as a look at all volumes.
#[test]
fn what_is_promised_follows_every_change() {
    let mut contents = Contents::default();
    let looked = |contents: &Contents| {
        crate::placement::View::of_records([], |_| true, [], contents.volumes().map(|volume| &volume.record))
    };
    let place = Placed {
        node: NodeId::from_u128(1),
        pool: PoolId::from_u128(2),
    };
    let mut spec = VolumeSpec::new(1 << 30);
    spec.group = Some("g".to_owned());
    let mut record = NewVolume::new("v", spec, &[place], place.node)
        .unwrap()
        .into_record();
    let key = crate::schema::volume_key(record.id);
    for revision in 1..4 {
        record.spec.size += 1 << 30;
        contents.apply(&crate::store::Event::Put(crate::store::Entry {
            key: key.clone(),
            value: crate::schema::encode(&key, &record).unwrap(),
            revision: Revision(revision),
        }));
        assert_eq!(contents.view(), looked(&contents));
        assert_eq!(contents.view().group_on("g", place.node), Some("v"));
    }
    contents.apply(&crate::store::Event::Delete {
        key,
        revision: Revision(9),
    });
    assert_eq!(contents.view(), looked(&contents));
    assert_eq!(contents.view().group_on("g", place.node), None);
}

#[test]
fn only_the_last_change_of_a_key_counts() {
    let put = |key: &str, revision| {
        Event::Put(crate::store::Entry {
            key: key.to_owned(),
            value: "v".into(),
            revision: Revision(revision),
        })
    };
    let gone = Event::Delete {
        key: "a".to_owned(),
        revision: Revision(3),
    };
    let events = [put("a", 1), put("b", 2), gone.clone(), put("c", 4), put("b", 5)];
    assert_eq!(latest(&events), [&gone, &put("c", 4), &put("b", 5)]);
}

/// The size that a cluster may have: listing must not take a tenth of a second.
#[tokio::test]
async fn ten_thousand_volumes_are_listed_at_once() {
    let node = NodeId::from_u128(1);
    let place = Placed {
        node,
        pool: PoolId::from_u128(2),
    };
    let mut contents = Contents::default();
    for n in 0..10_000u64 {
        let record = NewVolume::new(
            &format!("volume-{n:05}"),
            VolumeSpec::new(1 << 30),
            &[place],
            node,
        )
        .unwrap()
        .into_record();
        let key = crate::schema::volume_key(record.id);
        let name = crate::schema::name_key(&record.name).unwrap();
        let named = crate::schema::NameRecord { volume: record.id };
        for (key, value) in [
            (key.clone(), crate::schema::encode(&key, &record).unwrap()),
            (name.clone(), crate::schema::encode(&name, &named).unwrap()),
        ] {
            contents.apply(&crate::store::Event::Put(crate::store::Entry {
                key,
                value,
                revision: Revision(n + 1),
            }));
        }
    }
    let begin = Instant::now();
    let listed: Vec<(String, u64)> = contents
        .named()
        .map(|volume| (volume.name.clone(), volume.spec.size))
        .collect();
    let took = begin.elapsed();
    assert_eq!(listed.len(), 10_000);
    assert!(took < Duration::from_millis(50), "{took:?}");
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catalogue");
    file::save(&file, &contents.lines(), SystemTime::now()).unwrap();
    let (loaded, _) = file::load(&file).unwrap().unwrap();
    assert_eq!(loaded.volumes().count(), 10_000);
    println!("listed in {took:?}, saved and loaded in {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_node_that_falls_silent_is_known_since_when() {
    use crate::schema::{Extra, LiveRecord, NodeCondition, Timestamp, encode, live_key};
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let catalogue = Catalogue::start(Arc::clone(&store) as _, None).await;
    assert!(catalogue.filled(SOON).await);
    let node = NodeId::from_u128(1);
    let key = live_key(node);
    let sign = LiveRecord {
        node,
        incarnation: bulkhead_engine::ids::Incarnation::from_u128(1),
        clock: Timestamp::now(),
        condition: NodeCondition::Ok,
        since: Timestamp::now(),
        swarm_node: String::new(),
        extra: Extra::new(),
    };
    let since = || catalogue.read(|contents| contents.silent_since(node));
    for _ in 0..2 {
        let put = Txn::new().put(&key, encode(&key, &sign).unwrap());
        let revision = store.commit(put).await.unwrap();
        assert!(catalogue.caught_up(revision, SOON).await);
        assert_eq!(since(), None, "it lives");
        let revision = store.commit(Txn::new().delete(&key)).await.unwrap();
        assert!(catalogue.caught_up(revision, SOON).await);
        assert!(since().is_some_and(|since| since <= SystemTime::now()));
    }
}

#[tokio::test]
async fn what_was_removed_is_not_brought_back_by_a_late_note() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let volumes = Volumes::new(store.clone());
    let catalogue = Catalogue::start(store, None).await;
    let made = create(&volumes, "v").await;
    assert!(catalogue.caught_up(made, SOON).await);
    let volume = volumes.by_name("v").await.unwrap().unwrap();
    let going = volumes.begin_delete("v", NodeId::from_u128(1)).await.unwrap();
    volumes
        .finish_delete(volume.id, NodeId::from_u128(1))
        .await
        .unwrap();
    let is_gone = || catalogue.read(|contents| contents.by_id(volume.id).is_none());
    let begin = std::time::Instant::now();
    while !is_gone() && begin.elapsed() < SOON {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Whoever wrote this comes to note it only now.
    catalogue.note(&going);
    assert!(is_gone());
    // What is newer than all that the watch has told is news.
    let again = create(&volumes, "w").await;
    catalogue.note(&volumes.by_name("w").await.unwrap().unwrap());
    assert_eq!(names(&catalogue), ["w"]);
    assert!(catalogue.caught_up(again, SOON).await);
}

#[test]
fn a_store_that_has_gone_back_is_believed() {
    let place = |id| Placed {
        node: NodeId::from_u128(id),
        pool: PoolId::from_u128(id),
    };
    let record = |name: &str| {
        let new = NewVolume::new(name, VolumeSpec::new(1 << 30), &[place(1)], NodeId::from_u128(1));
        new.unwrap().into_record()
    };
    let put = |record: &crate::schema::VolumeRecord, revision: u64| {
        let key = crate::schema::volume_key(record.id);
        Event::Put(crate::store::Entry {
            value: crate::schema::encode(&key, record).unwrap(),
            key,
            revision: Revision(revision),
        })
    };
    let (mut kept, changed, lost) = (record("kept"), record("changed"), record("lost"));
    let mut contents = Contents::default();
    for event in [put(&kept, 3), put(&changed, 90), put(&lost, 91)] {
        contents.apply(&event);
    }
    // Noted ahead of the watch, in the history that is gone.
    kept.epoch.0 = 9;
    let noted = crate::schema::Stored {
        record: kept.clone(),
        revision: Revision(95),
    };
    assert!(contents.note(&noted, Revision(91)));
    let mut earlier = changed.clone();
    earlier.epoch.0 = 7;
    let gone = Event::Delete {
        key: crate::schema::volume_key(lost.id),
        revision: Revision(10),
    };
    contents.go_back([&gone, &put(&earlier, 5)]);
    let epoch = |of: &crate::schema::VolumeRecord| {
        contents
            .by_id(of.id)
            .map(|volume| (volume.epoch.0, volume.revision.0))
    };
    assert_eq!(
        (epoch(&kept), epoch(&changed), epoch(&lost)),
        (Some((1, 3)), Some((7, 5)), None)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_within_a_look_ends_though_a_change_is_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let volumes = Volumes::new(Arc::clone(&store) as Arc<dyn Store>);
    let catalogue = Arc::new(Catalogue::start(Arc::clone(&store) as _, None).await);
    create(&volumes, "v").await;
    let volume = volumes.by_name("v").await.unwrap().unwrap();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let noting = Arc::clone(&catalogue);
        catalogue.read(|_| {
            std::thread::spawn(move || noting.note(&volume));
            // Long enough for that one to stand and wait.
            std::thread::sleep(Duration::from_millis(200));
            let _ = done.send(names(&catalogue));
        });
    });
    assert!(ended.recv_timeout(SOON).is_ok(), "both wait for each other");
}
