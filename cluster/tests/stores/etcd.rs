//! etcd: the suites on a cluster of three, and members that are killed, paused and cut off.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_cluster::store::{Event, Options, Revision, Store, StoreError, Txn, Update, Watcher, open};
use futures::stream::{StreamExt, iter};

use crate::conformance::{Subject, suite};
use crate::faults;
use crate::proxy::Proxy;
use crate::servers::EtcdCluster;
use crate::support::within;

fn with_prefix(prefix: &str) -> Options {
    Options {
        prefix: format!("bulkhead/test/{prefix}"),
        ..Options::default()
    }
}

/// A cluster that tests share while any of them runs; each has prefixes of its own.
struct Shared(Arc<EtcdCluster>);

impl Shared {
    async fn get() -> Self {
        static SHARED: tokio::sync::Mutex<Weak<EtcdCluster>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(cluster) = shared.upgrade() {
            return Self(cluster);
        }
        let cluster = Arc::new(EtcdCluster::start(3).await);
        *shared = Arc::downgrade(&cluster);
        Self(cluster)
    }
}

#[async_trait]
impl Subject for Shared {
    async fn open(&self, prefix: &str) -> Arc<dyn Store> {
        open(&self.0.url(), &with_prefix(prefix)).await.unwrap()
    }

    async fn compact(&self, upto: Revision) {
        let mut client = self.0.client(0).await;
        client.compact(upto.0 as i64, None).await.unwrap();
    }
}

mod suite_on_three_members {
    use super::*;

    suite!(Shared::get().await);
    crate::volumes::volume_suite!(Shared::get().await);
    crate::nodes::node_suite!(Shared::get().await);
}

/// The URL of a cluster behind proxies, one a member.
async fn behind_proxies(cluster: &EtcdCluster) -> (Vec<Proxy>, String) {
    let mut proxies = Vec::new();
    for port in &cluster.clients {
        proxies.push(Proxy::to(*port).await);
    }
    let hosts: Vec<String> = proxies
        .iter()
        .map(|proxy| format!("127.0.0.1:{}", proxy.port))
        .collect();
    (proxies, format!("etcd://{}", hosts.join(",")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_lost_on_the_way_change_nothing_twice() {
    let cluster = Shared::get().await;
    let (proxies, url) = behind_proxies(&cluster.0).await;
    let options = Options {
        deadline: Duration::from_secs(1),
        ..with_prefix("lost/")
    };
    let far = open(&url, &options).await.unwrap();
    let near = cluster.open("lost/").await;
    faults::answers_lost_on_the_way(far, near, &proxies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_without_a_gap() {
    let cluster = Shared::get().await;
    let (proxies, url) = behind_proxies(&cluster.0).await;
    let options = Options {
        deadline: Duration::from_secs(1),
        ..with_prefix("gapless/")
    };
    let far = open(&url, &options).await.unwrap();
    let near = cluster.open("gapless/").await;
    faults::a_watch_resumes(far, near, &proxies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalogue_follows() {
    let cluster = Shared::get().await;
    let (proxies, url) = behind_proxies(&cluster.0).await;
    let far = open(&url, &with_prefix("catalogue/")).await.unwrap();
    let near = cluster.open("catalogue/").await;
    faults::a_catalogue_follows(far, near, &proxies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_and_leases_survive_a_change_of_leader() {
    let cluster = EtcdCluster::start(3).await;
    let url = cluster.url();
    let first = cluster.leader().await;
    faults::a_leader_goes(
        &url,
        &with_prefix("leader/"),
        async || cluster.servers[first].kill(),
        async || {
            cluster.servers[first].restart();
            cluster.ready().await;
        },
    )
    .await;
    let second = cluster.leader().await;
    faults::a_leader_goes(
        &url,
        &with_prefix("paused/"),
        async || cluster.servers[second].pause(),
        async || cluster.servers[second].resume(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_told_within_the_deadline() {
    let cluster = EtcdCluster::start(1).await;
    let proxy = Proxy::to(cluster.clients[0]).await;
    let options = Options {
        deadline: Duration::from_secs(1),
        ..with_prefix("away/")
    };
    let url = format!("etcd://127.0.0.1:{}", proxy.port);
    faults::away_is_told(&url, &options, &proxy).await;
    // One that was never there: opening does not wait, and what is asked is refused with the reason.
    let begin = Instant::now();
    let nowhere = open("etcd://127.0.0.1:1", &options).await.unwrap();
    let error = nowhere.commit(Txn::new().put("a", "1")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_does_not_answer_and_is_passed_over() {
    let cluster = EtcdCluster::start(3).await;
    let options = with_prefix("minority/");
    let store = open(&cluster.url(), &options).await.unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let alone = open(&format!("etcd://127.0.0.1:{}", cluster.clients[0]), &options)
        .await
        .unwrap();
    cluster.servers[1].kill();
    cluster.servers[2].kill();
    let begin = Instant::now();
    let error = alone.get("a").await.unwrap_err();
    assert!(
        matches!(error, StoreError::Unreachable { .. } | StoreError::Timeout { .. }),
        "{error}"
    );
    assert!(alone.commit(Txn::new().put("a", "2")).await.is_err());
    assert!(begin.elapsed() < options.deadline * 2 + Duration::from_secs(1));
    cluster.servers[1].restart();
    cluster.servers[2].restart();
    cluster.ready().await;
    crate::support::until(Duration::from_secs(15), "the store to be back", async || {
        store.get("a").await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_and_password() {
    let cluster = EtcdCluster::start(1).await;
    let mut client = cluster.client(0).await;
    client.user_add("root", "geheim", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let known = Options {
        user: Some("root".to_owned()),
        password: Some(bulkhead_cluster::store::Secret::new("geheim")),
        ..with_prefix("auth/")
    };
    let store = open(&cluster.url(), &known).await.unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let wrong = Options {
        password: Some(bulkhead_cluster::store::Secret::new("falsch")),
        ..known
    };
    for options in [wrong, with_prefix("auth/")] {
        let store = open(&cluster.url(), &options).await.unwrap();
        let error = store.get("a").await.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        assert!(!error.to_string().contains("falsch"));
        let error = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_comes_in_batches_and_whole() {
    const CHANGES: usize = 600;
    let cluster = Shared::get().await;
    let store = cluster.open("burst/").await;
    let mut watcher = Watcher::new(store.clone(), "");
    // The first one holds all there is.
    assert!(matches!(watcher.next().await, Update::Changed { .. }));
    let writers = (0..CHANGES).map(move |number| {
        let store = store.clone();
        async move {
            store
                .commit(Txn::new().put(format!("k{number}"), "v"))
                .await
                .unwrap()
        }
    });
    let writing = tokio::spawn(iter(writers).buffered(4).collect::<Vec<Revision>>());
    let (mut told, mut batches) = (Vec::new(), 0);
    within(Duration::from_secs(60), "a burst is seen", async {
        while told.len() < CHANGES {
            if let Update::Changed { events, .. } = watcher.next().await {
                batches += 1;
                told.extend(events.iter().map(Event::revision));
            }
        }
    })
    .await;
    let mut written = writing.await.unwrap();
    written.sort_unstable();
    assert_eq!(told, written, "in order, each once");
    assert!(batches < CHANGES / 4, "{CHANGES} changes in {batches} batches");
    println!("{CHANGES} changes in {batches} batches");
}
