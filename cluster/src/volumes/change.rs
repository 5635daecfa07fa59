//! One change of one volume's record, carried through contention and lost answers: read, decide, swap; and when
//! the answer was lost, read again and look for our own id (failure case 35).

use std::time::{Duration, Instant};

use bulkhead_engine::ids::{NodeId, VolumeId};

use super::{Volume, VolumeError, Volumes};
use crate::schema::{ChangeId, Stored, Timestamp, VolumeRecord, VolumeState, encode, live_key, volume_key};
use crate::store::{Expect, StoreError, Txn};

/// Conflicts in a row before we give up: each of them means that someone else got through.
const TRIES: u32 = 60;
/// The longest pause before looking again after a lost answer.
const PAUSE: Duration = Duration::from_millis(100);

/// What is to be done with the record as it is now.
pub(super) enum Step {
    /// Nothing: it is as wanted already.
    Settled,
    /// Swap it for this one.
    Write(Box<Write>),
    /// Remove it.
    Remove,
}

/// A record to be written, and what must hold or go with it.
pub(super) struct Write {
    pub(super) record: VolumeRecord,
    /// Only while this node is dead by its lease.
    pub(super) if_dead: Option<NodeId>,
    /// A key to be removed with it.
    pub(super) remove: Option<String>,
}

impl Step {
    pub(super) fn write(record: VolumeRecord) -> Self {
        Self::Write(Box::new(Write {
            record,
            if_dead: None,
            remove: None,
        }))
    }
}

impl Volumes {
    /// Makes a change. Gives the record with it; `None` if there is no record (any more).
    ///
    /// `decide` is asked anew for every state that the record is found in. A lost answer does not end the
    /// change: if the record has moved on without our id, the lost swap named a revision that is gone and can never
    /// apply; if it has not moved, the same swap is sent again, and at most one of the two applies.
    pub(super) async fn change(
        &self,
        id: VolumeId,
        change: ChangeId,
        decide: impl Fn(&VolumeRecord) -> Result<Step, VolumeError> + Send + Sync,
    ) -> Result<Option<Volume>, VolumeError> {
        self.change_known(id, None, change, decide).await
    }

    /// The same, tried first on the record as it is known here, without reading it. That there is nothing to do, or that
    /// something is in the way, is not believed of such a record.
    pub(super) async fn change_known(
        &self,
        id: VolumeId,
        mut known: Option<&Volume>,
        change: ChangeId,
        decide: impl Fn(&VolumeRecord) -> Result<Step, VolumeError> + Send + Sync,
    ) -> Result<Option<Volume>, VolumeError> {
        let key = volume_key(id);
        let patience = Instant::now() + self.patience;
        let mut lost: Option<VolumeError> = None;
        let mut conflicts = 0;
        loop {
            let write = |volume: &Volume| matches!(decide(volume), Ok(Step::Write(_)));
            let found = match known.take().filter(|known| write(known)) {
                Some(known) => Ok(Some(known.clone())),
                None => self.by_id(id).await,
            };
            let volume = match found {
                Ok(Some(volume)) => volume,
                Ok(None) => return Ok(None),
                Err(error) => {
                    // The outcome of what was sent stays the thing to tell, not that it cannot be looked up now.
                    let error = lost.clone().unwrap_or(error);
                    if lost.is_none() || Instant::now() >= patience {
                        return Err(error);
                    }
                    self.pause().await;
                    continue;
                }
            };
            if volume.has(change) {
                return Ok(Some(volume));
            }
            let (txn, written, if_dead) = match decide(&volume)? {
                Step::Settled => return Ok(Some(volume)),
                Step::Remove => (
                    Txn::new().check(&key, Expect::At(volume.revision)).delete(&key),
                    None,
                    None,
                ),
                Step::Write(write) => {
                    let (txn, record) = swap(&key, &volume, change, &write)?;
                    (txn, Some(record), write.if_dead)
                }
            };
            let error = match self.store.commit(txn).await {
                Ok(revision) => return Ok(written.map(|record| Stored { record, revision })),
                Err(error) => error,
            };
            match error {
                StoreError::Conflict { key: found, .. } => {
                    if if_dead.is_some_and(|node| live_key(node) == found) {
                        return Err(self.attached(&volume).await);
                    }
                    conflicts += 1;
                    if conflicts >= TRIES {
                        return Err(VolumeError::Busy(volume.record.name));
                    }
                }
                error => {
                    let unknown = matches!(error, StoreError::OutcomeUnknown { .. });
                    let error = VolumeError::Store {
                        volume: volume.record.name.clone(),
                        error,
                    };
                    if !unknown && lost.is_none() {
                        return Err(error);
                    }
                    let error = lost.get_or_insert(error);
                    if Instant::now() >= patience {
                        return Err(error.clone());
                    }
                    self.pause().await;
                }
            }
        }
    }

    /// Waits a little after a lost answer: the store may be in the middle of an election.
    pub(super) async fn pause(&self) {
        tokio::time::sleep(PAUSE.min(self.patience / 10)).await;
    }

    /// The refusal that names who has a volume.
    pub(super) async fn attached(&self, volume: &VolumeRecord) -> VolumeError {
        match &volume.primary {
            _ if volume.state == VolumeState::Creating => VolumeError::Creating {
                volume: volume.name.clone(),
                node: self.node_name(volume.creator).await,
            },
            Some(primary) => VolumeError::Attached {
                volume: volume.name.clone(),
                node: self.node_name(primary.node).await,
                primary: Box::new(primary.clone()),
            },
            None => VolumeError::Busy(volume.name.clone()),
        }
    }
}

fn swap(
    key: &str,
    before: &Volume,
    change: ChangeId,
    write: &Write,
) -> Result<(Txn, VolumeRecord), VolumeError> {
    let mut record = write.record.clone();
    record.remember(change);
    record.note_since(before, Timestamp::now());
    let mut txn = Txn::new().check(key, Expect::At(before.revision));
    if let Some(node) = write.if_dead {
        txn = txn.check(live_key(node), Expect::Absent);
    }
    txn = txn.put(key, encode(key, &record)?);
    if let Some(remove) = &write.remove {
        txn = txn.delete(remove);
    }
    Ok((txn, record))
}
