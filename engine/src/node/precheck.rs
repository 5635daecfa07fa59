//! What can be said against opening a volume before anything is done: its record, and its replica where there is but one.

use std::sync::Arc;

use super::Node;
use super::config::VolumeConfig;
use super::error::{OpenError, ReplicaError};
use super::files::describe;
use super::replica::HostedReplica;
use super::volume::GRACE;
use crate::format::ReplicaIdentity;
use crate::geometry::Geometry;
use crate::ids::Epoch;
use crate::machine::RecordReplica;

/// Whether the record is one under which this node may open the volume.
pub(super) fn check_record(node: &Node, config: &VolumeConfig) -> Result<(), OpenError> {
    let (record, volume) = (&config.record, config.volume);
    let wrong = |what: String| {
        Err(OpenError::Record {
            volume,
            epoch: record.epoch,
            what,
        })
    };
    match record.primary {
        Some(primary) if primary == node.config.node => {}
        Some(primary) => {
            return wrong(format!(
                "names node {primary} as the primary, this is {}",
                node.config.node
            ));
        }
        None => return wrong("names no primary".to_owned()),
    }
    if record.epoch == Epoch::ZERO {
        return wrong("is of no epoch".to_owned());
    }
    if let Some(resumes) = config.resumes.filter(|&resumes| resumes >= record.epoch) {
        return wrong(format!("is not later than the one to go on for ({resumes})"));
    }
    if record.members().next().is_none() {
        return wrong("names no replica that is in sync".to_owned());
    }
    Ok(())
}

/// With one member alone, and that on this node, there is nothing to wait for if it cannot be used: says at once why.
pub(super) fn look_at_sole_member(
    node: &Arc<Node>,
    config: &VolumeConfig,
) -> Result<Option<Arc<HostedReplica>>, OpenError> {
    let volume = config.volume;
    let mut members = config.record.members();
    let replica = match (members.next(), members.next()) {
        (Some(&RecordReplica { id, node: on, .. }), None) if on == node.config.node => id,
        _ => return Ok(None),
    };
    let identity = ReplicaIdentity {
        cluster: node.config.cluster,
        volume,
        replica,
    };
    let opened = node.replicas.open(node, identity, config.open_timeout + GRACE);
    let hosted = opened.map_err(|error| match error {
        ReplicaError::Disk { source, .. } => OpenError::Disk { volume, source },
        ReplicaError::Slow { .. } => OpenError::Timeout {
            volume,
            seen: vec![error.to_string()],
        },
        other => OpenError::NotServed {
            volume,
            replica,
            why: other.to_string(),
        },
    })?;
    if let Some(cause) = hosted.superblock().failed {
        return Err(OpenError::ReplicaFailed {
            volume,
            replica,
            dir: hosted.files.dir().to_owned(),
            reason: describe(cause).to_owned(),
        });
    }
    if hosted.geometry != config.geometry {
        return Err(OpenError::NotServed {
            volume,
            replica,
            why: other_geometry(&hosted, &config.geometry),
        });
    }
    Ok(Some(hosted))
}

pub(super) fn other_geometry(replica: &HostedReplica, expected: &Geometry) -> String {
    format!(
        "{} holds {} bytes in chunks of {} and regions of {}, the volume's record says {}, {} and {}",
        replica.files.dir().display(),
        replica.geometry.size(),
        replica.geometry.chunk_size(),
        replica.geometry.region_size(),
        expected.size(),
        expected.chunk_size(),
        expected.region_size()
    )
}
