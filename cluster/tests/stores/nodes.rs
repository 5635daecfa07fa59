//! Nodes join, are refused with a reason, live and die: on every store. `node_suite!` makes tests of the checks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::nodes::{Heartbeat, Joining, NodeError, NodeStatus, Nodes};
use bulkhead_cluster::schema::{
    Extra, IoPriority, LiveRecord, Medium, NodeCondition, NodeDuty, PoolRecord, PoolState, Timestamp,
    live_key,
};
use bulkhead_engine::ids::{Incarnation, NodeId, PoolId};

use crate::conformance::Subject;
use crate::support::until;

/// Makes a test of each check, with a subject that an async expression gives.
macro_rules! node_suite {
    ($subject:expr) => {
        $crate::nodes::node_suite!($subject; one_node_joins, more_nodes_join_or_are_told_why_not);
    };
    ($subject:expr; $($check:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let subject = $subject;
                $crate::nodes::$check(&subject).await;
            }
        )*
    };
}
pub(crate) use node_suite;

fn joining(id: u128, name: &str) -> Joining {
    Joining {
        cluster_name: "c1".to_owned(),
        cluster: None,
        node: NodeId::from_u128(id),
        name: name.to_owned(),
        data_address: format!("10.0.0.{id}:7000"),
        management_address: format!("10.0.0.{id}:7001"),
        labels: BTreeMap::new(),
        version: "0.1.0".to_owned(),
        clock: Timestamp::now(),
    }
}

fn sign(id: u128, incarnation: u128) -> LiveRecord {
    LiveRecord {
        node: NodeId::from_u128(id),
        incarnation: Incarnation::from_u128(incarnation),
        clock: Timestamp::now(),
        condition: NodeCondition::Init,
        since: Timestamp::now(),
        swarm_node: String::new(),
        extra: Extra::new(),
    }
}

async fn refused(nodes: &Nodes, me: &Joining, words: &str) {
    match nodes.join(me).await {
        Err(NodeError::Refused { reason, .. }) => assert!(reason.contains(words), "{reason}"),
        other => panic!("{words}: {other:?}"),
    }
}

pub async fn one_node_joins(subject: &dyn Subject) {
    let store = subject.open("onenode/").await;
    let nodes = Nodes::new(Arc::clone(&store));
    let (cluster, node) = nodes.join(&joining(1, "n1")).await.unwrap();
    // Again after a restart, with what its disk knows by now; labels that an operator set stay.
    nodes
        .update(node.id, |node| {
            drop(node.labels.insert("zone".to_owned(), "a".to_owned()));
            node.leaving_pools.insert(PoolId::from_u128(7));
        })
        .await
        .unwrap();
    let again = Joining {
        cluster: Some(cluster.id),
        version: "0.2.0".to_owned(),
        labels: [("rack".to_owned(), "r1".to_owned())].into(),
        ..joining(1, "n1")
    };
    let (same, node) = nodes.join(&again).await.unwrap();
    assert_eq!(
        (same.id, node.version.as_str(), node.labels.len()),
        (cluster.id, "0.2.0", 2)
    );
    assert!(
        node.leaving_pools.contains(&PoolId::from_u128(7)),
        "a pool that is being emptied is so still"
    );
    // Under another name: the old one is free, the record one and the same.
    nodes
        .join(&Joining {
            name: "renamed".to_owned(),
            ..again.clone()
        })
        .await
        .unwrap();
    nodes.join(&again).await.unwrap();
    assert_eq!(nodes.find("n1").await.unwrap().id, node.id);
    assert_eq!(nodes.find(&node.id.to_string()).await.unwrap().name, "n1");
    assert!(matches!(nodes.find("renamed").await, Err(NodeError::NoSuch(_))));
    refused(
        &nodes,
        &Joining {
            cluster_name: "c2".to_owned(),
            ..again.clone()
        },
        "named `c1`",
    )
    .await;
    let foreign = Joining {
        cluster: Some("00000000-0000-0000-0000-000000000001".parse().unwrap()),
        ..again.clone()
    };
    refused(&nodes, &foreign, "another cluster").await;
    let empty = Nodes::new(subject.open("onenode-empty/").await);
    refused(&empty, &again, "the store is empty").await;

    let pool = PoolRecord {
        id: PoolId::from_u128(5),
        node: node.id,
        medium: Medium::Unknown,
        priority: IoPriority::Medium,
        capacity: 10 << 30,
        free: 9 << 30,
        overcommit_percent: 100,
        state: PoolState::Ok,
        extra: Extra::new(),
    };
    nodes.publish_pool(&pool).await.unwrap();
    let (_, before) = store.list("pools/").await.unwrap();
    nodes.publish_pool(&pool).await.unwrap();
    let (_, after) = store.list("pools/").await.unwrap();
    assert_eq!(before, after, "nothing new, nothing written");
    assert_eq!(nodes.pools().await.unwrap(), [pool]);
    nodes
        .update(node.id, |node| node.duty = NodeDuty::Decommissioned)
        .await
        .unwrap();
    refused(&nodes, &again, "decommissioned").await;
    nodes.remove(node.id).await.unwrap();
    let left: Vec<_> = store
        .list("")
        .await
        .unwrap()
        .0
        .into_iter()
        .map(|entry| entry.key)
        .collect();
    assert_eq!(left, ["cluster"]);
}

