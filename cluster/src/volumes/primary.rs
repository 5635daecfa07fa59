//! The record as the engine's state machine sees it, and the swaps that the machine asks for (replication.md, sections 5
//! and 7). Translates; what is swapped, and when, the machine decides.

use bulkhead_engine::ids::VolumeId;
use bulkhead_engine::machine::record::ChangeId as EngineChange;
use bulkhead_engine::machine::{MemberState, Record as EngineRecord, RecordReplica};

use super::{Volume, VolumeError, Volumes};
use crate::schema::{
    PrimaryChange, Replica, ReplicaState, Stored, Timestamp, VolumeRecord, encode, volume_key,
};
use crate::store::{Expect, Revision, StoreError, Txn};

/// What became of a machine's change.
#[derive(Clone, Debug)]
pub enum Swap {
    /// It was made; the record with it.
    Applied(Box<Volume>),
    /// It was not: the record is not at the expected revision. It may be that the very same change was made by an earlier
    /// try whose answer was lost; the record tells.
    Conflict,
    /// Not known: the store was not reached, or its answer did not come.
    Unknown(VolumeError),
}

/// The record as the engine sees it. Replicas whose files are not there yet, and those that are to be removed, are left
/// out: nobody may count on them.
pub fn engine_record(volume: &VolumeRecord) -> EngineRecord {
    let replicas = volume.replicas.iter().filter_map(|replica| {
        let state = engine_state(replica)?;
        Some(RecordReplica {
            id: replica.id,
            node: replica.node,
            state,
        })
    });
    EngineRecord {
        epoch: volume.epoch,
        primary: volume.primary.as_ref().map(|primary| primary.node),
        replicas: replicas.collect(),
        change: volume
            .change
            .map_or_else(EngineChange::default, |change| EngineChange {
                term: change.term,
                count: change.count,
            }),
    }
}

fn engine_state(replica: &Replica) -> Option<MemberState> {
    if !replica.made {
        return None;
    }
    match replica.state {
        ReplicaState::Member => Some(MemberState::Member),
        ReplicaState::Stale { tick } => Some(MemberState::Stale(tick)),
        ReplicaState::Rebuilding { .. } => Some(MemberState::Rebuilding),
        ReplicaState::Removing => None,
    }
}

impl Volumes {
    /// Puts the machine's record in the place of the one at a revision. `known` is the volume as it is known here, which
    /// saves a read if it is of that revision. May be asked for again with the same record after [`Swap::Unknown`]: at most
    /// one of the tries is applied.
    pub async fn swap_as_primary(
        &self,
        id: VolumeId,
        expected: Revision,
        wanted: &EngineRecord,
        known: Option<&Volume>,
    ) -> Swap {
        let before = match known.filter(|known| known.revision == expected) {
            Some(known) => known.record.clone(),
            None => match self.by_id(id).await {
                Ok(Some(found)) if found.revision == expected => found.record,
                Ok(_) => return Swap::Conflict,
                Err(error) => return Swap::Unknown(error),
            },
        };
        let name = before.name.clone();
        let unknown = |error| {
            Swap::Unknown(VolumeError::Store {
                volume: name.clone(),
                error,
            })
        };
        let Some(record) = applied(&before, wanted) else {
            tracing::error!(
                volume = name,
                ?wanted,
                "a change of its replicas makes no sense, and is not made"
            );
            return Swap::Conflict;
        };
        let key = volume_key(id);
        let value = match encode(&key, &record) {
            Ok(value) => value,
            Err(error) => return Swap::Unknown(error.into()),
        };
        let txn = Txn::new().check(&key, Expect::At(expected)).put(&key, value);
        match self.store.commit(txn).await {
            Ok(revision) => Swap::Applied(Box::new(Stored { record, revision })),
            Err(StoreError::Conflict { .. }) => Swap::Conflict,
            Err(error) => unknown(error),
        }
    }
}

