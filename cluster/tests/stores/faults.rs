//! What every store across a network must endure: lost answers, cut connections, silence, a change of leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_cluster::catalogue::Catalogue;
use bulkhead_cluster::nodes::{Heartbeat, Pulse};
use bulkhead_cluster::schema::{ChangeId, Extra, LiveRecord, NodeCondition, Timestamp, VolumeSpec, live_key};
use bulkhead_cluster::store::{Event, Expect, Options, Revision, Store, StoreError, Txn, Watcher, open};
use bulkhead_cluster::volumes::{NewVolume, Placed, Volumes};
use bulkhead_engine::ids::{Incarnation, NodeId, PoolId};
use bytes::Bytes;

use crate::proxy::{Mode, Proxy};
use crate::support::{Follower, until, within};

/// Connections break in the middle of calls. A counter that is changed with an id, by the rule of failure case 35,
/// ends exactly where it should.
pub async fn answers_lost_on_the_way(far: Arc<dyn Store>, near: Arc<dyn Store>, proxies: &[Proxy]) {
    /// At least; more, until enough answers were lost.
    const STEPS: u64 = 150;
    let stop = AtomicBool::new(false);
    let chaos = async {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(30)).await;
            proxies.iter().for_each(|proxy| proxy.set(Mode::LoseAnswers));
            tokio::time::sleep(Duration::from_millis(15)).await;
            proxies.iter().for_each(|proxy| {
                proxy.set(Mode::Pass);
                proxy.cut();
            });
        }
    };
    let work = async {
        let (mut unknown, mut ours, mut step) = (0, 0, 0);
        while step < STEPS || unknown < 10 || ours < 3 {
            step += 1;
            let id = ChangeId::random().to_string();
            loop {
                let entry = match far.get("counter").await {
                    Ok(entry) => entry,
                    Err(error) if error.is_transient() => continue,
                    Err(error) => panic!("{error}"),
                };
                let text = entry
                    .as_ref()
                    .map(|entry| String::from_utf8(entry.value.to_vec()).unwrap());
                let (count, by) = match text.as_deref().map(|text| text.split_once(' ').unwrap()) {
                    Some((count, by)) => (count.parse::<u64>().unwrap(), by.to_owned()),
                    None => (0, String::new()),
                };
                if by == id {
                    assert_eq!(count, step);
                    ours += 1;
                    break;
                }
                assert_eq!(count, step - 1, "a change was made twice or lost");
                let expect = entry.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
                match far
                    .swap("counter", expect, Bytes::from(format!("{step} {id}")))
                    .await
                {
                    Ok(_) => break,
                    Err(StoreError::OutcomeUnknown { .. }) => unknown += 1,
                    Err(StoreError::Conflict { .. } | StoreError::Unreachable { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        step
    };
    let steps = within(
        Duration::from_secs(100),
        "enough steps, with enough lost to show anything",
        async { tokio::join!(work, chaos).0 },
    )
    .await;
    let entry = near.get("counter").await.unwrap().unwrap();
    assert!(entry.value.starts_with(format!("{steps} ").as_bytes()));
}

/// Connections of a watch are cut, silenced and refused while changes go on: none is left out, none told twice.
pub async fn a_watch_resumes(far: Arc<dyn Store>, near: Arc<dyn Store>, proxies: &[Proxy]) {
    let mut follower = Follower::new(Watcher::new(far, "w/"));
    let written = async {
        let mut last = Revision(0);
        for n in 0..300u32 {
            last = near
                .commit(Txn::new().put(format!("w/{}", n % 11), n.to_string()))
                .await
                .unwrap();
            if n % 50 == 30 {
                near.commit(Txn::new().delete(format!("w/{}", n % 11)))
                    .await
                    .unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            let all = |mode| proxies.iter().for_each(|proxy| proxy.set(mode));
            match n {
                40 | 80 | 90 | 100 => proxies.iter().for_each(Proxy::cut),
                120 => all(Mode::Refuse),
                150 => all(Mode::Pass),
                // A cable that was pulled: the connection itself never says that it is dead.
                170 => all(Mode::Silence),
                230 => {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    all(Mode::Pass);
                }
                _ => {}
            }
        }
        last
    };
    let follow = async {
        follower
            .until(Duration::from_secs(60), "the last change", |f| {
                f.state.get("w/2").is_some_and(|(value, _)| value == "299")
            })
            .await;
    };
    let (last, ()) = tokio::join!(written, follow);
    assert!(follower.at >= last || follower.state["w/2"].1 == last);
    let (entries, _) = near.list("w/").await.unwrap();
    let there: Vec<_> = entries
        .iter()
        .map(|entry| (&entry.key, &entry.value, entry.revision))
        .collect();
    let told: Vec<_> = follower
        .state
        .iter()
        .map(|(key, (value, at))| (key, value, *at))
        .collect();
    assert_eq!(told, there);
    assert!(follower.outages >= 1, "an outage of three seconds was not told");
    if near.capabilities().every_change {
        let numbers: Vec<u32> = follower
            .seen
            .iter()
            .filter_map(|event| match event {
                Event::Put(entry) => Some(std::str::from_utf8(&entry.value).unwrap().parse().unwrap()),
                Event::Delete { .. } => None,
            })
            .collect();
        assert_eq!(numbers, (numbers[0]..300).collect::<Vec<_>>());
        let deletes = follower
            .seen
            .iter()
            .filter(|event| matches!(event, Event::Delete { .. }))
            .count();
        assert_eq!(deletes, 6);
    }
}

/// A leader goes and comes back, while several swap, one keeps a lease, and one has stopped to.
pub async fn a_leader_goes(url: &str, options: &Options, go: impl AsyncFn(), back: impl AsyncFn()) {
    let store = open(url, options).await.unwrap();
    let ttl = store.capabilities().min_ttl;
    let node = NodeId::from_u128(1);
    let sign = LiveRecord {
        node,
        incarnation: Incarnation::from_u128(1),
        clock: Timestamp::now(),
        condition: NodeCondition::Ok,
        since: Timestamp::now(),
        swarm_node: String::new(),
        extra: Extra::new(),
    };
    // Long enough to outlive an election, as a node's lease must be.
    let beat = Heartbeat::start(Arc::clone(&store), sign, ttl.max(Duration::from_secs(6)), None)
        .await
        .unwrap();
    let mut pulse = beat.pulse();
    let left = store.grant(ttl).await.unwrap();
    store
        .commit(Txn::new().put_leased("left", "1", &left.id))
        .await
        .unwrap();
    let abandoned = Instant::now();

    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let (store, stop) = (open(url, options).await.unwrap(), Arc::clone(&stop));
        tasks.push(tokio::spawn(async move {
            let (mut made, mut unknown) = (0u64, 0u64);
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let Ok(entry) = store.get("counter").await else {
                    continue;
                };
                let count: u64 = entry
                    .as_ref()
                    .map_or(0, |e| std::str::from_utf8(&e.value).unwrap().parse().unwrap());
                let expect = entry.map_or(Expect::Absent, |e| Expect::At(e.revision));
                match store
                    .swap("counter", expect, Bytes::from((count + 1).to_string()))
                    .await
                {
                    Ok(_) => made += 1,
                    Err(StoreError::OutcomeUnknown { .. }) => unknown += 1,
                    Err(_) => {}
                }
                longest = longest.max(begin.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (made, unknown, longest)
        }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    go().await;
    let gone = Instant::now();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let outage = until(Duration::from_secs(30), "a new leader", async || {
        store.commit(Txn::new().put("probe", "1")).await.is_ok()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    back().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut made, mut unknown, mut longest) = (0, 0, Duration::ZERO);
    for task in tasks {
        let (m, u, l) = task.await.unwrap();
        (made, unknown, longest) = (made + m, unknown + u, longest.max(l));
    }
    let entry = store.get("counter").await.unwrap().unwrap();
    let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
    assert!(
        (made..=made + unknown).contains(&count),
        "{made} made, {unknown} unknown, counted {count}"
    );
    assert!(made > 20, "only {made} made");
    // Two calls, each of which may take its whole deadline.
    assert!(
        longest < options.deadline * 2 + Duration::from_secs(1),
        "a step took {longest:?}"
    );
    println!(
        "{url}: {made} swaps, {unknown} unknown, writes again after {outage:?}, longest step {longest:?}"
    );

    // The one that was kept alive all the while is there; the other one has gone in its time.
    assert!(
        pulse.borrow_and_update().is_alive(),
        "{:?} after {:?}",
        pulse.borrow(),
        gone.elapsed()
    );
    assert!(matches!(*pulse.borrow(), Pulse::Until(_)));
    assert!(store.get(&live_key(node)).await.unwrap().is_some());
    let bound = ttl * store.capabilities().expiry_factor + outage + Duration::from_secs(8);
    until(
        bound.saturating_sub(abandoned.elapsed()) + Duration::from_secs(5),
        "the end of the other lease",
        async || store.get("left").await.is_ok_and(|entry| entry.is_none()),
    )
    .await;
    beat.stop().await;
}

/// Refused, silent, back again: each call ends within its deadline and says what is known.
pub async fn away_is_told(url: &str, options: &Options, proxy: &Proxy) {
    let store = open(url, options).await.unwrap();
    let slack = options.deadline + Duration::from_millis(700);
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    for mode in [Mode::Refuse, Mode::Silence] {
        proxy.set(mode);
        let mut since = None;
        for _ in 0..3 {
            let begin = Instant::now();
            let error = store.get("a").await.unwrap_err();
            assert!(
                matches!(error, StoreError::Unreachable { .. } | StoreError::Timeout { .. }),
                "{mode:?}: {error}"
            );
            assert!(begin.elapsed() < slack, "{mode:?}: {:?}", begin.elapsed());
            since = since.or(store.access().away().map(|(since, _)| since));
        }
        let begin = Instant::now();
        let error = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
        assert!(error.is_transient(), "{mode:?}: {error}");
        assert!(store.grant(Duration::from_secs(10)).await.is_err());
        assert!(store.list("").await.is_err());
        assert!(begin.elapsed() < slack * 3, "{mode:?}: {:?}", begin.elapsed());
        let away = store.access().away().map(|(since, _)| since);
        assert_eq!(away, since, "away since the beginning, not since the last try");
        let mut watcher = Watcher::new(Arc::clone(&store), "");
        let update = within(slack * 2, "the outage", watcher.next()).await;
        assert!(
            matches!(update, bulkhead_cluster::store::Update::Away { .. }),
            "{update:?}"
        );
        proxy.set(Mode::Pass);
        proxy.cut();
        until(Duration::from_secs(10), "the store to be back", async || {
            store.get("a").await.is_ok()
        })
        .await;
        assert!(store.access().away().is_none());
        let update = within(Duration::from_secs(10), "the listing", watcher.next()).await;
        assert!(
            matches!(update, bulkhead_cluster::store::Update::Changed { .. }),
            "{update:?}"
        );
    }
    // A change while nothing gets through: it did not happen, or its outcome is unknown; never "failed".
    proxy.set(Mode::LoseAnswers);
    let error = store.commit(Txn::new().put("a", "3")).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::OutcomeUnknown { .. } | StoreError::Unreachable { .. }
        ),
        "{error}"
    );
    proxy.set(Mode::Pass);
    proxy.cut();
}

/// A node's catalogue sees what another one does, usually well within a second, answers while the store is away, and catches up.
pub async fn a_catalogue_follows(far: Arc<dyn Store>, near: Arc<dyn Store>, proxies: &[Proxy]) {
    let node = NodeId::from_u128(1);
    let place = Placed {
        node,
        pool: PoolId::from_u128(2),
    };
    let volumes = Volumes::new(near);
    let catalogue = Catalogue::start(far, None).await;
    let make = async |name: &str| {
        let new = NewVolume::new(name, VolumeSpec::new(1 << 30), &[place], node).unwrap();
        volumes.begin_create(&new).await.unwrap();
        Instant::now()
    };
    let sees = |name: &str| catalogue.read(|contents| contents.by_name(name).is_some());
    let first = make("v0").await;
    until(Duration::from_secs(10), "the first volume", async || sees("v0")).await;
    println!("a catalogue started and saw a volume after {:?}", first.elapsed());
    let mut delays = Vec::new();
    for n in 1..20 {
        let name = format!("v{n}");
        let made = make(&name).await;
        until(
            Duration::from_secs(10),
            "a volume that another node made",
            async || sees(&name),
        )
        .await;
        delays.push(made.elapsed());
    }
    delays.sort_unstable();
    println!(
        "a volume was seen after {:?} (median), {:?} (longest)",
        delays[9], delays[18]
    );
    proxies.iter().for_each(|proxy| proxy.set(Mode::Refuse));
    until(Duration::from_secs(10), "the outage to be noticed", async || {
        catalogue.freshness().away.is_some()
    })
    .await;
    make("while away").await;
    volumes.begin_delete("v3", node).await.unwrap();
    assert!(sees("v3") && !sees("while away"), "it answers as of before");
    assert!(
        catalogue
            .freshness()
            .warning()
            .is_some_and(|warning| warning.contains("cannot be reached since"))
    );
    proxies.iter().for_each(|proxy| proxy.set(Mode::Pass));
    until(Duration::from_secs(10), "what was missed", async || {
        sees("while away") && !sees("v3")
    })
    .await;
    assert_eq!(catalogue.freshness().warning(), None);
    assert_eq!(
        catalogue.read(|contents| (contents.named().count(), contents.volumes().count())),
        (20, 21)
    );
}
