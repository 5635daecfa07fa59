//! The range lock: an operation that overlaps one in flight waits for it (O1). First come, first served.
//!
//! Owns the order of operations; knows nothing of members.

use std::collections::{BTreeMap, BTreeSet};

use crate::geometry::ByteRange;

/// Ranges up to this length are found by their place; the few longer ones are looked at one by one.
const NARROW: u64 = 1 << 20;

/// Who takes a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// An operation of the front end, by its place.
    Op(u32),
    /// A chunk that is being copied, by its number.
    Copy(u64),
    /// The piece that is being compared.
    Verify,
}

/// Names a holder: the order of coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LockId(pub(super) u64);

#[derive(Debug)]
struct Holder {
    owner: Owner,
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
    pub(super) fn acquire(&mut self, range: ByteRange, shared: bool, owner: Owner) -> (LockId, bool) {
        let id = LockId(self.next);
        self.next += 1;
        let in_the_way =
            |(_, other): &(LockId, &Holder)| other.range.overlaps(range) && !(shared && other.shared);
        let before = self.near(range).filter(in_the_way).count() as u32;
        self.holders.insert(
            id,
            Holder {
                owner,
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
    pub(super) fn release(&mut self, id: LockId, granted: &mut Vec<Owner>) {
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
                    granted.push(holder.owner);
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
        let (first, held) = lock.acquire(range(0, 4096), false, Owner::Op(1));
        assert!(held);
        let (second, held) = lock.acquire(range(2048, 4096), false, Owner::Op(2));
        assert!(!held);
        let (_, held) = lock.acquire(range(4096, 512), false, Owner::Op(3));
        assert!(!held, "it overlaps the second, which comes first");
        assert!(lock.acquire(range(1 << 20, 512), false, Owner::Op(4)).1);
        let mut granted = Vec::new();
        lock.release(first, &mut granted);
        assert_eq!(granted, [Owner::Op(2)]);
        granted.clear();
        lock.release(second, &mut granted);
        assert_eq!(granted, [Owner::Op(3)]);
    }

    #[test]
    fn reads_share_but_writes_do_not() {
        let mut lock = RangeLock::default();
        let (first, held) = lock.acquire(range(0, 8 << 20), true, Owner::Op(5));
        assert!(held);
        let (second, held) = lock.acquire(range(4096, 4096), true, Owner::Op(6));
        assert!(held);
        let (_, held) = lock.acquire(range(4096, 512), false, Owner::Op(7));
        assert!(!held);
        assert!(
            !lock.acquire(range(4096, 512), true, Owner::Op(8)).1,
            "a read does not overtake a waiting write"
        );
        let mut granted = Vec::new();
        lock.release(first, &mut granted);
        assert!(granted.is_empty());
        lock.release(second, &mut granted);
        assert_eq!(granted, [Owner::Op(7)]);
    }
}
