//! What every store must do. Each check takes stores opened for it alone; `suite!` makes tests of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_cluster::store::{
    Batch, Event, Expect, LeaseId, MAX_TXN_BYTES, MAX_TXN_OPS, MAX_VALUE, Revision, Store, StoreError, Txn,
    Watcher,
};
use bytes::Bytes;

use crate::support::{Follower, until, within};

const SOON: Duration = Duration::from_secs(20);

/// A store under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A client with this prefix. Clients of the same prefix see the same keys.
    async fn open(&self, prefix: &str) -> Arc<dyn Store>;
    /// Forgets the history up to a revision, as far as this kind of store has one.
    async fn compact(&self, upto: Revision);
}

/// Makes a test of each check, with a subject that an async expression gives.
macro_rules! suite {
    ($subject:expr) => {
        $crate::conformance::suite!($subject; one_key, swaps, transactions, limits, prefixes, contention, races, pages,
            watch_tells_all, watch_from_a_revision, watch_after_compaction, watch_dropped_midway, leases);
    };
    ($subject:expr; $($check:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let subject = $subject;
                $crate::conformance::$check(&subject).await;
            }
        )*
    };
}
pub(crate) use suite;

fn bytes(text: impl ToString) -> Bytes {
    Bytes::from(text.to_string())
}

async fn value(store: &dyn Store, key: &str) -> Option<Bytes> {
    store.get(key).await.unwrap().map(|entry| entry.value)
}

pub async fn one_key(subject: &dyn Subject) {
    let store = subject.open("one/").await;
    assert_eq!(store.get("a").await.unwrap(), None);
    let first = store.commit(Txn::new().put("a", "1")).await.unwrap();
    let entry = store.get("a").await.unwrap().unwrap();
    assert_eq!(
        (entry.key.as_str(), &entry.value[..], entry.revision),
        ("a", &b"1"[..], first)
    );
    let all: Vec<u8> = (0..=255).collect();
    let second = store.commit(Txn::new().put("a", all.clone())).await.unwrap();
    assert!(second > first);
    assert_eq!(value(&*store, "a").await.unwrap(), all);
    let third = store.commit(Txn::new().put("a", "")).await.unwrap();
    let entry = store.get("a").await.unwrap().unwrap();
    assert_eq!((entry.value.len(), entry.revision), (0, third));
    store.commit(Txn::new().delete("a")).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), None);
    store.commit(Txn::new().delete("a")).await.unwrap();
    assert!(store.access().away().is_none());
}

pub async fn swaps(subject: &dyn Subject) {
    let store = subject.open("swaps/").await;
    let first = store.swap("k", Expect::Absent, bytes("1")).await.unwrap();
    let error = store.swap("k", Expect::Absent, bytes("x")).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let second = store.swap("k", Expect::At(first), bytes("2")).await.unwrap();
    // The same value again is a change all the same: the revision is what counts.
    let third = store.swap("k", Expect::At(second), bytes("2")).await.unwrap();
    assert!(first < second && second < third);
    for stale in [first, second] {
        match store.swap("k", Expect::At(stale), bytes("x")).await {
            Err(StoreError::Conflict { key, expected, .. }) => {
                assert_eq!((key.as_str(), expected), ("k", Expect::At(stale)))
            }
            other => panic!("{other:?}"),
        }
    }
    let delete = |at| Txn::new().check("k", Expect::At(at)).delete("k");
    assert!(store.commit(delete(second)).await.unwrap_err().is_conflict());
    assert_eq!(value(&*store, "k").await, Some(bytes("2")));
    store.commit(delete(third)).await.unwrap();
    assert!(
        store
            .swap("k", Expect::At(third), bytes("x"))
            .await
            .unwrap_err()
            .is_conflict()
    );
    let again = store.swap("k", Expect::Absent, bytes("3")).await.unwrap();
    assert!(again > third, "a revision is never used twice");
    assert!(
        store
            .swap("k", Expect::At(third), bytes("x"))
            .await
            .unwrap_err()
            .is_conflict()
    );
}

