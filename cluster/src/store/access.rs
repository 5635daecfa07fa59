//! Remembers whether a store answers, since when it does, and since when it does not. Owns one small lock and never waits.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Whether a store answered the last time, since when, and if not, why.
#[derive(Debug, Default)]
pub struct Access(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// It has not been asked yet.
    #[default]
    Unknown,
    Answers {
        since: SystemTime,
    },
    Away {
        since: SystemTime,
        reason: String,
    },
}

impl Access {
    /// Since when the store has not answered, and what the last try met; `None` while it answers.
    pub fn away(&self) -> Option<(SystemTime, String)> {
        match &*self.state() {
            State::Away { since, reason } => Some((*since, reason.clone())),
            State::Unknown | State::Answers { .. } => None,
        }
    }

    /// Since when the store has answered every time; `None` while it does not, and before it was asked.
    pub fn answering(&self) -> Option<SystemTime> {
        match &*self.state() {
            State::Answers { since } => Some(*since),
            State::Unknown | State::Away { .. } => None,
        }
    }

    /// The store has answered.
    pub(crate) fn answered(&self) {
        let mut state = self.state();
        if !matches!(*state, State::Answers { .. }) {
            *state = State::Answers {
                since: SystemTime::now(),
            };
        }
    }

    /// The store has not answered. Gives the moment since which it has not.
    pub(crate) fn failed(&self, reason: &str) -> SystemTime {
        let mut state = self.state();
        let since = match &*state {
            State::Away { since, .. } => *since,
            State::Unknown | State::Answers { .. } => SystemTime::now(),
        };
        *state = State::Away {
            since,
            reason: reason.to_owned(),
        };
        since
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_the_moment_at_which_it_began() {
        let access = Access::default();
        assert_eq!((access.away(), access.answering()), (None, None));
        access.answered();
        let since = access.answering();
        access.answered();
        assert!(since.is_some() && access.answering() == since);
        let away = access.failed("one reason");
        assert_eq!(access.failed("another"), away);
        assert_eq!(access.away(), Some((away, "another".to_owned())));
        assert_eq!(access.answering(), None);
        access.answered();
        assert!(access.away().is_none() && access.answering() >= since);
    }
}
