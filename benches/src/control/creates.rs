//! Volumes that are made: all changes of the record that the daemon makes for a new volume, in its order, and nothing
//! on a disk.

use std::time::{Duration, Instant};

use anyhow::Context;
use bulkhead_cluster::placement;
use bulkhead_cluster::schema::{Replica, VolumeSpec};
use bulkhead_cluster::store::Revision;
use bulkhead_cluster::volumes::{NewVolume, Placed, Volumes};
use bulkhead_engine::ids::NodeId;
use futures::stream::{StreamExt, TryStreamExt, iter};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::fleet::{Fleet, SimNode};

/// Volumes that are made at a time while the store is filled.
const AT_ONCE: usize = 64;

/// One volume that was made.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// When it was asked for.
    pub asked: Instant,
    /// When the creator had its answer.
    pub answered: Instant,
    /// At which revision it became ready.
    pub revision: Revision,
}

/// A spec as people have them.
fn spec() -> VolumeSpec {
    let mut spec = VolumeSpec::new(10 << 30);
    spec.repl = 2;
    spec.labels = [
        ("com.example.app", "shop"),
        ("com.example.tier", "database"),
        ("owner", "team-payments"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    spec
}

/// What a volume's record goes through: made, with the creator's own replica there already; reported by each other node that
/// has a replica, which knows the record by its watch; ready.
async fn create(
    volumes: &Volumes,
    name: &str,
    places: &[Placed],
    creator: NodeId,
) -> anyhow::Result<Revision> {
    let new = NewVolume::new(name, spec(), places, creator)?.made_on(creator);
    let begun = volumes.begin_create(&new).await?;
    let mut known = begun.volume().clone();
    let others: Vec<Replica> = known
        .replicas
        .iter()
        .filter(|replica| replica.node != creator)
        .cloned()
        .collect();
    for replica in others {
        let reported = volumes.replicas_made(&known, replica.node, &[replica.id]).await?;
        known = reported.context("it is gone")?;
    }
    Ok(volumes.finish_create(&known).await?.revision)
}

/// Fills the store with volumes, as fast as it goes. The replicas are spread evenly; placement is not asked, since
/// nobody follows the records yet.
pub async fn fill(fleet: &Fleet, count: usize) -> anyhow::Result<()> {
    let nodes = &fleet.nodes;
    iter(0..count)
        .map(|number| async move {
            let creator = &nodes[number % nodes.len()];
            let second = &nodes[(number + 1) % nodes.len()];
            create(
                &creator.volumes,
                &format!("volume-{number:06}"),
                &[creator.place, second.place],
                creator.id,
            )
            .await
            .with_context(|| format!("volume {number}"))
            .map(drop)
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// Makes volumes at a rate, whether or not the earlier ones are done, each on the next node of those that follow.
/// `label` makes the names differ from those of other storms. Gives those that were made, in the order of their
/// revisions, and why others were not.
pub async fn storm(
    fleet: &Fleet,
    label: &str,
    per_second: u32,
    duration: Duration,
) -> anyhow::Result<(Vec<Created>, Vec<anyhow::Error>)> {
    let followers: Vec<&SimNode> = fleet
        .nodes
        .iter()
        .filter(|node| node.catalogue.is_some())
        .collect();
    let mut made = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let total = (duration.as_secs_f64() * f64::from(per_second)) as usize;
    for number in 0..total {
        // The moment at which it was due, so that a storm that is held up does not look calm.
        let asked = ticks.tick().await.into_std();
        let node = followers[number % followers.len()];
        let catalogue = node.catalogue.clone().context("it follows no records")?;
        let (volumes, creator, name) = (node.volumes.clone(), node.id, format!("{label}-{number:06}"));
        made.spawn(async move {
            // Where the daemon would put it, by this node's catalogue.
            let view = catalogue.read(|contents| contents.view());
            let places = placement::place(&spec(), creator, &view)?;
            let revision = create(&volumes, &name, &places, creator).await?;
            anyhow::Ok(Created {
                asked,
                answered: Instant::now(),
                revision,
            })
        });
    }
    let (mut created, mut failures) = (Vec::with_capacity(total), Vec::new());
    while let Some(outcome) = made.join_next().await {
        match outcome? {
            Ok(one) => created.push(one),
            Err(error) => failures.push(error),
        }
    }
    created.sort_by_key(|created| created.revision);
    Ok((created, failures))
}