/// The record after the machine's change; nothing if that is none: another primary, an older epoch, the last member gone.
fn applied(before: &VolumeRecord, wanted: &EngineRecord) -> Option<VolumeRecord> {
    let mut record = before.clone();
    let holder = before.primary.as_ref().map(|primary| primary.node);
    if wanted.primary != holder || wanted.epoch < before.epoch {
        return None;
    }
    record.epoch = wanted.epoch;
    record.change = Some(PrimaryChange {
        term: wanted.change.term,
        count: wanted.change.count,
    });
    for change in &wanted.replicas {
        let replica = record
            .replicas
            .iter_mut()
            .find(|replica| replica.id == change.id)
            .filter(|replica| engine_state(replica).is_some())?;
        replica.state = match (change.state, replica.state) {
            (MemberState::Member, _) => ReplicaState::Member,
            (MemberState::Stale(tick), _) => ReplicaState::Stale { tick },
            (MemberState::Rebuilding, ReplicaState::Stale { tick } | ReplicaState::Rebuilding { tick }) => {
                ReplicaState::Rebuilding { tick }
            }
            (MemberState::Rebuilding, ReplicaState::Member | ReplicaState::Removing) => return None,
        };
    }
    record.note_since(before, Timestamp::now());
    let served = record.members().filter(|replica| replica.made).count();
    (served > 0).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{ChangeId, Primary, VolumeSpec};
    use crate::volumes::{NewVolume, Placed};
    use bulkhead_engine::ids::{Epoch, NodeId, PoolId, Tick};

    fn volume() -> Option<VolumeRecord> {
        let node = NodeId::from_u128;
        let places: Vec<Placed> = (1..=3)
            .map(|id| Placed {
                node: node(id),
                pool: PoolId::from_u128(id),
            })
            .collect();
        let spec = VolumeSpec {
            repl: 3,
            ..VolumeSpec::new(1 << 30)
        };
        let mut record = NewVolume::new("v", spec, &places, node(1)).ok()?.into_record();
        record.epoch = Epoch(4);
        record.primary = Some(Primary {
            node: node(1),
            attachment: ChangeId::random(),
            since: Timestamp::now(),
            user: String::new(),
            upkeep: false,
        });
        for replica in record.replicas.iter_mut().take(2) {
            replica.made = true;
        }
        Some(record)
    }

    #[test]
    fn what_is_not_made_is_left_out_and_stays() -> Result<(), &'static str> {
        let mut before = volume().ok_or("no volume")?;
        for replica in &mut before.replicas {
            replica.since = None;
        }
        let seen = engine_record(&before);
        assert_eq!((seen.replicas.len(), seen.epoch), (2, Epoch(4)));
        let id = EngineChange {
            term: Epoch(4),
            count: 1,
        };
        let second = seen.replicas.get(1).ok_or("no second")?.id;
        let tick = Tick::new(Epoch(4), 7);
        let left = seen
            .with_states(&[(second, MemberState::Stale(tick))], id)
            .ok_or("no epoch")?;
        let after = applied(&before, &left).ok_or("refused")?;
        assert_eq!((after.epoch, after.replicas.len()), (Epoch(5), 3));
        assert_eq!(engine_record(&after), left, "the author knows its change again");
        let again = EngineChange { count: 2, ..id };
        let rebuilding = left
            .with_states(&[(second, MemberState::Rebuilding)], again)
            .ok_or("no epoch")?;
        let after = applied(&after, &rebuilding).ok_or("refused")?;
        let state = after.replica(second).map(|replica| replica.state);
        assert_eq!(state, Some(ReplicaState::Rebuilding { tick }));
        let since = |id| after.replica(id).and_then(|replica| replica.since);
        let untouched = seen.replicas.first().ok_or("no first")?.id;
        assert!(since(second).is_some() && since(untouched).is_none());
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused() -> Result<(), &'static str> {
        let before = volume().ok_or("no volume")?;
        let seen = engine_record(&before);
        let change = |record: &mut EngineRecord| {
            record.change.count = 9;
        };
        let mut other = seen.clone();
        other.primary = Some(NodeId::from_u128(2));
        let mut older = seen.clone();
        older.epoch = Epoch(3);
        let mut none = seen.clone();
        for replica in &mut none.replicas {
            replica.state = MemberState::Stale(Tick::ZERO);
        }
        let mut stranger = seen.clone();
        let unmade = before.replicas.get(2).ok_or("no third")?;
        stranger.replicas.push(RecordReplica {
            id: unmade.id,
            node: unmade.node,
            state: MemberState::Member,
        });
        for mut wrong in [other, older, none, stranger] {
            change(&mut wrong);
            assert!(applied(&before, &wrong).is_none(), "{wrong:?}");
        }
        Ok(())
    }
}
