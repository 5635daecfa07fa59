//! The way to the volume's record in the store. Whoever opens a volume brings it; the machine says when.

use std::sync::Weak;

use super::volume::Volume;
use crate::machine::Record;
use crate::machine::primary::{Event, Revision, SwapOutcome};
use crate::machine::record::ChangeId;

/// Told what became of a change. Dropped without a word, it counts as not known.
pub type Swapped = Box<dyn FnOnce(SwapOutcome) + Send>;

/// Told the record; nothing if it could not be read. Dropped without a word, it counts as that.
pub type RecordRead = Box<dyn FnOnce(Option<(Record, Revision)>) + Send>;

/// Changes and reads the record of one volume. Never blocks; answers within a deadline of its own, on any thread.
pub trait RecordKeeper: Send + Sync + 'static {
    /// Puts `record` in the place of the one at revision `expected`. The change may be asked for again, under the same
    /// `change`, when its outcome was not known.
    fn swap(&self, change: ChangeId, expected: Revision, record: Record, done: Swapped);

    /// Reads the record: not what was known before this was called.
    fn read(&self, done: RecordRead);
}

/// Tells the primary what became of a change, also if the keeper forgot to.
pub(super) struct SwapAnswer {
    volume: Weak<Volume>,
    change: ChangeId,
    outcome: SwapOutcome,
}

impl SwapAnswer {
    pub(super) const fn to(volume: Weak<Volume>, change: ChangeId) -> Self {
        Self {
            volume,
            change,
            outcome: SwapOutcome::Unknown,
        }
    }

    pub(super) fn came(mut self, outcome: SwapOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for SwapAnswer {
    fn drop(&mut self) {
        if let Some(volume) = self.volume.upgrade() {
            volume.post(Event::Swapped {
                change: self.change,
                outcome: self.outcome,
            });
        }
    }
}

/// Tells the primary the record that was read, also if the keeper forgot to.
pub(super) struct ReadAnswer {
    volume: Weak<Volume>,
    found: Option<(Record, Revision)>,
}

impl ReadAnswer {
    pub(super) const fn to(volume: Weak<Volume>) -> Self {
        Self { volume, found: None }
    }

    pub(super) fn came(mut self, found: Option<(Record, Revision)>) {
        self.found = found;
    }
}

impl Drop for ReadAnswer {
    fn drop(&mut self) {
        if let Some(volume) = self.volume.upgrade() {
            volume.post(match self.found.take() {
                Some((record, revision)) => Event::Record { record, revision },
                None => Event::RecordUnreachable,
            });
        }
    }
}
