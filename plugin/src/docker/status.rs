//! What `docker volume inspect` shows under Status. Owns the choice and the wording; `volume ls` does not show it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::options::{InlineSpec, VolumeRequest, format_size};
use crate::service::VolumeView;

/// The Status of a volume that was asked for by `spec` and is mounted by `users` containers.
pub(super) fn of(view: &VolumeView, spec: &InlineSpec, users: usize) -> BTreeMap<&'static str, Value> {
    let mut status = BTreeMap::from([
        ("State", json!(view.state)),
        (
            "Health",
            json!(if view.healthy { "ok" } else { "needs attention" }),
        ),
        ("Message", json!(view.status)),
        ("Id", json!(view.id)),
        ("Size", json!(format_size(view.size))),
        ("SizeBytes", json!(view.size)),
        ("FileSystem", json!(view.fs)),
        ("Replicas", json!(view.repl)),
        ("ReplicaSet", json!(replicas(view))),
        ("Mounts", json!(users)),
    ]);
    if let Some(used) = view.used {
        status.insert("Used", json!(format_size(used)));
    }
    if let Some(allocated) = view.allocated {
        status.insert("Allocated", json!(format_size(allocated)));
    }
    if let Some(attached) = &view.attached {
        let since = attached
            .since
            .map(|since| format!(" since {}", humantime::format_rfc3339_seconds(since)))
            .unwrap_or_default();
        status.insert("AttachedOn", json!(format!("{}{since}", attached.node)));
    }
    if let Some(as_of) = view.as_of {
        status.insert(
            "AsOf",
            json!(humantime::format_rfc3339_seconds(as_of).to_string()),
        );
    }
    if let Some(priority) = &view.io_priority {
        status.insert("IoPriority", json!(priority));
    }
    if let Some(class) = &view.class {
        status.insert("Class", json!(class));
    }
    if !view.nodes.is_empty() {
        status.insert("Nodes", json!(view.nodes));
    }
    if !view.labels.is_empty() {
        status.insert("Labels", json!(view.labels));
    }
    if let Some(options) = &view.mount_options {
        status.insert("MountOptions", json!(options));
    }
    if let Some(options) = &view.mkfs_options {
        status.insert("MkfsOptions", json!(options));
    }
    // Docker does not send Create for a name that exists, so differing options in the name would pass unseen.
    let drift = spec
        .request()
        .map(|asked| asked.drift(&as_request(view)))
        .unwrap_or_default();
    if !drift.is_empty() {
        status.insert("Drift", json!(drift));
    }
    status
}

fn replicas(view: &VolumeView) -> Vec<String> {
    view.replicas
        .iter()
        .map(|replica| format!("{} on {} (pool {})", replica.state, replica.node, replica.pool))
        .collect()
}

/// What the volume is, in the words of a request.
pub(crate) fn as_request(view: &VolumeView) -> VolumeRequest {
    VolumeRequest {
        size: Some(view.size),
        repl: Some(view.repl),
        fs: view.fs.parse().ok(),
        io_priority: view
            .io_priority
            .as_deref()
            .and_then(|priority| priority.parse().ok()),
        class: view.class.clone(),
        nodes: view.nodes.clone(),
        labels: view.labels.clone(),
        mount_options: view.mount_options.clone(),
        mkfs_options: view.mkfs_options.clone(),
    }
}