pub async fn transactions(subject: &dyn Subject) {
    let store = subject.open("txn/").await;
    let made = store
        .commit(Txn::new().put("a", "1").put("b", "1").put("c", "1"))
        .await
        .unwrap();
    let (entries, _) = store.list("").await.unwrap();
    assert!(entries.iter().all(|entry| entry.revision == made), "{entries:?}");
    let mixed = |a, other| {
        Txn::new()
            .check("a", Expect::At(a))
            .check("none", other)
            .put("a", "2")
            .delete("b")
            .put("d", "2")
    };
    // One check that fails, and nothing has happened.
    assert!(
        store
            .commit(mixed(made, Expect::At(made)))
            .await
            .unwrap_err()
            .is_conflict()
    );
    assert!(
        store
            .commit(mixed(Revision(made.0 + 1), Expect::Absent))
            .await
            .unwrap_err()
            .is_conflict()
    );
    assert_eq!(store.list("").await.unwrap().0, entries);
    let next = store.commit(mixed(made, Expect::Absent)).await.unwrap();
    let (entries, revision) = store.list("").await.unwrap();
    let found: Vec<_> = entries
        .iter()
        .map(|e| (e.key.as_str(), &e.value[..], e.revision))
        .collect();
    assert_eq!(
        found,
        [("a", &b"2"[..], next), ("c", b"1", made), ("d", b"2", next)]
    );
    assert!(revision >= next);
}

pub async fn limits(subject: &dyn Subject) {
    let store = subject.open("limits/").await;
    let full = (0..MAX_TXN_OPS / 2).fold(Txn::new(), |txn, i| {
        txn.check(format!("k{i:03}"), Expect::Absent)
            .put(format!("k{i:03}"), "v")
    });
    store.commit(full).await.unwrap();
    assert_eq!(store.list("k").await.unwrap().0.len(), MAX_TXN_OPS / 2);
    let noise = |seed: usize| {
        (0..MAX_VALUE - 100)
            .map(|i| (i * 31 + seed * 17 + i / 251) as u8)
            .collect::<Vec<u8>>()
    };
    let large =
        (0..MAX_TXN_BYTES / MAX_VALUE).fold(Txn::new(), |txn, i| txn.put(format!("large{i}"), noise(i)));
    store.commit(large).await.unwrap();
    for i in 0..MAX_TXN_BYTES / MAX_VALUE {
        assert_eq!(value(&*store, &format!("large{i}")).await.unwrap(), noise(i));
    }
    let long = "k".repeat(bulkhead_cluster::store::MAX_KEY);
    store.swap(&long, Expect::Absent, bytes("1")).await.unwrap();
    assert_eq!(value(&*store, &long).await, Some(bytes("1")));
    for bad in ["", "/a", "a/", "a//b", "a b", "ü"] {
        let error = store.swap(bad, Expect::Absent, bytes("1")).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{bad}: {error}");
    }
    let error = store
        .commit(Txn::new().put("a", vec![0; MAX_VALUE + 1]))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
}

pub async fn prefixes(subject: &dyn Subject) {
    let (one, other) = (subject.open("p/").await, subject.open("p2/").await);
    for key in ["a", "a/1", "a/2", "a%2Fx", "ab", "b"] {
        one.swap(key, Expect::Absent, bytes(key)).await.unwrap();
    }
    other.swap("a/1", Expect::Absent, bytes("other")).await.unwrap();
    let keys = async |prefix: &str| -> Vec<String> {
        one.list(prefix)
            .await
            .unwrap()
            .0
            .into_iter()
            .map(|entry| entry.key)
            .collect()
    };
    assert_eq!(keys("a/").await, ["a/1", "a/2"]);
    assert_eq!(keys("a").await, ["a", "a%2Fx", "a/1", "a/2", "ab"]);
    assert_eq!(keys("").await.len(), 6);
    assert_eq!(keys("zz").await, Vec::<String>::new());
    assert_eq!(value(&*one, "a/1").await, Some(bytes("a/1")));
    assert_eq!(other.list("").await.unwrap().0.len(), 1);
}

/// Clients add to one counter by compare-and-swap: every success is one step, and no step is lost.
pub async fn contention(subject: &dyn Subject) {
    const CLIENTS: u64 = 6;
    const STEPS: u64 = 25;
    let mut tasks = Vec::new();
    for _ in 0..CLIENTS {
        let store = subject.open("contention/").await;
        tasks.push(tokio::spawn(async move {
            let mut won = Vec::new();
            while won.len() < STEPS as usize {
                let entry = store.get("counter").await.unwrap();
                let count: u64 = entry
                    .as_ref()
                    .map_or(0, |e| std::str::from_utf8(&e.value).unwrap().parse().unwrap());
                let expect = entry.map_or(Expect::Absent, |e| Expect::At(e.revision));
                match store.swap("counter", expect, bytes(count + 1)).await {
                    Ok(revision) => won.push((count + 1, revision)),
                    Err(error) => assert!(error.is_conflict(), "{error}"),
                }
            }
            won
        }));
    }
    let mut won = Vec::new();
    for task in tasks {
        won.extend(task.await.unwrap());
    }
    won.sort_unstable();
    let counts: Vec<u64> = won.iter().map(|(count, _)| *count).collect();
    assert_eq!(counts, (1..=CLIENTS * STEPS).collect::<Vec<_>>());
    assert!(
        won.is_sorted_by(|a, b| a.1 < b.1),
        "revisions are in the order of the swaps"
    );
}

