//! What is wrong and what happened, as the faces ask for it. Reads this node's copy of the records.

use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::schema::{
    AlertRecord, EventKind as StoredKind, EventRecord, Object, Severity as StoredSeverity,
};
use bulkhead_cluster::store::Revision;
use tokio::sync::watch;

use super::alerts::about;
use super::context::Daemon;
use super::metrics;
use crate::service::{
    AlertView, EventKind, EventView, IoView, ObjectView, ServiceError, Severity, WatchService,
};

#[async_trait]
impl WatchService for Arc<Daemon> {
    async fn alerts(&self) -> Result<Vec<AlertView>, ServiceError> {
        let mut alerts: Vec<AlertView> = self.catalogue.read(|contents| {
            contents
                .alerts()
                .map(|alert| alert_view(contents, alert))
                .collect()
        });
        // It cannot be told to anybody while it is so.
        if let Some((since, reason)) = self.store.access().away() {
            alerts.push(AlertView {
                alert: "store-unreachable".to_owned(),
                severity: Severity::Critical,
                object: object_view(&about("store", "store", &self.store.name())),
                cause: format!(
                    "node {} cannot reach the store ({}): {reason}; mounted volumes go on, what is to be changed has to wait",
                    self.node_name,
                    self.store.name()
                ),
                remedy: "`bulkhead store status` shows its servers".to_owned(),
                since,
                node: self.node_name.clone(),
            });
        }
        alerts.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.since.cmp(&b.since)));
        Ok(alerts)
    }

    async fn events(&self) -> Result<Vec<EventView>, ServiceError> {
        let mut events: Vec<EventView> = self.catalogue.read(|contents| {
            contents
                .events()
                .map(|event| event_view(contents, event))
                .collect()
        });
        events.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.id.cmp(&b.id)));
        Ok(events)
    }

    fn news(&self) -> watch::Receiver<Revision> {
        self.catalogue.changes()
    }

    async fn io(&self) -> Result<Vec<IoView>, ServiceError> {
        Ok(metrics::io_views(self))
    }

    async fn metrics(&self) -> Result<String, ServiceError> {
        Ok(metrics::gather(self).await)
    }
}

const fn severity(severity: StoredSeverity) -> Severity {
    match severity {
        StoredSeverity::Info => Severity::Info,
        StoredSeverity::Warning => Severity::Warning,
        StoredSeverity::Critical => Severity::Critical,
    }
}

fn object_view(object: &Object) -> ObjectView {
    ObjectView {
        kind: object.kind.clone(),
        id: object.id.clone(),
        name: object.name.clone(),
    }
}

fn alert_view(contents: &Contents, alert: &AlertRecord) -> AlertView {
    AlertView {
        alert: alert.alert.clone(),
        severity: severity(alert.severity),
        object: object_view(&alert.object),
        cause: alert.cause.clone(),
        remedy: alert.remedy.clone(),
        since: alert.since.into(),
        node: contents.node_name(alert.node),
    }
}

fn event_view(contents: &Contents, event: &EventRecord) -> EventView {
    EventView {
        // Digits in front, so that the ids of one node sort as they came.
        id: format!("{}-{:012}", event.node, event.number),
        at: event.at.into(),
        node: contents.node_name(event.node),
        kind: match event.kind {
            StoredKind::Raised => EventKind::Raised,
            StoredKind::Cleared => EventKind::Cleared,
            StoredKind::Happened => EventKind::Happened,
        },
        what: event.what.clone(),
        severity: severity(event.severity),
        object: object_view(&event.object),
        cause: event.cause.clone(),
        remedy: event.remedy.clone(),
    }
}