pub async fn more_nodes_join_or_are_told_why_not(subject: &dyn Subject) {
    let store = subject.open("nodes/").await;
    let nodes = Nodes::new(Arc::clone(&store));
    nodes.join(&joining(1, "n1")).await.unwrap();
    if !store.capabilities().arbitrates {
        refused(&nodes, &joining(2, "n2"), "belongs to node `n1` alone").await;
        return;
    }
    refused(&nodes, &joining(2, "n1"), "give this one another name").await;
    let mut tasks = Vec::new();
    for id in 2..=6 {
        let nodes = Nodes::new(subject.open("nodes/").await);
        // Two of each name: one of them gets it.
        tasks.push(tokio::spawn(async move {
            nodes.join(&joining(id, &format!("m{}", id / 2))).await
        }));
    }
    let mut joined = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => joined += 1,
            Err(NodeError::Refused { reason, .. }) => assert!(reason.contains("another name"), "{reason}"),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((joined, nodes.list().await.unwrap().len()), (3, 4));
    let beat = Heartbeat::start(Arc::clone(&store), sign(1, 1), Duration::from_secs(10), None)
        .await
        .unwrap();
    let late = Timestamp(Timestamp::now().0 - 3_600_000);
    refused(
        &nodes,
        &Joining {
            clock: late,
            ..joining(9, "n9")
        },
        "set the clocks",
    )
    .await;
    let early = Timestamp(Timestamp::now().0 + 3_600_000);
    refused(
        &nodes,
        &Joining {
            clock: early,
            ..joining(9, "n9")
        },
        "set the clocks",
    )
    .await;
    refused(
        &nodes,
        &Joining {
            version: "0.9.0".to_owned(),
            ..joining(9, "n9")
        },
        "too far apart",
    )
    .await;
    nodes.join(&joining(9, "n9")).await.unwrap();
    beat.stop().await;
}

pub async fn signs_of_life(subject: &dyn Subject) {
    let store = subject.open("signs/").await;
    let nodes = Nodes::new(Arc::clone(&store));
    nodes.join(&joining(1, "n1")).await.unwrap();
    let status = async || nodes.list().await.unwrap()[0].status();
    assert_eq!(status().await, NodeStatus::Offline);
    let ttl = store.capabilities().min_ttl.max(Duration::from_secs(2));
    let beat = Heartbeat::start(Arc::clone(&store), sign(1, 1), ttl, None)
        .await
        .unwrap();
    assert!(beat.pulse().borrow().is_alive());
    assert_eq!(status().await, NodeStatus::Init);
    beat.set_condition(NodeCondition::Ok);
    until(Duration::from_secs(5), "the condition", async || {
        status().await == NodeStatus::Ok
    })
    .await;
    // It lives longer than one lease.
    let begin = Instant::now();
    while begin.elapsed() < ttl * (store.capabilities().expiry_factor + 1) {
        assert_eq!(status().await, NodeStatus::Ok);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A copy of its disk on another machine is refused; its own next run is not.
    let copy = Heartbeat::start(Arc::clone(&store), sign(1, 2), ttl, None).await;
    assert!(matches!(copy, Err(NodeError::Twin(_))), "{copy:?}");
    let next = Heartbeat::start(
        Arc::clone(&store),
        sign(1, 3),
        ttl,
        Some(Incarnation::from_u128(1)),
    )
    .await
    .unwrap();
    beat.stop().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(
        store
            .get(&live_key(NodeId::from_u128(1)))
            .await
            .unwrap()
            .is_some(),
        "the old run took the new one with it"
    );
    nodes
        .update(NodeId::from_u128(1), |node| node.duty = NodeDuty::Maintenance)
        .await
        .unwrap();
    assert_eq!(status().await, NodeStatus::Maintenance);
    next.stop().await;
    assert_eq!(status().await, NodeStatus::Offline);
}
