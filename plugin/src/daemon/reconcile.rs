//! Does on this node what the records say: driven by their changes, and by a look at all of them from time to time, and
//! first of all at the start. Replicas are made and removed, what was begun and left is finished or undone, what others
//! ask for is released. Each errand runs on its own, under the locks of its volume, and is decided anew there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::nodes::Node;
use bulkhead_cluster::schema::{Replica, ReplicaState, VolumeRecord, VolumeState};
use bulkhead_engine::ids::{NodeId, VolumeId};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::context::{Daemon, volume_failed};
use crate::service::ServiceError;

/// Between looks at everything.
const INTERVAL: Duration = Duration::from_secs(30);
/// Between looks at whether nodes have come or gone, or the store.
const GLANCE: Duration = Duration::from_secs(2);
/// How long a volume on which somebody works is waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// Errands at the same time.
const ERRANDS: usize = 16;
/// How long one may take until others have their turn; what a disk is doing meanwhile goes on.
const ERRAND: Duration = Duration::from_secs(60);
/// How long the start waits for what an earlier run had begun.
const START: Duration = Duration::from_secs(10);

/// What is to be done on this node about a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    /// Make its replicas here.
    Make,
    /// Remove its replicas here.
    Remove,
    /// Undo its creation.
    Undo,
    /// Give its record back: an earlier run left it attached.
    Release,
    /// Another node asks for it.
    Asked,
}

/// Errands that are under way. A disk that hangs keeps its own volume's errand, and no other.
pub(super) struct Errands {
    /// Volumes with an errand, and whether another look is due after it.
    running: Mutex<BTreeMap<VolumeId, bool>>,
    /// So many at a time.
    permits: Arc<Semaphore>,
    /// Held by the look at what lies in the pools.
    sweeping: Arc<tokio::sync::Mutex<()>>,
}

impl Default for Errands {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            permits: Arc::new(Semaphore::new(ERRANDS)),
            sweeping: Arc::default(),
        }
    }
}

impl Errands {
    /// Whether there is none of this volume yet; if there is, it looks once more when it is done.
    fn begin(&self, id: VolumeId) -> bool {
        match self.running.lock().entry(id) {
            Entry::Vacant(free) => {
                free.insert(false);
                true
            }
            Entry::Occupied(mut busy) => {
                busy.insert(true);
                false
            }
        }
    }

    /// One is done; whether it has to look once more.
    fn done(&self, id: VolumeId) -> bool {
        let mut running = self.running.lock();
        let again = running.get_mut(&id).is_some_and(std::mem::take);
        if !again {
            running.remove(&id);
        }
        again
    }
}

/// What an earlier run had begun, before this one is ready; a disk that does not answer is not waited for.
pub(super) async fn at_start(daemon: &Arc<Daemon>) {
    let all = join_all(errands(daemon));
    if timeout(START, all).await.is_err() {
        tracing::warn!("what an earlier run had begun is not finished yet; a disk does not answer");
    }
    if let Some(sweep) = sweep(daemon) {
        let _ = timeout(START, sweep).await;
    }
}

/// Begins what is to be done about all volumes.
fn errands(daemon: &Arc<Daemon>) -> Vec<JoinHandle<()>> {
    let records = daemon.records();
    let due = records.iter().filter(|record| !daemon.errands(record).is_empty());
    due.filter_map(|record| begin(daemon, record.id)).collect()
}

/// Begins what is to be done about a volume, if nothing is under way for it.
fn begin(daemon: &Arc<Daemon>, id: VolumeId) -> Option<JoinHandle<()>> {
    if !daemon.errands.begin(id) {
        return None;
    }
    let daemon = daemon.clone();
    Some(tokio::spawn(async move {
        loop {
            // Closed only with the daemon itself.
            let Ok(_permit) = daemon.errands.permits.clone().acquire_owned().await else {
                return;
            };
            if timeout(ERRAND, daemon.run_errands(id)).await.is_err() {
                tracing::warn!(volume = %id, "what is to be done for it does not come to an end; a disk does not answer");
            }
            if !daemon.errands.done(id) {
                return;
            }
        }
    }))
}

/// Looks at what lies in the pools, unless a look is under way.
fn sweep(daemon: &Arc<Daemon>) -> Option<JoinHandle<()>> {
    let turn = daemon.errands.sweeping.clone().try_lock_owned().ok()?;
    let daemon = daemon.clone();
    Some(tokio::spawn(async move {
        daemon.sweep_replicas().await;
        drop(turn);
    }))
}

