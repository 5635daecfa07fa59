//! One lock per volume name, with a word on who holds it. Owns nothing else: an operation on one volume never waits for
//! an operation on another.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

/// The locks.
#[derive(Clone, Default)]
pub struct NameLocks {
    slots: Arc<Mutex<HashMap<String, Slot>>>,
}

#[derive(Clone, Default)]
struct Slot {
    lock: Arc<tokio::sync::Mutex<()>>,
    holder: Option<(&'static str, Instant)>,
}

/// What holds a lock that could not be had in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// The operation, as "being mounted".
    pub operation: &'static str,
    /// For how long.
    pub held_for: Duration,
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is {} since {} s", self.operation, self.held_for.as_secs())
    }
}

/// The right to work on one volume.
pub struct NameGuard {
    locks: NameLocks,
    name: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl NameLocks {
    /// Waits for the lock of `name`, at most for `patience`.
    pub async fn lock(
        &self,
        name: &str,
        operation: &'static str,
        patience: Duration,
    ) -> Result<NameGuard, HeldBy> {
        let lock = self.slots.lock().entry(name.to_owned()).or_default().lock.clone();
        let locked = timeout(patience, lock.lock_owned()).await;
        let Ok(guard) = locked else {
            let holder = self.slots.lock().get(name).and_then(|slot| slot.holder);
            self.tidy(name);
            let (operation, since) = holder.unwrap_or(("busy", Instant::now()));
            return Err(HeldBy {
                operation,
                held_for: since.elapsed(),
            });
        };
        if let Some(slot) = self.slots.lock().get_mut(name) {
            slot.holder = Some((operation, Instant::now()));
        }
        Ok(NameGuard {
            locks: self.clone(),
            name: name.to_owned(),
            guard: Some(guard),
        })
    }

    /// What is under way on `name`.
    pub fn holder(&self, name: &str) -> Option<HeldBy> {
        let (operation, since) = self.slots.lock().get(name)?.holder?;
        Some(HeldBy {
            operation,
            held_for: since.elapsed(),
        })
    }

    /// Forgets a slot that nobody holds or waits for.
    fn tidy(&self, name: &str) {
        let mut slots = self.slots.lock();
        // Clones are only made under the lock of the map, so a count of one stays one.
        if slots
            .get(name)
            .is_some_and(|slot| Arc::strong_count(&slot.lock) == 1)
        {
            slots.remove(name);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.slots.lock().len()
    }
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        if let Some(slot) = self.locks.slots.lock().get_mut(&self.name) {
            slot.holder = None;
        }
        drop(self.guard.take());
        self.locks.tidy(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_name_waits_another_does_not_and_nothing_stays() {
        let locks = NameLocks::default();
        let patience = Duration::from_millis(30);
        let held = locks.lock("a", "being mounted", patience).await.ok();
        assert!(held.is_some());
        assert!(locks.lock("b", "being deleted", patience).await.is_ok());
        let refused = locks.lock("a", "being deleted", patience).await.err();
        assert_eq!(refused.map(|by| by.operation), Some("being mounted"));
        drop(held);
        assert!(locks.holder("a").is_none());
        assert!(locks.lock("a", "being deleted", patience).await.is_ok());
        assert_eq!(locks.len(), 0);
    }
}
