//! The range lock: an operation that overlaps one in flight waits for it (section 4). First come, first served.
//!
//! Owns the order of operations; knows nothing of members.

use std::collections::{BTreeMap, BTreeSet};

use crate::geometry::ByteRange;

/// Ranges up to this length are found by their place; the few longer ones are looked at one by one.
const NARROW: u64 = 1 << 20;

/// Names a holder: the order of coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LockId(pub(super) u64);

#[derive(Debug)]
struct Holder {
    range: ByteRange,
    shared: bool,
    /// Earlier holders in the way that have not left yet.
    before: u32,
}

/// Who holds or waits for which range.
#[derive(Debug, Default)]
pub(super) struct RangeLock {
    next: u64,
    holders: BTreeMap<LockId, Holder>,
    narrow: BTreeSet<(u64, LockId)>,
    wide: BTreeSet<LockId>,
}

impl RangeLock {
    /// Takes a range, for reading (`shared`) or alone. Says whether it is held at once; else `release` of those in the
    /// way will name it.
    pub(super) fn acquire(&mut self, range: ByteRange, shared: bool) -> (LockId, bool) {
        let id = LockId(self.next);
        self.next += 1;
        let in_the_way = |(_, other): &(LockId, &Holder)| other.range.overlaps(range) && !(shared && other.shared);
        let before = self.near(range).filter(in_the_way).count() as u32;
        self.holders.insert(
            id,
            Holder {
                range,
                shared,
                before,
            },
        );
        if range.len <= NARROW {
            self.narrow.insert((range.offset, id));
        } else {
            self.wide.insert(id);
        }
        (id, before == 0)
    }

    /// Gives a range back, and names those that hold theirs now.
    pub(super) fn release(&mut self, id: LockId, granted: &mut Vec<LockId>) {
        let Some(gone) = self.holders.remove(&id) else {
            return;
        };
        self.narrow.remove(&(gone.range.offset, id));
        self.wide.remove(&id);
        let waiting: Vec<LockId> = self
            .near(gone.range)
            .filter(|(other_id, other)| {
                *other_id > id && other.range.overlaps(gone.range) && !(gone.shared && other.shared)
            })
            .map(|(other_id, _)| other_id)
            .collect();
        for other in waiting {
            if let Some(holder) = self.holders.get_mut(&other) {
                holder.before -= 1;
                if holder.before == 0 {
                    granted.push(other);
                }
            }
        }
    }

    /// Holders that may overlap a range.
    fn near(&self, range: ByteRange) -> impl Iterator<Item = (LockId, &Holder)> {
        let from = (range.offset.saturating_sub(NARROW), LockId(0));
        let to = (range.end(), LockId(0));
        let narrow = self.narrow.range(from..to).map(|&(_, id)| id);
        let wide = self.wide.iter().copied();
        narrow
            .chain(wide)
            .filter_map(|id| self.holders.get(&id).map(|holder| (id, holder)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(offset: u64, len: u64) -> ByteRange {
        ByteRange::new(offset, len)
    }

    #[test]
    fn overlapping_writes_wait_in_order() {
        let mut lock = RangeLock::default();
        let (first, held) = lock.acquire(range(0, 4096), false);
        assert!(held);
        let (second, held) = lock.acquire(range(2048, 4096), false);
        assert!(!held);
        let (third, held) = lock.acquire(range(4096, 512), false);
        assert!(!held, "it overlaps the second, which comes first");
        assert!(lock.acquire(range(1 << 20, 512), false).1);
        let mut granted = Vec::new();
        lock.release(first, &mut granted);
        assert_eq!(granted, [second]);
        granted.clear();
        lock.release(second, &mut granted);
        assert_eq!(granted, [third]);
    }

    #[test]
    fn reads_share_but_writes_do_not() {
        let mut lock = RangeLock::default();
        let (first, held) = lock.acquire(range(0, 8 << 20), true);
        assert!(held);
        let (second, held) = lock.acquire(range(4096, 4096), true);
        assert!(held);
        let (write, held) = lock.acquire(range(4096, 512), false);
        assert!(!held);
        assert!(!lock.acquire(range(4096, 512), true).1, "a read does not overtake a waiting write");
        let mut granted = Vec::new();
        lock.release(first, &mut granted);
        assert!(granted.is_empty());
        lock.release(second, &mut granted);
        assert_eq!(granted, [write]);
    }
}
