//! Consul: the suites on a cluster of three, and servers that are killed, paused and cut off.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_cluster::store::{Expect, Options, Revision, Secret, Store, StoreError, Txn, open};

use crate::conformance::{Subject, suite};
use crate::faults;
use crate::proxy::Proxy;
use crate::servers::ConsulCluster;
use crate::support::until;

fn with_prefix(prefix: &str) -> Options {
    Options {
        prefix: format!("bulkhead/test/{prefix}"),
        ..Options::default()
    }
}

/// A cluster that tests share while any of them runs; each has prefixes of its own.
struct Shared(Arc<ConsulCluster>);

impl Shared {
    async fn get() -> Self {
        static SHARED: tokio::sync::Mutex<Weak<ConsulCluster>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(cluster) = shared.upgrade() {
            return Self(cluster);
        }
        let cluster = Arc::new(ConsulCluster::start(3).await);
        *shared = Arc::downgrade(&cluster);
        Self(cluster)
    }
}

#[async_trait]
impl Subject for Shared {
    async fn open(&self, prefix: &str) -> Arc<dyn Store> {
        open(&self.0.url(), &with_prefix(prefix)).await.unwrap()
    }

    /// Consul keeps no history that could be forgotten.
    async fn compact(&self, _upto: Revision) {}
}

mod suite_on_three_servers {
    use super::*;

    suite!(Shared::get().await);
    crate::volumes::volume_suite!(Shared::get().await);
    crate::nodes::node_suite!(Shared::get().await);
}

/// The URL of a cluster behind proxies, one a server.
async fn behind_proxies(cluster: &ConsulCluster) -> (Vec<Proxy>, String) {
    let mut proxies = Vec::new();
    for port in &cluster.clients {
        proxies.push(Proxy::to(*port).await);
    }
    let hosts: Vec<String> = proxies
        .iter()
        .map(|proxy| format!("127.0.0.1:{}", proxy.port))
        .collect();
    (proxies, format!("consul://{}", hosts.join(",")))
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
    let cluster = ConsulCluster::start(3).await;
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
    let cluster = ConsulCluster::start(1).await;
    let proxy = Proxy::to(cluster.clients[0]).await;
    let options = Options {
        deadline: Duration::from_secs(1),
        ..with_prefix("away/")
    };
    let url = format!("consul://127.0.0.1:{}", proxy.port);
    faults::away_is_told(&url, &options, &proxy).await;
    let begin = Instant::now();
    let nowhere = open("consul://127.0.0.1:1", &options).await.unwrap();
    let error = nowhere.commit(Txn::new().put("a", "1")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_does_not_answer() {
    let cluster = ConsulCluster::start(3).await;
    let options = with_prefix("minority/");
    let store = open(&cluster.url(), &options).await.unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let alone = open(&format!("consul://127.0.0.1:{}", cluster.clients[0]), &options)
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
    let error = alone.commit(Txn::new().put("a", "2")).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(begin.elapsed() < options.deadline * 2 + Duration::from_secs(1));
    cluster.servers[1].restart();
    cluster.servers[2].restart();
    until(Duration::from_secs(30), "the store to be back", async || {
        store.get("a").await.is_ok()
    })
    .await;
}

/// Consul takes a write of the same value for no change at all; two who swap to it would both win.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_value_twice_has_one_winner() {
    let cluster = Shared::get().await;
    let store = cluster.open("same/").await;
    let first = store.swap("k", Expect::Absent, "x".into()).await.unwrap();
    let second = store.swap("k", Expect::At(first), "x".into()).await.unwrap();
    assert!(second > first);
    assert!(
        store
            .swap("k", Expect::At(first), "x".into())
            .await
            .unwrap_err()
            .is_conflict()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acl_token() {
    let token = "b1946ac9-2492-4d23-91b5-aaaaaaaaaaaa";
    let more = serde_json::json!({
        "acl": { "enabled": true, "default_policy": "deny", "tokens": { "master": token, "agent": token } },
    });
    let cluster = ConsulCluster::start_with(1, &more);
    let known = Options {
        token: Some(Secret::new(token)),
        ..with_prefix("acl/")
    };
    let store = open(&cluster.url(), &known).await.unwrap();
    until(Duration::from_secs(30), "Consul", async || {
        store.commit(Txn::new().put("a", "1")).await.is_ok()
    })
    .await;
    let wrong = Options {
        token: Some(Secret::new("b1946ac9-2492-4d23-91b5-bbbbbbbbbbbb")),
        ..with_prefix("acl/")
    };
    for options in [wrong, with_prefix("acl/")] {
        let store = open(&cluster.url(), &options).await.unwrap();
        let error = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        assert!(!error.to_string().contains("bbbbbbbbbbbb"), "{error}");
    }
    assert_eq!(&store.get("a").await.unwrap().unwrap().value[..], b"1");
}
