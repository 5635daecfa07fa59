//! The way to the volume's record in the store. Whoever opens a volume brings it; the machine says when.

use crate::machine::Record;
use crate::machine::primary::{Revision, SwapOutcome};
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
