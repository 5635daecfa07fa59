//! Create and Remove. Both go on when the client gives up: they are idempotent, and a half-done one would only have to
//! be done again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{Driver, outcome, read, resolve, wire};
use crate::http::{Answer, detached};
use crate::service::ServiceError;

impl Driver {
    pub(super) async fn create(self: Arc<Self>, body: &Bytes) -> Answer {
        let request: wire::CreateRequest = match read(body) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        outcome(self.do_create(request).await)
    }

    async fn do_create(self: Arc<Self>, request: wire::CreateRequest) -> Result<(), ServiceError> {
        let spec = resolve(&request.name)?;
        let options = request.options.unwrap_or_default();
        let further = options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let wanted = spec
            .request_with(further)
            .map_err(|errors| ServiceError::Invalid(errors.to_string()))?;
        let name = spec.name.as_str().to_owned();
        let deadline = self.deadlines.create;
        let driver = self.clone();
        let work_name = name.clone();
        let work = async move {
            let end = Instant::now() + waiting(deadline);
            let service = driver.service(left(end)).await?;
            let _guard = driver.lock(&work_name, "being created", left(end)).await?;
            service.create(&work_name, &wanted).await
        };
        bounded(deadline, &format!("creating volume {name:?}"), work).await
    }

    pub(super) async fn remove(self: Arc<Self>, body: &Bytes) -> Answer {
        let request: wire::NameRequest = match read(body) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        outcome(self.do_remove(request).await)
    }

    async fn do_remove(self: Arc<Self>, request: wire::NameRequest) -> Result<(), ServiceError> {
        let name = resolve(&request.name)?.name.as_str().to_owned();
        let deadline = self.deadlines.call;
        let driver = self.clone();
        let work_name = name.clone();
        let work = async move {
            let end = Instant::now() + waiting(deadline);
            let service = driver.service(left(end)).await?;
            let _guard = driver.lock(&work_name, "being deleted", left(end)).await?;
            match service.remove(&work_name).await {
                // Sent twice, or a second node was quicker: what was wanted is so.
                Ok(()) | Err(ServiceError::NotFound(_)) => {
                    driver.table.forget(&work_name);
                    Ok(())
                }
                Err(error) => Err(error),
            }
        };
        bounded(deadline, &format!("deleting volume {name:?}"), work).await
    }
}

/// The part of a deadline that may go by in waiting for a turn, so that the reason comes before the deadline does.
pub(super) fn waiting(deadline: Duration) -> Duration {
    deadline.mul_f32(0.9)
}

/// What is left until `end`.
pub(super) fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

/// Runs work that goes on in the background when the client gives up or the deadline passes.
pub(super) async fn bounded(
    deadline: Duration,
    what: &str,
    work: impl Future<Output = Result<(), ServiceError>> + Send + 'static,
) -> Result<(), ServiceError> {
    match timeout(deadline, detached(work)).await {
        Ok(Some(result)) => result,
        Ok(None) => Err(ServiceError::Failed(format!(
            "{what} broke off; the log of bulkhead says why"
        ))),
        Err(_) => Err(ServiceError::Busy(format!(
            "{what} takes longer than {} s and goes on in the background; try again in a while",
            deadline.as_secs()
        ))),
    }
}
