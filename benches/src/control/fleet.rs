//! Simulated nodes: each has an identity, a connection of its own to the store, a sign of life, a pool and a catalogue,
//! as a daemon has. What it lacks is a disk: it makes no replicas.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bulkhead_cluster::catalogue::Catalogue;
use bulkhead_cluster::nodes::{Heartbeat, Joining, Nodes};
use bulkhead_cluster::schema::{
    Extra, IoPriority, LiveRecord, Medium, NodeCondition, PoolRecord, PoolState, Timestamp,
};
use bulkhead_cluster::store::{self, Options, Revision, Store};
use bulkhead_cluster::volumes::{Placed, Volumes};
use bulkhead_engine::ids::{Incarnation, NodeId, PoolId};
use futures::stream::{StreamExt, TryStreamExt, iter};
use uuid::Uuid;

/// The cluster's name; the store's prefix follows from it as in the daemon.
pub const CLUSTER: &str = "bench";
/// The lease of a node: the default of the daemon.
pub const TTL: Duration = Duration::from_secs(10);
/// Nodes that are started at a time.
const AT_ONCE: usize = 4;
/// How long one node may take until it holds all records; a machine with few processors does this for all nodes.
const FILLED: Duration = Duration::from_secs(120);

/// One node.
pub struct SimNode {
    /// Its identity.
    pub id: NodeId,
    /// Its pool, as a place for replicas.
    pub place: Placed,
    /// The volumes, through this node's own connection.
    pub volumes: Volumes,
    /// Its copy of the records, once it follows.
    pub catalogue: Option<Arc<Catalogue>>,
    store: Arc<dyn Store>,
    heartbeat: Heartbeat,
}

impl SimNode {
    async fn join(url: &str, number: usize) -> anyhow::Result<Self> {
        let store = store::open(url, &options()).await?;
        let id = NodeId::from(Uuid::new_v4());
        let nodes = Nodes::new(store.clone());
        let me = Joining {
            cluster_name: CLUSTER.to_owned(),
            cluster: None,
            node: id,
            name: format!("node-{number:04}"),
            data_address: format!("10.0.{}.{}:7481", number / 250, number % 250 + 1),
            management_address: String::new(),
            labels: [
                ("zone".to_owned(), format!("z{}", number % 3)),
                ("rack".to_owned(), format!("r{}", number % 30)),
            ]
            .into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: Timestamp::now(),
        };
        nodes.join(&me).await?;
        let pool = PoolRecord {
            id: PoolId::from(Uuid::new_v4()),
            node: id,
            medium: Medium::default(),
            priority: IoPriority::High,
            capacity: 1 << 50,
            free: 1 << 50,
            overcommit_percent: 200,
            state: PoolState::Ok,
            extra: Extra::new(),
        };
        nodes.publish_pool(&pool).await?;
        let live = LiveRecord {
            node: id,
            incarnation: Incarnation::from(Uuid::new_v4()),
            clock: Timestamp::now(),
            condition: NodeCondition::Ok,
            since: Timestamp::now(),
            swarm_node: String::new(),
            extra: Extra::new(),
        };
        let heartbeat = Heartbeat::start(store.clone(), live, TTL, None).await?;
        Ok(Self {
            id,
            place: Placed {
                node: id,
                pool: pool.id,
            },
            volumes: Volumes::new(store.clone()),
            catalogue: None,
            store,
            heartbeat,
        })
    }

    async fn follow(&mut self, file: Option<PathBuf>) -> anyhow::Result<()> {
        let catalogue = Catalogue::start(self.store.clone(), file).await;
        ensure!(
            catalogue.filled(FILLED).await,
            "a node did not get all records within {FILLED:?}"
        );
        self.catalogue = Some(Arc::new(catalogue));
        Ok(())
    }
}

/// The options with which every node opens the store.
fn options() -> Options {
    Options {
        prefix: format!("bulkhead/{CLUSTER}/"),
        ..Options::default()
    }
}

/// All nodes.
pub struct Fleet {
    /// They.
    pub nodes: Vec<SimNode>,
}

impl Fleet {
    /// So many nodes that have joined and live, and do not follow the records yet.
    pub async fn join(url: &str, count: usize) -> anyhow::Result<Self> {
        // The first one makes the cluster.
        let first = SimNode::join(url, 0).await.context("the first node")?;
        let mut nodes = vec![first];
        let others: Vec<SimNode> = iter(1..count)
            .map(|number| async move {
                SimNode::join(url, number)
                    .await
                    .with_context(|| format!("node {number}"))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        nodes.extend(others);
        Ok(Self { nodes })
    }

    /// Lets the first so many nodes follow the records. The first one keeps its copy in a file, as a daemon does; if
    /// all of them did, one disk would take what a whole cluster's disks take.
    pub async fn follow(&mut self, count: usize, file: &std::path::Path) -> anyhow::Result<()> {
        let newcomers = self.nodes.iter_mut().take(count).enumerate();
        let newcomers = newcomers.filter(|(_, node)| node.catalogue.is_none());
        iter(newcomers)
            .map(|(number, node)| node.follow((number == 0).then(|| file.to_owned())))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    /// Those that follow.
    pub fn catalogues(&self) -> impl Iterator<Item = &Catalogue> {
        self.nodes.iter().filter_map(|node| node.catalogue.as_deref())
    }

    /// Waits until all that follow have seen a revision. Whether they all did.
    pub async fn caught_up(&self, revision: Revision, limit: Duration) -> bool {
        let arrived = self
            .catalogues()
            .map(|catalogue| catalogue.caught_up(revision, limit));
        futures::future::join_all(arrived)
            .await
            .into_iter()
            .all(|arrived| arrived)
    }

    /// Nodes whose sign of life has failed: then the figures are those of a cluster that is falling apart.
    pub fn dead(&self) -> usize {
        let alive = |node: &&SimNode| !node.heartbeat.pulse().borrow().is_alive();
        self.nodes.iter().filter(alive).count()
    }
}
