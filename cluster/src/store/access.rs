//! Remembers whether a store answers and since when it does not. Owns one small lock and never waits.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Whether a store answered the last time, and if not, since when and why.
#[derive(Debug, Default)]
pub struct Access {
    away: Mutex<Option<(SystemTime, String)>>,
}

impl Access {
    /// Since when the store has not answered, and what the last try met; `None` while it answers.
    pub fn away(&self) -> Option<(SystemTime, String)> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The store has answered.
    pub(crate) fn answered(&self) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The store has not answered. Gives the moment since which it has not.
    pub(crate) fn failed(&self, reason: &str) -> SystemTime {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let since = away.as_ref().map_or_else(SystemTime::now, |(since, _)| *since);
        *away = Some((since, reason.to_owned()));
        since
    }
}
