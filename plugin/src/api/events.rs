//! `/alerts`, `/events` and `/events/stream`: what is wrong, and what happened; and `/metrics`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use hyper::header::CONTENT_TYPE;
use tokio::time::timeout;

use super::Services;
use super::error::{Errors, Refused};
use crate::service::{AlertView, EventView, IoView, Management};

/// How often a stream that has nothing to tell says that it is there.
const ALIVE: Duration = Duration::from_secs(10);
/// How often the gate is looked at that closes when the daemon ends.
const GLANCE: Duration = Duration::from_millis(500);

/// What is wrong now, the worst first.
#[utoipa::path(get, path = "/alerts", tag = "events", responses((status = 200, body = Vec<AlertView>), Errors))]
pub(super) async fn alerts(State(services): State<Arc<Services>>) -> Result<Json<Vec<AlertView>>, Refused> {
    Ok(Json(services.management()?.alerts().await?))
}

/// What happened, as far as it is kept, oldest first.
#[utoipa::path(get, path = "/events", tag = "events", responses((status = 200, body = Vec<EventView>), Errors))]
pub(super) async fn events(State(services): State<Arc<Services>>) -> Result<Json<Vec<EventView>>, Refused> {
    Ok(Json(services.management()?.events().await?))
}

/// What happens from now on, as server-sent events: each has the event's id and its JSON as data.
#[utoipa::path(
    get,
    path = "/events/stream",
    tag = "events",
    responses((status = 200, content_type = "text/event-stream", body = String), Errors)
)]
pub(super) async fn stream(State(services): State<Arc<Services>>) -> Result<Response, Refused> {
    let management = services.management()?;
    let told = management
        .events()
        .await?
        .into_iter()
        .map(|event| event.id)
        .collect();
    let follower = Follower {
        news: management.news(),
        management: Arc::downgrade(&management),
        services,
        told,
        waiting: Vec::new(),
    };
    let stream = Sse::new(follower.stream()).keep_alive(KeepAlive::new().interval(ALIVE));
    Ok(stream.into_response())
}

/// One who follows the events.
struct Follower {
    services: Arc<Services>,
    management: std::sync::Weak<dyn Management>,
    news: tokio::sync::watch::Receiver<bulkhead_cluster::store::Revision>,
    told: BTreeSet<String>,
    /// To be told, the next one last.
    waiting: Vec<EventView>,
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut this| async move {
            let event = this.next().await?;
            // Serialising a view to JSON does not fail; were it to, the stream would go on without it.
            let sent = Event::default()
                .id(event.id.clone())
                .json_data(&event)
                .unwrap_or_default();
            Some((Ok(sent), this))
        })
    }

    /// The next event; nothing once the daemon ends.
    async fn next(&mut self) -> Option<EventView> {
        loop {
            if let Some(event) = self.waiting.pop() {
                return Some(event);
            }
            // A store that keeps changing does not keep it from seeing that the daemon ends.
            self.services.management().ok()?;
            if let Ok(changed) = timeout(GLANCE, self.news.changed()).await {
                changed.ok()?;
            } else {
                continue;
            }
            let mut all = self.management.upgrade()?.events().await.ok()?;
            let known: BTreeSet<String> = all.iter().map(|event| event.id.clone()).collect();
            all.retain(|event| !self.told.contains(&event.id));
            all.reverse();
            self.waiting = all;
            self.told = known;
        }
    }
}

/// What the volumes that are attached on this node have served.
#[utoipa::path(get, path = "/io", tag = "events", responses((status = 200, body = Vec<IoView>), Errors))]
pub(super) async fn io(State(services): State<Arc<Services>>) -> Result<Json<Vec<IoView>>, Refused> {
    Ok(Json(services.management()?.io().await?))
}

/// The figures of this node and of the volumes on it, in the text form of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "events",
    responses((status = 200, content_type = "text/plain", body = String), Errors)
)]
pub(super) async fn metrics(State(services): State<Arc<Services>>) -> Result<Response, Refused> {
    let text = services.management()?.metrics().await?;
    let form = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, form)], text).into_response())
}
