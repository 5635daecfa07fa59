//! Tokens of the API, as the faces show them.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rfc3339;

/// What a token allows.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To look.
    Viewer,
    /// Everything.
    Admin,
}

/// What a token is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Its name.
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// After how many seconds it ends; without, it does not.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub expires_in: Option<u64>,
}

/// A token, without what makes it one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// When it was made.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: SystemTime,
    /// When it ends, if it does.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<SystemTime>,
    /// Whether it has ended.
    pub expired: bool,
}

/// A token that has just been made. It is shown this once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewTokenView {
    /// What goes into the header `Authorization: Bearer …`.
    pub token: String,
    /// The rest of it.
    #[serde(flatten)]
    pub view: TokenView,
}
