//! Comparing the members of a volume that is attached here: started, watched and stopped for a person. The engine compares;
//! this keeps what it has found until the next one.

use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_cluster::schema::VolumeRecord;
use bulkhead_engine::ids::{ReplicaId, VolumeId};
use bulkhead_engine::machine::primary::{Difference, Repair, VerifyOutcome, VerifyReport};

use super::attach::Attached;
use super::context::Daemon;
use crate::service::{DifferenceView, ServiceError, VerifyEnd, VerifyRequest, VerifyView};

/// A comparison, under way or ended.
pub(super) struct Comparison {
    started_at: SystemTime,
    /// What it has found, once it has ended.
    report: Option<VerifyReport>,
}

impl Daemon {
    /// Starts a comparison.
    pub(super) async fn begin_verify(
        self: &Arc<Self>,
        name: &str,
        request: &VerifyRequest,
    ) -> Result<VerifyView, ServiceError> {
        let attached = self.attached_for_verify(name).await?;
        let id = attached.id;
        let record = self.record_of(&attached)?;
        let repair = match (&request.source, request.repair) {
            (None, false) => Repair::No,
            (None, true) => Repair::Majority,
            (Some(source), true) => Repair::From(self.replica_meant(&record, source)?.id),
            (Some(_), false) => {
                return Err(ServiceError::Invalid(format!(
                    "volume {name:?}: a source is for a repair; add --repair, or leave it out"
                )));
            }
        };
        {
            let mut verifies = self.verifies.lock();
            if verifies.get(&id).is_some_and(|known| known.report.is_none()) {
                return Err(ServiceError::Busy(format!(
                    "volume {name:?} is being compared already; wait for it, or end it with `bulkhead volume verify {name} --stop`"
                )));
            }
            let fresh = Comparison {
                started_at: SystemTime::now(),
                report: None,
            };
            verifies.insert(id, fresh);
        }
        tracing::info!(volume = name, ?repair, "its members are compared");
        let (daemon, volume, told) = (self.clone(), attached.volume.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || {
            let report = volume.verify(repair).wait();
            tracing::info!(
                volume = told,
                outcome = ?report.outcome,
                compared = report.compared,
                differing = report.differing,
                mended = report.mended,
                "its members have been compared"
            );
            if let Some(known) = daemon.verifies.lock().get_mut(&id) {
                known.report = Some(report);
            }
        });
        self.verify_view(name).await
    }

    /// How far a comparison is, or what came of it.
    pub(super) async fn verify_view(&self, name: &str) -> Result<VerifyView, ServiceError> {
        let known = match self.attached(name) {
            Some(attached) => Some(attached.id),
            None => Some(self.find(name).await?.id),
        };
        let none = || {
            ServiceError::NoSuch(format!(
                "volume {name:?} has not been compared on this node ({}); `bulkhead volume verify {name}` does it",
                self.node_name
            ))
        };
        let id = known.ok_or_else(none)?;
        let (started_at, report) = {
            let verifies = self.verifies.lock();
            let known = verifies.get(&id).ok_or_else(none)?;
            (known.started_at, known.report.clone())
        };
        let record = self.catalogue.read(|contents| contents.by_id(id).cloned());
        let size = record.as_ref().map_or(0, |record| record.spec.size);
        let Some(report) = report else {
            let status = self
                .attached(name)
                .and_then(|attached| attached.volume.status().verify);
            return Ok(VerifyView {
                volume: name.to_owned(),
                running: true,
                started_at,
                compared: status.map_or(0, |at| at.compared),
                size,
                differing: status.map_or(0, |at| at.differing),
                mended: 0,
                outcome: None,
                members: Vec::new(),
                differences: Vec::new(),
            });
        };
        let node = |replica: &ReplicaId| self.node_of(id, *replica);
        Ok(VerifyView {
            volume: name.to_owned(),
            running: false,
            started_at,
            compared: report.compared,
            size,
            differing: report.differing,
            mended: report.mended,
            outcome: Some(match report.outcome {
                VerifyOutcome::Complete => VerifyEnd::Complete,
                VerifyOutcome::Interrupted => VerifyEnd::Interrupted,
                VerifyOutcome::Refused => VerifyEnd::Refused,
            }),
            members: report.members.iter().map(node).collect(),
            differences: report
                .differences
                .iter()
                .map(|difference| difference_view(difference, node))
                .collect(),
        })
    }

    /// Ends a comparison.
    pub(super) async fn end_verify(&self, name: &str) -> Result<(), ServiceError> {
        let attached = self.attached_for_verify(name).await?;
        let is_running = |known: &Comparison| known.report.is_none();
        if !self.verifies.lock().get(&attached.id).is_some_and(is_running) {
            return Err(ServiceError::NoSuch(format!(
                "volume {name:?} is not being compared; there is nothing to end"
            )));
        }
        attached.volume.stop_verify();
        Ok(())
    }

    /// The volume as it is attached here; where else to go if it is not.
    async fn attached_for_verify(&self, name: &str) -> Result<Arc<Attached>, ServiceError> {
        if let Some(attached) = self.attached(name) {
            return Ok(attached);
        }
        let volume = self.find(name).await?;
        Err(match volume.user_node() {
            Some(node) => ServiceError::Conflict(format!(
                "volume {name:?} is attached on node {}, which compares its members; run the command there",
                self.name_of(node)
            )),
            None => ServiceError::Conflict(format!(
                "volume {name:?} is attached nowhere; its members are compared by the node where it is: start what uses it, or mount it"
            )),
        })
    }

    fn record_of(&self, attached: &Attached) -> Result<Arc<bulkhead_cluster::volumes::Volume>, ServiceError> {
        let found = self
            .catalogue
            .read(|contents| contents.by_id(attached.id).cloned());
        found.ok_or_else(|| ServiceError::NotFound(attached.name.clone()))
    }

    /// The node of a replica, by name; its id if the record does not know it any more.
    fn node_of(&self, volume: VolumeId, replica: ReplicaId) -> String {
        let node = self.catalogue.read(|contents| {
            let record: &VolumeRecord = contents.by_id(volume)?;
            record.replica(replica).map(|replica| replica.node)
        });
        node.map_or_else(|| replica.to_string(), |node| self.name_of(node))
    }
}

fn difference_view(difference: &Difference, node: impl Fn(&ReplicaId) -> String) -> DifferenceView {
    DifferenceView {
        offset: difference.range.offset,
        length: difference.range.len,
        differing: difference.differing.iter().map(&node).collect(),
        unreadable: difference.unreadable.iter().map(&node).collect(),
        mended: difference.mended,
    }
}
