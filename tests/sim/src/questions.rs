//! What the store is asked, when it answers, and whom its watches tell.

use bulkhead_engine::machine::{Fault, Record, primary};

use crate::plan::{MS, Ns, SEC};
use crate::show::show_record;
use crate::store::Store;
use crate::world::{Answer, Ask, Asker, Ev, NodeEv, World, tell};

impl World {
    /// A node asks the store. After 300 ms without an answer it does not know what became of it; the store may still do it.
    pub(crate) fn ask_store(&mut self, node: usize, asker: Asker, ask: Ask) {
        self.ask_count += 1;
        let id = self.ask_count;
        self.asks.insert(id, ());
        let unknown = match &ask {
            Ask::Read => Answer::Unreachable,
            Ask::Swap { change, .. } => Answer::Swapped(*change, primary::SwapOutcome::Unknown),
        };
        self.later(node, 300 * MS, NodeEv::Store(asker, id, unknown));
        if self.net.store_cut[node] > self.now {
            return;
        }
        let delay = self.store_delay();
        let process = self.nodes[node].process;
        self.at(self.now + delay, Ev::StoreDo(node, process, asker, id, ask));
    }

    pub(crate) fn store_delay(&mut self) -> Ns {
        if self.store_slow_until > self.now {
            self.rng.between(50, 1500) * MS
        } else {
            self.rng.delay(2 * MS)
        }
    }

    pub(crate) fn store_do(&mut self, node: usize, process: u64, asker: Asker, id: u64, ask: Ask) {
        if self.store_down_until > self.now {
            return;
        }
        let answer = match ask {
            Ask::Read => {
                let Store {
                    record,
                    revision,
                    holder,
                    ..
                } = &self.store;
                Answer::Record(Box::new(record.clone()), *revision, *holder)
            }
            Ask::Swap {
                change,
                expected,
                record,
                holder,
            } => {
                let before = self.store.record.clone();
                let blind = asker == Asker::Resume && self.has_fault(Fault::ResumeBlindSwap);
                let expected = if blind { self.store.revision } else { expected };
                let outcome = match self.store.swap(expected, *record) {
                    Some(revision) => {
                        self.store.holder = holder.unwrap_or(self.store.holder);
                        tell!(self, "store: {revision:?} is {}", show_record(&self.store.record));
                        self.record_changed(&before);
                        primary::SwapOutcome::Applied(revision)
                    }
                    None => primary::SwapOutcome::Conflict,
                };
                Answer::Swapped(change, outcome)
            }
        };
        let lost = self.rng.chance(3) && !self.calm;
        if lost || self.net.store_cut[node] > self.now {
            return;
        }
        let delay = self.store_delay();
        self.at(
            self.now + delay,
            Ev::Node(node, process, NodeEv::Store(asker, id, answer)),
        );
    }

    /// Members that the record has gained or lost; watches are told, late.
    pub(crate) fn record_changed(&mut self, before: &Record) {
        let now = self.now;
        if self.store.record.members().next().is_none() {
            self.violate("the record has no member any more: the last one was removed".to_owned());
        }
        for node in 0..self.nodes.len() {
            let id = self.rid(node);
            let at = &mut self.nodes[node];
            match (before.is_member(id), self.store.record.is_member(id)) {
                (true, false) => at.kept = false,
                // One that has lost power since it flushed may lack what came after.
                (false, true) => at.kept = at.running && now.saturating_sub(at.lost_at) > 5 * SEC,
                _ => {}
            }
        }
        self.tell_watches(90);
    }

    /// Watches show the record as it is now, late, and some do not.
    pub(crate) fn tell_watches(&mut self, percent: u64) {
        for node in 0..self.nodes.len() {
            let reached = self.net.store_cut[node] <= self.now && self.store_down_until <= self.now;
            if self.nodes[node].host.is_some() && reached && self.rng.chance(percent) {
                let lag = self.rng.delay(100 * MS);
                let event = NodeEv::Watch(Box::new(self.store.record.clone()), self.store.revision);
                self.later(node, lag, event);
            }
        }
    }
}