/// Many want to be the one who makes a key: exactly one is, and all others are told so.
pub async fn races(subject: &dyn Subject) {
    let mut stores = Vec::new();
    for _ in 0..8 {
        stores.push(subject.open("races/").await);
    }
    for round in 0..20 {
        let tasks: Vec<_> = stores
            .iter()
            .enumerate()
            .map(|(me, store)| {
                let store = Arc::clone(store);
                tokio::spawn(async move {
                    let txn = Txn::new()
                        .check(format!("owner/{round}"), Expect::Absent)
                        .put(format!("owner/{round}"), me.to_string())
                        .put(format!("by/{me}"), round.to_string());
                    (me, store.commit(txn).await)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                (me, Ok(_)) => winners.push(me),
                (_, Err(error)) => assert!(error.is_conflict(), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        // Read through another client: a read sees every change that was acknowledged before it.
        let reader = &stores[(winners[0] + 1) % stores.len()];
        assert_eq!(
            value(&**reader, &format!("owner/{round}")).await,
            Some(bytes(winners[0]))
        );
    }
}

/// A listing in pages is of one moment, whatever is written meanwhile.
pub async fn pages(subject: &dyn Subject) {
    const PAIRS: usize = 1000;
    let store = subject.open("pages/").await;
    let filler = "x".repeat(200);
    for chunk in (0..PAIRS).collect::<Vec<_>>().chunks(25) {
        let txn = chunk.iter().fold(Txn::new(), |txn, i| {
            txn.put(format!("a/{i:05}"), format!("0 {filler}"))
                .put(format!("b/{i:05}"), format!("0 {filler}"))
        });
        store.commit(txn).await.unwrap();
    }
    let writer = {
        let store = subject.open("pages/").await;
        tokio::spawn(async move {
            for n in 1..400 {
                let i = (n * 37) % PAIRS;
                let txn = Txn::new()
                    .put(format!("a/{i:05}"), format!("{n}"))
                    .put(format!("b/{i:05}"), format!("{n}"))
                    .put("a/last", format!("{n}"));
                store.commit(txn).await.unwrap();
            }
        })
    };
    let mut rounds = 0;
    while rounds < 2 || !writer.is_finished() {
        let mut page = store.page("", None, 150).await.unwrap();
        let revision = page.revision;
        let mut entries = page.entries;
        while let Some(cursor) = page.next {
            page = store.page("", Some(cursor), 150).await.unwrap();
            assert!(!page.entries.is_empty() && page.entries.len() <= 150);
            assert_eq!(page.revision, revision);
            entries.extend(page.entries);
        }
        assert!(entries.is_sorted_by(|a, b| a.key < b.key));
        assert!(entries.iter().all(|entry| entry.revision <= revision));
        let values: BTreeMap<_, _> = entries.into_iter().map(|e| (e.key, e.value)).collect();
        assert!(values.len() >= PAIRS * 2);
        for i in 0..PAIRS {
            assert_eq!(
                values[&format!("a/{i:05}")],
                values[&format!("b/{i:05}")],
                "pair {i} at {revision}"
            );
        }
        rounds += 1;
    }
    writer.await.unwrap();
    assert_eq!(value(&*store, "a/last").await, Some(bytes(399)));
}

/// Everything that is written is told, in order, once.
pub async fn watch_tells_all(subject: &dyn Subject) {
    let store = subject.open("watch/").await;
    store
        .commit(Txn::new().put("w/before", "1").put("outside", "1"))
        .await
        .unwrap();
    let mut follower = Follower::new(Watcher::new(Arc::clone(&store), "w/"));
    follower
        .until(SOON, "the first listing", |f| f.state.contains_key("w/before"))
        .await;
    let mut last = Revision(0);
    for n in 0..60 {
        last = store
            .commit(
                Txn::new()
                    .put(format!("w/k{}", n % 7), n.to_string())
                    .put("outside", "2"),
            )
            .await
            .unwrap();
        if n % 10 == 9 {
            store
                .commit(Txn::new().delete(format!("w/k{}", n % 7)))
                .await
                .unwrap();
        }
    }
    let last = last.max(store.commit(Txn::new().put("w/end", "1")).await.unwrap());
    follower
        .until(SOON, "the last change", |f| {
            f.at >= last && f.state.contains_key("w/end")
        })
        .await;
    let (entries, _) = store.list("w/").await.unwrap();
    let there: BTreeMap<_, _> = entries
        .into_iter()
        .map(|e| (e.key, (e.value, e.revision)))
        .collect();
    assert_eq!(follower.state, there);
    assert!(follower.seen.iter().all(|event| event.key().starts_with("w/")));
    assert!(follower.seen.is_sorted_by(|a, b| a.revision() <= b.revision()));
    if store.capabilities().every_change {
        let put = |event: &Event| match event {
            Event::Put(entry) => std::str::from_utf8(&entry.value).unwrap().parse::<u32>().ok(),
            Event::Delete { .. } => None,
        };
        let numbers: Vec<u32> = follower
            .seen
            .iter()
            .filter(|e| e.key().starts_with("w/k"))
            .filter_map(put)
            .collect();
        assert_eq!(numbers, (0..60).collect::<Vec<_>>());
    }
}

/// A raw watch begins right after the revision that it was given.
pub async fn watch_from_a_revision(subject: &dyn Subject) {
    let store = subject.open("from/").await;
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let (_, revision) = store.list("").await.unwrap();
    let second = store.commit(Txn::new().put("a", "2")).await.unwrap();
    let third = store.commit(Txn::new().put("b", "3").delete("a")).await.unwrap();
    let mut watch = within(SOON, "watch", store.watch("", revision)).await.unwrap();
    let mut changes = Vec::new();
    let everything = loop {
        match within(SOON, "a batch", watch.next()).await.unwrap() {
            Batch::Changes(events, _) => changes.extend(events),
            Batch::Everything(entries, _) => break Some(entries),
            Batch::Progress(_) => {}
        }
        if changes.last().is_some_and(|event| event.revision() == third) {
            break None;
        }
    };
    match everything {
        Some(entries) => {
            let keys: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.revision)).collect();
            assert_eq!(keys, [("b", third)]);
        }
        None => {
            assert_eq!(changes.len(), 3);
            assert_eq!((changes[0].key(), changes[0].revision()), ("a", second));
            let keys: BTreeSet<_> = changes[1..].iter().map(Event::key).collect();
            assert_eq!(keys, BTreeSet::from(["a", "b"]));
        }
    }
}

/// A watcher that slept through a compaction is told the differences, and nothing twice.
pub async fn watch_after_compaction(subject: &dyn Subject) {
    let store = subject.open("compact/").await;
    store
        .commit(Txn::new().put("kept", "1").put("changed", "1").put("gone", "1"))
        .await
        .unwrap();
    let mut follower = Follower::new(Watcher::new(Arc::clone(&store), ""));
    follower
        .until(SOON, "the first listing", |f| f.state.len() == 3)
        .await;
    drop(follower.watcher);
    let resumed_from = follower.at;
    // The watcher's own connection is lost with it, so a new one stands for one that resumes after long.
    follower.watcher = Watcher::new(Arc::clone(&store), "");
    follower.state.clear();
    follower
        .until(SOON, "the second listing", |f| f.state.len() == 3)
        .await;
    follower.seen.clear();
    for n in 2..50 {
        store
            .commit(Txn::new().put("changed", n.to_string()))
            .await
            .unwrap();
    }
    let last = store
        .commit(Txn::new().delete("gone").put("new", "1"))
        .await
        .unwrap();
    subject.compact(last).await;
    let mut raw = store.watch("", resumed_from).await;
    let answer = match &mut raw {
        Ok(watch) => loop {
            match within(SOON, "a batch", watch.next()).await {
                Ok(Batch::Progress(_)) => {}
                other => break other,
            }
        },
        Err(error) => Err(error.clone()),
    };
    assert!(
        matches!(
            answer,
            Err(StoreError::Compacted { .. }) | Ok(Batch::Everything(..))
        ),
        "history that is gone must not look like no change: {answer:?}"
    );
    follower.until(SOON, "the changes", |f| f.at >= last).await;
    let keys: Vec<_> = follower
        .state
        .iter()
        .map(|(k, (v, _))| (k.as_str(), &v[..]))
        .collect();
    assert_eq!(keys, [("changed", &b"49"[..]), ("kept", b"1"), ("new", b"1")]);
    assert!(
        follower.seen.iter().all(|event| event.key() != "kept"),
        "told again what had not changed"
    );
}

/// A caller may stop waiting at any moment and go on later.
pub async fn watch_dropped_midway(subject: &dyn Subject) {
    let store = subject.open("midway/").await;
    let mut follower = Follower::new(Watcher::new(Arc::clone(&store), ""));
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut last = Revision(0);
            for n in 0..100 {
                last = store
                    .commit(Txn::new().put(format!("k{}", n % 5), n.to_string()))
                    .await
                    .unwrap();
            }
            last
        })
    };
    let begin = Instant::now();
    while !writer.is_finished() || begin.elapsed() < Duration::from_millis(300) {
        let _ = tokio::time::timeout(Duration::from_millis(3), follower.step()).await;
        assert!(begin.elapsed() < SOON);
    }
    let last = writer.await.unwrap();
    follower.until(SOON, "the rest", |f| f.at >= last).await;
    let values: Vec<_> = follower.state.values().map(|(v, _)| v.clone()).collect();
    assert_eq!(values, (95..100).map(bytes).collect::<Vec<_>>());
}

