//! Records of what happened and of what is wrong. An alert is there as long as something is wrong; an event says that one
//! was raised or cleared, or that somebody did something, and lies in one of a bounded number of slots of the node that tells it.

use bulkhead_engine::ids::NodeId;
use serde::{Deserialize, Serialize};

use super::{Extra, Record, Timestamp};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Will become worse if nobody looks.
    Warning,
    /// Something does not work.
    Critical,
}

/// What something is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Object {
    /// volume, node, pool or store.
    pub kind: String,
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Something is wrong from now on.
    Raised,
    /// It is all right again.
    Cleared,
    /// Something was done, or came to pass.
    Happened,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertRecord {
    /// What, as one word for programs: `volume-degraded`, `node-away`, …
    pub alert: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub object: Object,
    /// What is wrong, in a sentence.
    pub cause: String,
    /// What to do, in a sentence.
    pub remedy: String,
    /// Since when, by the clock of the node that raised it.
    pub since: Timestamp,
    /// The node that raised it.
    pub node: NodeId,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Record for AlertRecord {
    const KIND: &'static str = "alert";
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counts the events of the node that tells it.
    pub number: u64,
    /// When, by that node's clock.
    pub at: Timestamp,
    /// The node that tells it.
    pub node: NodeId,
    /// What it says.
    pub kind: EventKind,
    /// The alert, or what was done, as one word for programs.
    pub what: String,
    /// How bad it is, or was.
    pub severity: Severity,
    /// What it is about.
    pub object: Object,
    /// What happened, in a sentence.
    pub cause: String,
    /// What to do, in a sentence; empty if there is nothing to be done.
    #[serde(default)]
    pub remedy: String,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Record for EventRecord {
    const KIND: &'static str = "event";
}
