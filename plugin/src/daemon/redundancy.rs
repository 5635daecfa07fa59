//! A volume's replicas as the faces show them, and what their states mean for the volume together. Reads the record, this
//! node's copy of the others, and what the engine says of a volume that is attached here; asks nobody.

use bulkhead_cluster::schema::{Replica, ReplicaState, VolumeRecord};
use bulkhead_engine::ids::{NodeId, Tick};
use bulkhead_engine::node::{PeerView, Reach, VolumeStatus};

use super::context::Daemon;
use crate::service::{RebuildView, ReplicaView};

/// What is wrong with the replica of a node that is not heard of.
const SILENT: &str = "its node gives no sign of life";

/// What the replicas of a volume mean together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redundancy {
    /// As many are in sync as there should be, and can be reached as far as we know.
    Full,
    /// Fewer: what is missing, in words.
    Degraded(String),
    /// None that is in sync can be reached: where they are, in words.
    Lost(String),
}

impl Daemon {
    /// The replicas of a volume; with what its primary says of them if it is attached here.
    pub(super) fn replica_views(
        &self,
        record: &VolumeRecord,
        attached: Option<&VolumeStatus>,
    ) -> Vec<ReplicaView> {
        let silent = self.silent_nodes(record);
        record
            .replicas
            .iter()
            .map(|replica| {
                let seen = attached.and_then(|status| {
                    let mut peers = status.replicas.iter();
                    peers.find(|peer| peer.replica == replica.id)
                });
                let pool = (replica.node == self.node).then(|| self.pools.replicas(replica.pool));
                ReplicaView {
                    id: replica.id.to_string(),
                    node: self.name_of(replica.node),
                    pool: replica.pool.to_string(),
                    state: replica_word(replica).to_owned(),
                    healthy: is_sound(replica)
                        && !silent.contains(&replica.node)
                        && seen.is_none_or(|seen| seen.reach == Reach::Up),
                    since: replica.since.map(Into::into),
                    tick: tick_of(replica.state).map(|tick| tick.to_string()),
                    path: pool.flatten().map(|pool| pool.join(record.id.to_string())),
                    rebuild: seen.and_then(rebuild_view),
                    trouble: trouble_of(replica, silent.contains(&replica.node), seen),
                }
            })
            .collect()
    }

    /// What the replicas of a volume mean together.
    pub(super) fn redundancy(&self, record: &VolumeRecord) -> Redundancy {
        judge(record, &self.silent_nodes(record), |node| self.name_of(node))
    }

    /// Those nodes with replicas of a volume that give no sign of life.
    fn silent_nodes(&self, record: &VolumeRecord) -> Vec<NodeId> {
        let nodes = record.replicas.iter().map(|replica| replica.node);
        nodes.filter(|node| self.is_silent(*node)).collect()
    }

    /// Whether another node gives no sign of life. Right after a start without the store nothing is known of anybody, and
    /// nobody counts as silent.
    pub(super) fn is_silent(&self, node: NodeId) -> bool {
        node != self.node
            && !self.catalogue.freshness().from_disk
            && !self.catalogue.read(|contents| contents.is_alive(node))
    }
}

fn is_sound(replica: &Replica) -> bool {
    replica.made && replica.state == ReplicaState::Member
}

/// The tick up to which a replica that is not in sync holds everything.
fn tick_of(state: ReplicaState) -> Option<Tick> {
    match state {
        ReplicaState::Stale { tick } | ReplicaState::Rebuilding { tick } if tick > Tick::ZERO => Some(tick),
        _ => None,
    }
}

/// The state of a replica by the record, in words.
pub(super) fn replica_word(replica: &Replica) -> &'static str {
    match replica.state {
        ReplicaState::Removing => "being removed",
        _ if !replica.made => "being made",
        ReplicaState::Member => "in sync",
        ReplicaState::Stale { .. } => "out of date",
        ReplicaState::Rebuilding { .. } => "being rebuilt",
    }
}

/// What is wrong with a replica, as far as is known here.
fn trouble_of(replica: &Replica, silent: bool, seen: Option<&PeerView>) -> Option<String> {
    if replica.trouble.is_some() {
        return replica.trouble.clone();
    }
    if silent {
        return Some(SILENT.to_owned());
    }
    let seen = seen.filter(|seen| seen.reach == Reach::Down && !seen.local)?;
    let why = seen.trouble.as_deref().unwrap_or("it does not answer");
    Some(format!("it cannot be reached: {why}"))
}