async fn leased(store: &dyn Store, key: &str) -> (LeaseId, Duration) {
    let lease = store.grant(store.capabilities().min_ttl).await.unwrap();
    assert!(lease.ttl >= store.capabilities().min_ttl);
    store
        .commit(
            Txn::new()
                .check(key, Expect::Absent)
                .put_leased(key, "me", &lease.id),
        )
        .await
        .unwrap();
    (lease.id, lease.ttl)
}

/// Everything that takes the time of a lease, side by side.
pub async fn leases(subject: &dyn Subject) {
    tokio::join!(
        lease_ends(subject),
        lease_kept(subject),
        lease_revoked(subject),
        crate::nodes::signs_of_life(subject)
    );
}

/// A lease that nobody keeps ends in its time, not before and not long after, and a watch tells so.
async fn lease_ends(subject: &dyn Subject) {
    let store = subject.open("ends/").await;
    let mut follower = Follower::new(Watcher::new(Arc::clone(&store), ""));
    let begin = Instant::now();
    let (lease, ttl) = leased(&*store, "alive").await;
    store.commit(Txn::new().put("other", "1")).await.unwrap();
    follower
        .until(SOON, "the key", |f| f.state.contains_key("alive"))
        .await;
    let bound = ttl * store.capabilities().expiry_factor + Duration::from_secs(5);
    follower
        .until(bound, "the end of the lease", |f| !f.state.contains_key("alive"))
        .await;
    let passed = begin.elapsed();
    assert!(
        passed >= ttl.mul_f32(0.95),
        "ended after {passed:?}, promised {ttl:?}"
    );
    assert_eq!(store.get("alive").await.unwrap(), None);
    assert!(store.get("other").await.unwrap().is_some());
    assert!(matches!(
        store.keep_alive(&lease).await,
        Err(StoreError::LeaseGone(_))
    ));
    let error = store
        .commit(Txn::new().put_leased("late", "x", &lease))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::LeaseGone(_)), "{error}");
    assert_eq!(store.get("late").await.unwrap(), None);
}