/// Follows the records until `stop` says so.
pub(super) async fn keep_up(daemon: Arc<Daemon>, mut stop: watch::Receiver<bool>) {
    let work = async {
        tokio::join!(follow(&daemon), look(&daemon), retry_pools(&daemon));
    };
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn look(daemon: &Arc<Daemon>) {
    let mut before = daemon.outlook();
    let mut next = Instant::now() + INTERVAL;
    loop {
        sleep(GLANCE).await;
        let now = daemon.outlook();
        if Instant::now() >= next {
            errands(daemon);
            sweep(daemon);
            next = Instant::now() + INTERVAL;
        } else if now != before {
            // What nodes that have died have begun, and what waited for the store.
            errands(daemon);
        }
        before = now;
    }
}

/// Pools that were away may be back. On its own, as it touches devices.
async fn retry_pools(daemon: &Arc<Daemon>) {
    every(INTERVAL, || daemon.pools.retry()).await;
}

async fn follow(daemon: &Arc<Daemon>) {
    let mut changed = daemon.catalogue.changed();
    loop {
        for id in changed.next().await {
            daemon.look_at_attached(id);
            let record = daemon.catalogue.read(|contents| contents.by_id(id).cloned());
            if record.is_some_and(|record| daemon.is_called(&record)) {
                begin(daemon, id);
            }
        }
    }
}

impl Daemon {
    /// The nodes that live, and whether the store can be reached.
    fn outlook(&self) -> (BTreeSet<NodeId>, bool) {
        let lives = |node: Node| node.live.map(|live| live.node);
        let living = self
            .catalogue
            .read(|contents| contents.nodes().filter_map(lives).collect());
        (living, self.catalogue.freshness().away.is_none())
    }

    /// What is to be done about a volume, as far as its record says.
    fn errands(&self, record: &VolumeRecord) -> Vec<Errand> {
        let ours: Vec<&Replica> = record.replicas_on(self.node).collect();
        let is_going = |replica: &&Replica| replica.state == ReplicaState::Removing;
        let is_unmade = |replica: &&Replica| !replica.made && replica.state != ReplicaState::Removing;
        let make = ours.iter().copied().any(|replica| is_unmade(&replica));
        match record.state {
            VolumeState::Deleting => {
                let left = !ours.is_empty() || record.replicas.is_empty();
                left.then_some(Errand::Remove).into_iter().collect()
            }
            VolumeState::Creating => {
                let lives = self.catalogue.read(|contents| contents.is_alive(record.creator));
                if record.creator == self.node || (!lives && !ours.is_empty()) {
                    vec![Errand::Undo]
                } else {
                    make.then_some(Errand::Make).into_iter().collect()
                }
            }
            VolumeState::Ready => {
                let remove = ours.iter().copied().any(|replica| is_going(&replica));
                let of_files = [(remove, Errand::Remove), (make, Errand::Make)];
                let of_files = of_files
                    .into_iter()
                    .filter_map(|(due, errand)| due.then_some(errand));
                self.errand_of_holder(record)
                    .into_iter()
                    .chain(of_files)
                    .collect()
            }
        }
    }

    /// Whether there is something to be done as soon as the record has changed. What met trouble is tried again from time
    /// to time only: each try changes the record.
    fn is_called(&self, record: &VolumeRecord) -> bool {
        let troubled = record
            .replicas_on(self.node)
            .any(|replica| replica.trouble.is_some());
        let mut errands = self.errands(record).into_iter();
        errands.any(|errand| !troubled || !matches!(errand, Errand::Make | Errand::Remove))
    }

    fn errand_of_holder(&self, record: &VolumeRecord) -> Option<Errand> {
        record
            .primary
            .as_ref()
            .filter(|primary| primary.node == self.node)?;
        if self.keeping.is_resuming(record.id) {
            return None;
        }
        let is_here = self
            .attached(&record.name)
            .is_some_and(|attached| attached.id == record.id)
            || self.tended(record.id).is_some();
        if is_here {
            record.wanted.is_some().then_some(Errand::Asked)
        } else {
            Some(Errand::Release)
        }
    }

    /// Does what is to be done about a volume.
    async fn run_errands(self: &Arc<Self>, id: VolumeId) {
        let record = self.catalogue.read(|contents| contents.by_id(id).cloned());
        let Some(record) = record else { return };
        for errand in self.errands(&record) {
            let done = match errand {
                Errand::Make => self.make_replicas(id).await,
                Errand::Remove => self.remove_replicas(id).await,
                Errand::Undo | Errand::Release | Errand::Asked => {
                    let Ok(_guard) = self.lock(&record.name, "being tidied up", PATIENCE).await else {
                        continue;
                    };
                    self.tidy(id, errand).await
                }
            };
            if let Err(error) = done {
                tracing::warn!(volume = record.name, ?errand, %error, "it could not be done yet");
            }
        }
    }

    /// Under the lock of the name, and so with nobody else here at work on it.
    async fn tidy(self: &Arc<Self>, id: VolumeId, errand: Errand) -> Result<(), ServiceError> {
        let now = self.volumes.by_id(id).await;
        let Some(now) = now.map_err(|error| volume_failed(&error))? else {
            return Ok(());
        };
        self.catalogue.note(&now);
        if !self.errands(&now).contains(&errand) {
            return Ok(());
        }
        match errand {
            Errand::Undo => {
                tracing::info!(volume = now.name, "its creation broke off, and is undone");
                self.undo(&now).await
            }
            Errand::Release => {
                let released = self.volumes.release(now.id, self.node, None).await;
                if let Some(volume) = released.map_err(|error| volume_failed(&error))? {
                    self.catalogue.note(&volume);
                }
                Ok(())
            }
            Errand::Asked => {
                self.answer_wish(&now).await;
                Ok(())
            }
            Errand::Make | Errand::Remove => Ok(()),
        }
    }
}

/// Runs `work` every `interval`, beginning with the first one's end.
pub(super) async fn every<F: Future<Output = ()>>(interval: Duration, mut work: impl FnMut() -> F) {
    let mut next = Instant::now() + interval;
    loop {
        sleep_until(next).await;
        work().await;
        next = Instant::now() + interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_one_errand_at_a_time_and_none_is_forgotten() {
        let errands = Errands::default();
        let (one, other) = (VolumeId::from_u128(1), VolumeId::from_u128(2));
        assert!(errands.begin(one) && errands.begin(other), "one hinders no other");
        assert!(!errands.begin(one) && !errands.begin(one));
        assert!(errands.done(one), "it was asked for meanwhile");
        assert!(!errands.begin(one), "and is still under way");
        assert!(errands.done(one) && !errands.done(one));
        assert!(!errands.done(other) && errands.begin(one));
    }
}
