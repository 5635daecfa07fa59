//! Requests and answers of Docker's volume driver protocol, version 1. Owns their form only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Content type of every answer.
pub(super) const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.1+json";

/// Create.
#[derive(Debug, Deserialize)]
pub(super) struct CreateRequest {
    #[serde(rename = "Name")]
    pub(super) name: String,
    /// `null` when no option was given.
    #[serde(rename = "Opts", default)]
    pub(super) options: Option<BTreeMap<String, String>>,
}

/// Remove, Path and Get.
#[derive(Debug, Deserialize)]
pub(super) struct NameRequest {
    #[serde(rename = "Name")]
    pub(super) name: String,
}

/// Mount and Unmount.
#[derive(Debug, Deserialize)]
pub(super) struct MountRequest {
    #[serde(rename = "Name")]
    pub(super) name: String,
    #[serde(rename = "ID")]
    pub(super) id: String,
}

/// List and Capabilities: an object with nothing in it.
#[derive(Debug, Deserialize)]
pub(super) struct EmptyRequest {}

/// The answer to what has no answer but success or not.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    #[serde(rename = "Err")]
    pub(super) error: String,
}

/// Activate.
#[derive(Debug, Serialize)]
pub(super) struct Activated {
    #[serde(rename = "Implements")]
    pub(super) implements: [&'static str; 1],
}

/// Capabilities.
#[derive(Debug, Serialize)]
pub(super) struct CapabilitiesAnswer {
    #[serde(rename = "Capabilities")]
    pub(super) capabilities: Capabilities,
    #[serde(rename = "Err")]
    pub(super) error: String,
}

/// What the driver can do.
#[derive(Debug, Serialize)]
pub(super) struct Capabilities {
    #[serde(rename = "Scope")]
    pub(super) scope: &'static str,
}

/// Mount and Path.
#[derive(Debug, Default, Serialize)]
pub(super) struct MountAnswer {
    #[serde(rename = "Mountpoint")]
    pub(super) mountpoint: String,
    #[serde(rename = "Err")]
    pub(super) error: String,
}

/// Get.
#[derive(Debug, Serialize)]
pub(super) struct GetAnswer {
    #[serde(rename = "Volume")]
    pub(super) volume: Volume,
    #[serde(rename = "Err")]
    pub(super) error: String,
}

/// A volume in the answer to Get.
#[derive(Debug, Serialize)]
pub(super) struct Volume {
    #[serde(rename = "Name")]
    pub(super) name: String,
    #[serde(rename = "Mountpoint")]
    pub(super) mountpoint: String,
    #[serde(rename = "CreatedAt")]
    pub(super) created_at: String,
    #[serde(rename = "Status")]
    pub(super) status: BTreeMap<&'static str, Value>,
}

/// List.
#[derive(Debug, Serialize)]
pub(super) struct ListAnswer {
    #[serde(rename = "Volumes")]
    pub(super) volumes: Vec<Listed>,
    #[serde(rename = "Err")]
    pub(super) error: String,
}

/// A volume in the answer to List.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    #[serde(rename = "Name")]
    pub(super) name: String,
    #[serde(rename = "Mountpoint")]
    pub(super) mountpoint: String,
}
