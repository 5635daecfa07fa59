//! What the daemon leaves with its keeper, so that the next one can go on: the connection of each volume that is mounted here,
//! with a note. Nothing is left before the volume can be used, and nothing stays that is being taken away: what is kept is
//! what containers may have open.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_cluster::schema::{ChangeId, Fs};
use bulkhead_engine::host::transport::{Handover, Negotiated};
use bulkhead_engine::host::{HostDirs, abort_volume};
use bulkhead_engine::ids::{Epoch, VolumeId};
use bulkhead_keeper::{Client, ClientError, Kept, Start};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::attach::Attached;
use crate::service::ServiceError;

/// Version of the note's form.
const VERSION: u32 = 1;

/// What the next daemon has to know of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    version: u32,
    pub(super) volume: VolumeId,
    pub(super) name: String,
    pub(super) negotiated: Negotiated,
    /// The record may name any of them: the last one that served, and one that was to go on for it.
    pub(super) attachments: Vec<ChangeId>,
    /// The record had this epoch, or has a newer one.
    pub(super) epoch: Epoch,
    pub(super) fs: Fs,
    pub(super) mount_options: String,
    /// How long containers may wait for the next daemon, in milliseconds.
    pub(super) patience: u64,
}

impl Note {
    pub(super) fn new(attached: &Attached, negotiated: Negotiated) -> Self {
        Self {
            version: VERSION,
            volume: attached.id,
            name: attached.name.clone(),
            negotiated,
            attachments: vec![attached.attachment],
            epoch: attached.volume.term(),
            fs: attached.format,
            mount_options: attached.mount_options.clone(),
            patience: u64::try_from(attached.patience.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// A connection that outlived the daemon before.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) note: Note,
    pub(super) descriptor: OwnedFd,
    /// Until then it has to be served again.
    pub(super) end: Instant,
}

impl Left {
    pub(super) fn handover(&self) -> std::io::Result<Handover> {
        Ok(Handover {
            descriptor: self.descriptor.try_clone()?,
            negotiated: Some(self.note.negotiated),
        })
    }
}

/// The way to the keeper, if this daemon has one.
#[derive(Default)]
pub(super) struct Keeping {
    client: Option<Client>,
    /// How often the keeper has started a daemon.
    starts: u64,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Volumes that are not served again yet, and their names.
    names: BTreeMap<VolumeId, String>,
    /// Those whose time was over.
    ended: BTreeSet<VolumeId>,
}

/// Takes what the keeper has for this process, if it was started by one.
pub(super) fn take() -> Result<(Arc<Keeping>, Vec<Left>), ClientError> {
    let Some(Start { client, kept, starts }) = Start::take()? else {
        return Ok(Default::default());
    };
    let now = Instant::now();
    let left: Vec<Left> = kept
        .into_iter()
        .filter_map(|kept| understood(&client, kept, now))
        .collect();
    let waiting = left.iter().map(|left| (left.note.volume, left.note.name.clone()));
    let keeping = Keeping {
        waiting: Mutex::new(Waiting {
            names: waiting.collect(),
            ended: BTreeSet::new(),
        }),
        client: Some(client),
        starts,
        changed: Condvar::new(),
    };
    Ok((Arc::new(keeping), left))
}

/// What is not understood is let go of: its connection ends, and what is left of it is cleaned up.
fn understood(client: &Client, kept: Kept, now: Instant) -> Option<Left> {
    let key = kept.key.as_str();
    let note = serde_json::from_slice::<Note>(&kept.note);
    let note = note.ok().filter(|note| {
        note.version == VERSION && note.volume.to_string() == key && note.negotiated.resends()
    });
    match (note, kept.descriptor) {
        (Some(note), Some(descriptor)) => Some(Left {
            end: now + Duration::from_millis(note.patience).saturating_sub(kept.unserved),
            note,
            descriptor,
        }),
        _ => {
            tracing::error!(
                volume = key,
                "what was kept of it is not understood; its connection ends"
            );
            if let Err(error) = client.forget(key) {
                tracing::warn!(volume = key, %error, "its connection stays with the keeper");
            }
            None
        }
    }
}

impl Keeping {
    /// Whether there is a keeper.
    pub(super) fn is_there(&self) -> bool {
        self.client.is_some()
    }

    /// How often it has started the daemon again.
    pub(super) fn restarts(&self) -> u64 {
        self.starts.saturating_sub(1)
    }

    /// Volumes that are not served again yet, by name.
    pub(super) fn resuming(&self) -> Vec<String> {
        self.waiting.lock().names.values().cloned().collect()
    }

    /// Whether a volume is not served again yet.
    pub(super) fn is_resuming(&self, id: VolumeId) -> bool {
        self.waiting.lock().names.contains_key(&id)
    }

    /// A volume is served again, or has ended. Whether that was in time: else its connection has ended.
    pub(super) fn settle(&self, id: VolumeId) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.names.remove(&id);
        self.changed.notify_all();
        !waiting.ended.contains(&id)
    }

    /// Has a connection kept.
    pub(super) fn put(&self, note: &Note, descriptor: impl AsFd, served: bool) -> Result<(), String> {
        let Some(client) = &self.client else {
            return Ok(());
        };
        let bytes = serde_json::to_vec(note).map_err(|error| error.to_string())?;
        let patience = Duration::from_millis(note.patience);
        client
            .put(
                &note.volume.to_string(),
                &bytes,
                descriptor.as_fd(),
                served,
                patience,
            )
            .map_err(|error| error.to_string())
    }

    /// Nobody is to go on with this volume any more.
    pub(super) fn forget(&self, id: VolumeId) {
        if let Some(client) = &self.client
            && let Err(error) = client.forget(&id.to_string())
        {
            tracing::warn!(volume = %id, %error, "its connection stays with the keeper");
        }
    }

    /// Has the keeper replaced by the program that lies in its place now.
    pub(super) fn replace(&self) -> Result<(), ServiceError> {
        let client = self.client.as_ref().ok_or_else(no_keeper)?;
        client
            .reexec()
            .map_err(|error| ServiceError::Failed(format!("the keeper is not replaced: {error}")))
    }

    /// Sees to it that nobody waits for longer than allowed: what is not served again by then is ended, whatever this daemon
    /// is doing meanwhile. On a thread of its own, which ends with the last of them.
    pub(super) fn guard(self: &Arc<Self>, dirs: HostDirs, left: &[Left]) -> std::io::Result<()> {
        let mut ends: Vec<(Instant, VolumeId)> =
            left.iter().map(|left| (left.end, left.note.volume)).collect();
        ends.sort();
        if ends.is_empty() {
            return Ok(());
        }
        let keeping = self.clone();
        let work = move || {
            for (end, id) in ends {
                let mut waiting = keeping.waiting.lock();
                while waiting.names.contains_key(&id) && Instant::now() < end {
                    keeping.changed.wait_until(&mut waiting, end);
                }
                let Some(name) = waiting.names.get(&id).cloned() else {
                    continue;
                };
                waiting.ended.insert(id);
                drop(waiting);
                tracing::error!(
                    volume = name,
                    "it could not be served again in time; its connection is ended"
                );
                if let Err(error) = abort_volume(&dirs, id) {
                    tracing::error!(volume = name, %error, "its connection could not be ended");
                }
            }
        };
        std::thread::Builder::new()
            .name("resume-guard".into())
            .spawn(work)
            .map(drop)
    }

    /// Refuses to restart where users of volumes would not merely wait: each that is `attached` has to be kept.
    pub(super) fn may_restart(&self, attached: &[Arc<Attached>]) -> Result<(), ServiceError> {
        if !self.is_there() {
            return Err(no_keeper());
        }
        let waiting = self.resuming();
        if !waiting.is_empty() {
            return Err(ServiceError::Busy(format!(
                "the daemon was started again a moment ago, and does not serve yet: {}; try again in a while",
                waiting.join(", ")
            )));
        }
        let lost: BTreeSet<&str> = attached
            .iter()
            .filter(|attached| !attached.is_kept())
            .map(|attached| attached.name.as_str())
            .collect();
        if !lost.is_empty() {
            let names: Vec<&str> = lost.into_iter().collect();
            return Err(ServiceError::Failed(format!(
                "a restart would end what uses {}: the kernel cannot send requests again (Linux 6.9 and later do), or the keeper did not take it; stop what uses it, and restart then",
                names.join(", ")
            )));
        }
        Ok(())
    }
}

fn no_keeper() -> ServiceError {
    ServiceError::Failed(
        "the daemon runs without a keeper, and a restart would end what uses its volumes; stop it and start `bulkhead daemon` without --no-keeper".to_owned(),
    )
}