fn rebuild_view(seen: &PeerView) -> Option<RebuildView> {
    let rebuild = seen.rebuild.as_ref()?;
    Some(RebuildView {
        copied: rebuild.copied,
        total: rebuild.total,
        percent: (rebuild.percent * 10.0).round() / 10.0,
        speed: rebuild.speed,
        remaining_seconds: rebuild.remaining.map(|left| left.as_secs()),
    })
}

fn judge(record: &VolumeRecord, silent: &[NodeId], name_of: impl Fn(NodeId) -> String) -> Redundancy {
    let is_silent = |replica: &Replica| silent.contains(&replica.node);
    let sound: Vec<&Replica> = record.replicas.iter().filter(|one| is_sound(one)).collect();
    let reached = sound.iter().filter(|replica| !is_silent(replica)).count();
    if reached == 0 {
        let where_they_are: Vec<String> = sound.iter().map(|replica| name_of(replica.node)).collect();
        return Redundancy::Lost(where_they_are.join(", "));
    }
    let meant = usize::from(record.spec.repl);
    if reached >= meant {
        return Redundancy::Full;
    }
    let lacking: Vec<String> = record
        .replicas
        .iter()
        .filter(|replica| !is_sound(replica) || is_silent(replica))
        .map(|replica| {
            let node = name_of(replica.node);
            let word = replica_word(replica);
            if is_silent(replica) {
                format!("on {node}: {word}, but {SILENT}")
            } else {
                format!("on {node}: {word}")
            }
        })
        .collect();
    let lacking = if lacking.is_empty() {
        "no other one has been placed yet".to_owned()
    } else {
        lacking.join("; ")
    };
    Redundancy::Degraded(format!("{reached} of {meant} replicas in sync; {lacking}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_cluster::schema::VolumeSpec;
    use bulkhead_cluster::volumes::{NewVolume, Placed};
    use bulkhead_engine::ids::{Epoch, PoolId};

    fn record() -> VolumeRecord {
        let places: Vec<Placed> = (1..=2)
            .map(|id| Placed {
                node: NodeId::from_u128(id),
                pool: PoolId::from_u128(id),
            })
            .collect();
        let spec = VolumeSpec {
            repl: 2,
            ..VolumeSpec::new(1 << 30)
        };
        let new = NewVolume::new("v", spec, &places, NodeId::from_u128(1)).expect("sound");
        let mut record = new.into_record();
        for replica in &mut record.replicas {
            replica.made = true;
        }
        record
    }

    fn name(node: NodeId) -> String {
        if node == NodeId::from_u128(1) { "n1" } else { "n2" }.to_owned()
    }

    #[test]
    fn a_volume_is_full_degraded_or_lost() {
        let one = NodeId::from_u128(1);
        let two = NodeId::from_u128(2);
        let full = record();
        assert_eq!(judge(&full, &[], name), Redundancy::Full);
        let Redundancy::Degraded(why) = judge(&full, &[two], name) else {
            panic!("one is gone");
        };
        assert_eq!(
            why,
            "1 of 2 replicas in sync; on n2: in sync, but its node gives no sign of life"
        );
        assert_eq!(
            judge(&full, &[one, two], name),
            Redundancy::Lost("n1, n2".to_owned())
        );

        let mut stale = record();
        stale.replicas[1].state = ReplicaState::Stale {
            tick: Tick::new(Epoch(3), 4),
        };
        let Redundancy::Degraded(why) = judge(&stale, &[], name) else {
            panic!("one is stale");
        };
        assert!(why.ends_with("on n2: out of date"), "{why}");
        assert_eq!(judge(&stale, &[one], name), Redundancy::Lost("n1".to_owned()));
        assert_eq!(tick_of(stale.replicas[1].state), Some(Tick::new(Epoch(3), 4)));
        stale.replicas.pop();
        let Redundancy::Degraded(why) = judge(&stale, &[], name) else {
            panic!("one is missing");
        };
        assert!(why.contains("placed"), "{why}");
    }

    #[test]
    fn what_is_not_made_yet_is_not_called_in_sync() {
        let mut record = record();
        record.replicas[1].made = false;
        assert_eq!(replica_word(&record.replicas[1]), "being made");
        assert!(matches!(judge(&record, &[], name), Redundancy::Degraded(_)));
        record.replicas[1].made = true;
        record.replicas[1].state = ReplicaState::Stale { tick: Tick::ZERO };
        assert_eq!(replica_word(&record.replicas[1]), "out of date");
        assert_eq!(tick_of(record.replicas[1].state), None);
    }
}
