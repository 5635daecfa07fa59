//! What happened and what is wrong, as the faces show it.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rfc3339;

/// How bad something is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObjectView {
    /// volume, node, pool or store.
    pub kind: String,
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertView {
    /// What, as one word: `volume-degraded`, `node-away`, …
    pub alert: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub object: ObjectView,
    /// What is wrong, in a sentence.
    pub cause: String,
    /// What to do, in a sentence.
    pub remedy: String,
    /// Since when.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub since: SystemTime,
    /// Name of the node that raised it.
    pub node: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Names it; no two events have the same.
    pub id: String,
    /// When, by the clock of the node that tells it.
    #[serde(with = "rfc3339::millis")]
    #[schema(value_type = String, format = DateTime)]
    pub at: SystemTime,
    /// Name of that node.
    pub node: String,
    /// What it says.
    pub kind: EventKind,
    /// The alert, or what was done, as one word.
    pub what: String,
    /// How bad it is, or was.
    pub severity: Severity,
    /// What it is about.
    pub object: ObjectView,
    /// What happened, in a sentence.
    pub cause: String,
    /// What to do, in a sentence; empty if there is nothing to be done.
    pub remedy: String,
}
