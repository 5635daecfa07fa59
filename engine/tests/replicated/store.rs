//! The record of a volume in memory, with a real compare-and-swap; a store that can be away, slow, and lose answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use bulkhead_engine::ids::{Epoch, NodeId, ReplicaId};
use bulkhead_engine::machine::primary::{Revision, SwapOutcome};
use bulkhead_engine::machine::record::ChangeId;
use bulkhead_engine::machine::{MemberState, Record, RecordReplica};
use bulkhead_engine::node::{RecordKeeper, RecordRead, Swapped, Volume};
use parking_lot::Mutex;

/// How long a store that is away is waited for.
const DEADLINE: Duration = Duration::from_millis(100);

/// The store.
pub struct Store {
    record: Mutex<(Record, Revision)>,
    away: AtomicBool,
    /// Changes are made, but nobody is told.
    lossy: AtomicBool,
    pub swaps: AtomicU64,
    /// Who is shown every change.
    watchers: Mutex<Vec<Weak<Volume>>>,
}

impl Store {
    /// A volume with replicas on these nodes, all of them members, attached nowhere.
    pub fn new(replicas: &[(ReplicaId, NodeId)]) -> Arc<Self> {
        let replicas = replicas.iter().map(|&(id, node)| RecordReplica {
            id,
            node,
            state: MemberState::Member,
        });
        let record = Record {
            epoch: Epoch(0),
            primary: None,
            replicas: replicas.collect(),
            change: ChangeId::default(),
        };
        Arc::new(Self {
            record: Mutex::new((record, Revision(1))),
            away: AtomicBool::new(false),
            lossy: AtomicBool::new(false),
            swaps: AtomicU64::new(0),
            watchers: Mutex::default(),
        })
    }

    /// Makes a node the primary.
    pub fn attach(&self, node: NodeId) -> (Record, Revision) {
        self.edit(|record| *record = record.taken_over(node).unwrap())
    }

    /// Changes the record as somebody else would.
    pub fn edit(&self, change: impl FnOnce(&mut Record)) -> (Record, Revision) {
        let mut held = self.record.lock();
        change(&mut held.0);
        held.1.0 += 1;
        held.clone()
    }

    pub fn record(&self) -> Record {
        self.record.lock().0.clone()
    }

    pub fn state_of(&self, replica: ReplicaId) -> MemberState {
        self.record().replica(replica).unwrap().state
    }

    pub fn go_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub fn lose_answers(&self, lossy: bool) {
        self.lossy.store(lossy, Ordering::SeqCst);
    }

    /// Shows the volume every change from now on.
    pub fn watch(&self, volume: &Arc<Volume>) {
        self.watchers.lock().push(Arc::downgrade(volume));
    }

    fn show(&self) {
        let (record, revision) = self.record.lock().clone();
        for volume in self.watchers.lock().iter().filter_map(Weak::upgrade) {
            volume.record_seen(record.clone(), revision);
        }
    }

    fn is_away(&self) -> bool {
        let away = self.away.load(Ordering::SeqCst);
        if away {
            thread::sleep(DEADLINE);
        }
        away
    }
}

/// A node's way to the store.
pub struct Keeper(pub Arc<Store>);

impl RecordKeeper for Keeper {
    fn swap(&self, change: ChangeId, expected: Revision, record: Record, done: Swapped) {
        let store = self.0.clone();
        thread::spawn(move || {
            if store.is_away() {
                done(SwapOutcome::Unknown);
                return;
            }
            assert_eq!(record.change, change);
            let outcome = {
                let mut held = store.record.lock();
                if held.1 == expected {
                    *held = (record, Revision(expected.0 + 1));
                    store.swaps.fetch_add(1, Ordering::SeqCst);
                    SwapOutcome::Applied(held.1)
                } else {
                    SwapOutcome::Conflict
                }
            };
            if store.lossy.load(Ordering::SeqCst) && outcome != SwapOutcome::Conflict {
                // Forgotten without a word: that means "not known".
                return;
            }
            done(outcome);
            store.show();
        });
    }

    fn read(&self, done: RecordRead) {
        let store = self.0.clone();
        thread::spawn(move || {
            let found = (!store.is_away()).then(|| store.record.lock().clone());
            done(found);
        });
    }
}
