//! Records of who may use the API over the network.

use serde::{Deserialize, Serialize};

use super::{Extra, Record, Timestamp};

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To look.
    Viewer,
    /// Everything.
    Admin,
}

/// A token of the API. The token itself is nowhere but with its holder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// SHA-256 of the token, in hexadecimal digits. It has 256 random bits, so there is nothing to be guessed slowly.
    pub hash: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What newer versions keep here.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Record for TokenRecord {
    const KIND: &'static str = "token of the API";

    fn check(&self) -> Result<(), String> {
        let is_hash = self.hash.len() == 64 && self.hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash
            .then_some(())
            .ok_or_else(|| "its hash is no SHA-256".to_owned())
    }
}
