//! Where each record lies. Names of people's choosing are encoded, so that a name can never leave its place.

use std::fmt::Write;

use bulkhead_engine::ids::{NodeId, PoolId, VolumeId};

use super::{Object, SchemaError};

/// The cluster's own record.
pub const CLUSTER_KEY: &str = "cluster";
/// Which class a volume without one takes.
pub const DEFAULT_CLASS_KEY: &str = "default-class";
/// Below it: nodes by id.
pub const NODES: &str = "nodes/";
/// Below it: which node has a name.
pub const NODE_NAMES: &str = "node-names/";
/// Below it: nodes that live, by id; each key goes with its node's lease.
pub const LIVE: &str = "live/";
/// Below it: pools by node and id.
pub const POOLS: &str = "pools/";
/// Below it: storage classes by name.
pub const CLASSES: &str = "classes/";
/// Below it: volumes by id.
pub const VOLUMES: &str = "volumes/";
/// Below it: which volume has a name.
pub const NAMES: &str = "volume-names/";

/// Below it: tokens of the API by name.
pub const TOKENS: &str = "tokens/";
/// Below it: what is wrong, by object.
pub const ALERTS: &str = "alerts/";
/// Below it: what happened, by the node that tells it.
pub const EVENTS: &str = "events/";

/// The longest name of a volume, node or class, in bytes.
const MAX_NAME: usize = 128;

/// A node's record.
pub fn node_key(node: NodeId) -> String {
    format!("{NODES}{node}")
}

/// The key that is there while a node lives.
pub fn live_key(node: NodeId) -> String {
    format!("{LIVE}{node}")
}

/// A pool's record.
pub fn pool_key(node: NodeId, pool: PoolId) -> String {
    format!("{POOLS}{node}/{pool}")
}

/// A volume's record.
pub fn volume_key(volume: VolumeId) -> String {
    format!("{VOLUMES}{volume}")
}

/// The key that says which volume has a name.
pub fn name_key(name: &str) -> Result<String, SchemaError> {
    Ok(format!("{NAMES}{}", encode_name(name)?))
}

/// The key that says which node has a name.
pub fn node_name_key(name: &str) -> Result<String, SchemaError> {
    Ok(format!("{NODE_NAMES}{}", encode_name(name)?))
}

/// A class's record.
pub fn class_key(name: &str) -> Result<String, SchemaError> {
    Ok(format!("{CLASSES}{}", encode_name(name)?))
}

/// A token's record.
pub fn token_key(name: &str) -> Result<String, SchemaError> {
    Ok(format!("{TOKENS}{}", encode_name(name)?))
}

/// The record of an alert about an object.
pub fn alert_key(object: &Object, alert: &str) -> Result<String, SchemaError> {
    let (kind, id, alert) = (
        encode_name(&object.kind)?,
        encode_name(&object.id)?,
        encode_name(alert)?,
    );
    Ok(format!("{ALERTS}{kind}/{id}/{alert}"))
}

/// The record of an event in a slot of the node that tells it.
pub fn event_key(node: NodeId, slot: u64) -> String {
    format!("{EVENTS}{node}/{slot}")
}

/// Whether a text can be the name of a volume, node or class.
pub fn check_name(name: &str) -> Result<(), SchemaError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 128 bytes"
    } else if name.chars().any(|c| c.is_control() || c == '/') {
        "it holds a slash or a control character"
    } else if name == "." || name == ".." {
        "it names a directory"
    } else {
        return Ok(());
    };
    Err(SchemaError::Name {
        name: name.chars().take(MAX_NAME).collect(),
        reason,
    })
}

fn encode_name(name: &str) -> Result<String, SchemaError> {
    check_name(name)?;
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && !encoded.is_empty()) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Ok(encoded)
}

/// The name that the last part of a key encodes; `None` if it encodes none.
pub fn decode_name(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}