/// A lease that is kept does not end; and a key that moved to a new lease does not go with the old one.
async fn lease_kept(subject: &dyn Subject) {
    let store = subject.open("kept/").await;
    let (old, ttl) = leased(&*store, "alive").await;
    let (new, _) = leased(&*store, "second").await;
    let entry = store.get("alive").await.unwrap().unwrap();
    let txn = Txn::new()
        .check("alive", Expect::At(entry.revision))
        .put_leased("alive", "moved", &new);
    store.commit(txn).await.unwrap();
    let end = Instant::now() + ttl * store.capabilities().expiry_factor + Duration::from_secs(1);
    while Instant::now() < end {
        store.keep_alive(&new).await.unwrap();
        tokio::time::sleep(ttl / 3).await;
    }
    assert_eq!(value(&*store, "alive").await, Some(bytes("moved")));
    assert!(matches!(
        store.keep_alive(&old).await,
        Err(StoreError::LeaseGone(_))
    ));
    store.revoke(&new).await.unwrap();
}

async fn lease_revoked(subject: &dyn Subject) {
    let store = subject.open("revoked/").await;
    let (lease, _) = leased(&*store, "alive").await;
    store
        .commit(Txn::new().put_leased("also", "1", &lease))
        .await
        .unwrap();
    store.revoke(&lease).await.unwrap();
    until(SOON, "the keys to go", || async {
        store.list("").await.unwrap().0.is_empty()
    })
    .await;
    store.revoke(&lease).await.unwrap();
    assert!(matches!(
        store.keep_alive(&lease).await,
        Err(StoreError::LeaseGone(_))
    ));
    // Its place is free at once: no delay after a lease that was given back.
    let (lease, _) = leased(&*store, "alive").await;
    store.revoke(&lease).await.unwrap();
}
