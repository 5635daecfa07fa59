//! How much may be promised of a pool. Volumes take space only as they are written, so more than there is may be
//! promised; how much more is configured. Pure.

use serde::{Deserialize, Serialize};

use super::spec::PoolUsage;

/// The smallest part of a pool that is kept free.
const RESERVE_MIN: u64 = 32 << 20;
/// The largest part.
const RESERVE_MAX: u64 = 1 << 30;

/// The limit: the sizes of all volumes together, as a percentage of the pool's capacity. 100 promises no more than
/// there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overcommit {
    percent: u32,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { percent: 200 }
    }
}

/// A volume does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pool may promise {} MiB ({percent} % of {} MiB), and {} MiB of that are promised: {} MiB more do not fit. \
     Make the volume smaller, add a pool, delete volumes, or raise the over-commit limit",
    limit >> 20, capacity >> 20, allocated >> 20, asked >> 20
)]
pub struct Overcommitted {
    /// What may be promised.
    pub limit: u64,
    /// The configured percentage.
    pub percent: u32,
    /// What there is.
    pub capacity: u64,
    /// What is promised.
    pub allocated: u64,
    /// What was asked for.
    pub asked: u64,
}

impl Overcommit {
    /// At this percentage of the capacity; at least 1.
    pub const fn percent(percent: u32) -> Self {
        Self {
            percent: if percent == 0 { 1 } else { percent },
        }
    }

    /// What may be promised of a capacity.
    pub fn limit(self, capacity: u64) -> u64 {
        let limit = u128::from(capacity) * u128::from(self.percent) / 100;
        u64::try_from(limit).unwrap_or(u64::MAX)
    }

    /// Whether a volume of `asked` bytes may be promised as well.
    pub fn admit(self, usage: &PoolUsage, asked: u64) -> Result<(), Overcommitted> {
        let limit = self.limit(usage.capacity);
        if usage.allocated.saturating_add(asked) <= limit {
            return Ok(());
        }
        Err(Overcommitted {
            limit,
            percent: self.percent,
            capacity: usage.capacity,
            allocated: usage.allocated,
            asked,
        })
    }
}

/// What is kept free of a file system of this size, so that its own metadata and a pool that is cleaned up always
/// have room.
pub fn reserve(total: u64) -> u64 {
    (total / 100).clamp(RESERVE_MIN, RESERVE_MAX).min(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usage(capacity: u64, allocated: u64) -> PoolUsage {
        PoolUsage {
            capacity,
            allocated,
            ..PoolUsage::default()
        }
    }

    #[test]
    fn the_limit_is_reached_and_not_passed() {
        let twice = Overcommit::percent(200);
        assert_eq!(twice.admit(&usage(10 << 30, 15 << 30), 5 << 30), Ok(()));
        let over = twice.admit(&usage(10 << 30, 15 << 30), (5 << 30) + 1);
        assert!(over.is_err_and(|error| error.limit == 20 << 30));
    }

    proptest! {
        #[test]
        fn what_is_admitted_never_exceeds_the_limit(
            capacity in any::<u64>(), allocated in any::<u64>(), asked in any::<u64>(), percent in any::<u32>(),
        ) {
            let limit = Overcommit::percent(percent);
            if limit.admit(&usage(capacity, allocated), asked).is_ok() {
                prop_assert!(allocated.checked_add(asked).is_some_and(|sum| sum <= limit.limit(capacity))
                    || limit.limit(capacity) == u64::MAX);
            }
        }

        #[test]
        fn the_reserve_is_small_and_never_more_than_there_is(total in any::<u64>()) {
            prop_assert!(reserve(total) <= total.min(RESERVE_MAX));
        }
    }
}
