//! What `bulkhead generate` prints, as other faces ask for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A form in which a node can be printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FormView {
    /// script, unit, plugin or stack.
    pub form: String,
    /// What it is.
    pub about: String,
    /// What can be said of it.
    pub flags: Vec<FlagView>,
}

/// A flag of `bulkhead generate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlagView {
    /// Its name, without dashes.
    pub name: String,
    /// What it is for.
    pub help: String,
    /// What its value is like.
    pub value: String,
    /// Whether it has to be given.
    pub required: bool,
    /// Whether it may be given several times.
    pub repeated: bool,
    /// Whether its value is not for everybody's eyes.
    pub secret: bool,
    /// Whether it is one of the daemon's settings.
    pub setting: bool,
}

/// What is to be printed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateRequest {
    /// script, unit, plugin or stack.
    pub form: String,
    /// Flags and their values.
    #[serde(default)]
    pub flags: BTreeMap<String, Vec<String>>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GeneratedView {
    /// The text.
    pub text: String,
}
