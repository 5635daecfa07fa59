//! What can go wrong between us and a store. Each variant says what the caller may conclude; none may blur
//! "did not happen" with "may have happened".

use std::path::PathBuf;
use std::time::SystemTime;

use thiserror::Error;

use super::{Expect, LeaseId, Revision};

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// The request did not reach the store: nothing happened.
    #[error("the store ({store}) cannot be reached since {}: {reason}", ago(*since))]
    Unreachable {
        /// The store.
        store: String,
        /// When it was first found away.
        since: SystemTime,
        /// What the last try met.
        reason: String,
    },
    /// A read was not answered in time: nothing happened.
    #[error("the store ({store}) did not answer a {call} within {within:?}; it is not well since {}", ago(*since))]
    Timeout {
        /// The store.
        store: String,
        /// What was asked.
        call: &'static str,
        /// The deadline.
        within: std::time::Duration,
        /// When it was first found away.
        since: SystemTime,
    },
    /// A change was sent and its answer did not come: it may have been applied, or may yet be.
    #[error(
        "whether the store ({store}) made a change is not known ({reason}); read the record again to find out"
    )]
    OutcomeUnknown {
        /// The store.
        store: String,
        /// What happened instead of an answer.
        reason: String,
    },
    /// A check of the transaction did not hold: nothing was changed.
    #[error("`{key}` was changed by someone else: expected {expected}, found {}", found.map_or("none".to_owned(), |r| format!("revision {r}")))]
    Conflict {
        /// The first key whose check failed.
        key: String,
        /// What was expected of it.
        expected: Expect,
        /// Its revision as far as the store told, `None` if it is absent.
        found: Option<Revision>,
    },
    /// The history asked for is no longer kept: list again.
    #[error("the store ({store}) no longer has the changes after revision {asked}")]
    Compacted {
        /// The store.
        store: String,
        /// The revision that was asked for.
        asked: Revision,
    },
    /// The lease has ended, and the keys attached to it are gone.
    #[error("lease {0} has ended")]
    LeaseGone(LeaseId),
    /// The store refused who we are or what we may.
    #[error(
        "the store ({store}) refuses access: {reason}; check user, password, token and certificates of the store"
    )]
    Denied {
        /// The store.
        store: String,
        /// What it said.
        reason: String,
    },
    /// The request could never succeed.
    #[error("not a request for the store: {0}")]
    Invalid(String),
    /// The store answered, but with a failure; nothing was changed.
    #[error("the store ({store}) failed: {reason}")]
    Failed {
        /// The store.
        store: String,
        /// What it said.
        reason: String,
    },
    /// The URL or an option of the store makes no sense.
    #[error("store `{url}`: {reason}")]
    Config {
        /// The URL, without secrets.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file of the embedded store is in use by another process.
    #[error(
        "the store {} is in use by {holder}; one node has one daemon: stop that one, or give this one another store",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// The file of the embedded store is damaged or was not made by Bulkhead.
    #[error("the store {} cannot be used: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anything being changed by a person.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::OutcomeUnknown { .. }
        )
    }

    /// Whether a check did not hold.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// A moment for people: the wall clock's time and how long ago it was.
pub(crate) fn ago(since: SystemTime) -> String {
    let passed = since.elapsed().unwrap_or_default();
    format!(
        "{} ({} ago)",
        humantime::format_rfc3339_seconds(since),
        humantime::format_duration(std::time::Duration::from_secs(passed.as_secs()))
    )
}
