//! The simulated store: one record under compare-and-swap.

use bulkhead_engine::machine::Record;
use bulkhead_engine::machine::primary::Revision;

/// The store's content.
#[derive(Clone, Debug)]
pub struct Store {
    /// The record.
    pub record: Record,
    /// Which attaching made the primary it names.
    pub holder: u64,
    /// Its revision.
    pub revision: Revision,
    /// The records before and their attachings, the oldest first.
    pub history: Vec<(Record, u64)>,
}

impl Store {
    /// Puts `record` in its place if it is still at `expected`.
    pub fn swap(&mut self, expected: Revision, record: Record) -> Option<Revision> {
        if self.revision != expected {
            return None;
        }
        self.revision = Revision(self.revision.0 + 1);
        let before = std::mem::replace(&mut self.record, record);
        self.history.push((before, self.holder));
        Some(self.revision)
    }
}
