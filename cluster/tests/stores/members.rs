//! What the stores tell of their servers: all of them, which one leads, and which one is gone.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::store::{Member, Options, Store, open};

use crate::servers::{ConsulCluster, EtcdCluster};
use crate::support::until;

async fn store(url: &str) -> Arc<dyn Store> {
    let options = Options {
        prefix: "bulkhead/test/members/".to_owned(),
        ..Options::default()
    };
    open(url, &options).await.unwrap()
}

/// Three of which one leads, all well; then one is lost, which is no news to the others.
async fn all_and_then_one_less(store: &dyn Store, leader: usize, lose: impl AsyncFnOnce(usize)) {
    let names =
        |members: &[Member]| -> Vec<String> { members.iter().map(|member| member.name.clone()).collect() };
    let members = store.members().await.unwrap();
    assert_eq!(names(&members), ["m0", "m1", "m2"]);
    for (n, member) in members.iter().enumerate() {
        assert_eq!(member.leader, n == leader, "{members:?}");
        assert!(
            member.trouble.is_none() && !member.address.is_empty(),
            "{member:?}"
        );
        assert!(
            member
                .version
                .as_ref()
                .is_some_and(|version| version.contains('.'))
        );
    }
    assert!(store.access().answering().is_some());

    let gone = (leader + 1) % 3;
    lose(gone).await;
    until(Duration::from_secs(60), "the loss to be seen", async || {
        let members = store.members().await.unwrap();
        assert_eq!(names(&members).len(), 3);
        let troubled: Vec<usize> = (0..3).filter(|n| members[*n].trouble.is_some()).collect();
        assert!(troubled.is_empty() || troubled == [gone], "{members:?}");
        !troubled.is_empty()
    })
    .await;
    assert!(
        store.access().away().is_none(),
        "a member less is no outage of the store"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_etcd() {
    let cluster = EtcdCluster::start(3).await;
    let leader = cluster.leader().await;
    let store = store(&cluster.url()).await;
    all_and_then_one_less(&*store, leader, async |gone| cluster.servers[gone].kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_consul() {
    let cluster = ConsulCluster::start(3).await;
    let leader = cluster.leader().await;
    let store = store(&cluster.url()).await;
    all_and_then_one_less(&*store, leader, async |gone| cluster.servers[gone].kill()).await;
}
