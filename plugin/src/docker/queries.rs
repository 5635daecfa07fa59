//! Get, List and Path: what is. They answer from what the node knows and wait for no volume.
//!
//! Get decides over life and death: dockerd takes any error as "no such volume" and forgets the volume's labels, options
//! and users. So an error is answered only if the volume is known not to exist; else the connection is closed.

use bytes::Bytes;
use hyper::StatusCode;
use tokio::time::timeout;

use super::mounting::as_text;
use super::{Driver, answered, failed, read, resolve, status, wire};
use crate::http::Answer;
use crate::options::InlineSpec;
use crate::service::{ServiceError, VolumeView};

impl Driver {
    pub(super) async fn get(&self, body: &Bytes) -> Answer {
        if body.is_empty() {
            // dockerd tries again with an empty body after a connection broke. An error would say that the volume,
            // whatever its name was, does not exist.
            return Answer::Close;
        }
        let request: wire::NameRequest = match read(body) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        // A name that cannot be, or a spec with a fault, is the name of no volume; Create then says what is wrong.
        let found = async {
            let spec = resolve(&request.name)?;
            spec.request()
                .map_err(|errors| ServiceError::Invalid(errors.to_string()))?;
            let view = self.view(&spec).await?;
            if !exists_for_docker(&view) {
                // So that Docker sends Create, which waits for the one that is under way and compares the options.
                return Err(ServiceError::NotFound(view.name));
            }
            Ok((spec, view))
        };
        match found.await {
            Ok((spec, view)) => answered(&wire::GetAnswer {
                volume: self.volume(request.name, &spec, &view),
                error: String::new(),
            }),
            Err(error @ (ServiceError::NotFound(_) | ServiceError::Invalid(_))) => {
                failed(StatusCode::OK, error.to_string())
            }
            Err(error) => {
                tracing::warn!(volume = request.name, %error, "no truthful answer to Get; the connection is closed");
                Answer::Close
            }
        }
    }

    async fn view(&self, spec: &InlineSpec) -> Result<VolumeView, ServiceError> {
        let query = async {
            let service = self.service(self.deadlines.query).await?;
            service.get(spec.name.as_str()).await
        };
        timeout(self.deadlines.query, query)
            .await
            .unwrap_or_else(|_| Err(unanswered(self.deadlines.query.as_secs())))
    }

    fn volume(&self, requested: String, spec: &InlineSpec, view: &VolumeView) -> wire::Volume {
        wire::Volume {
            name: requested,
            mountpoint: view.mountpoint.as_deref().map(as_text).unwrap_or_default(),
            created_at: humantime::format_rfc3339_seconds(view.created_at).to_string(),
            status: status::of(view, spec, self.table.users(&view.name)),
        }
    }

    pub(super) async fn list(&self, body: &Bytes) -> Answer {
        if let Err(answer) = read::<wire::EmptyRequest>(body) {
            return answer;
        }
        let query = async { self.service(self.deadlines.query).await?.list().await };
        let listed = timeout(self.deadlines.query, query)
            .await
            .unwrap_or_else(|_| Err(unanswered(self.deadlines.query.as_secs())));
        match listed {
            Ok(views) => answered(&wire::ListAnswer {
                volumes: views
                    .into_iter()
                    .filter(exists_for_docker)
                    .map(|view| wire::Listed {
                        name: view.name,
                        mountpoint: view.mountpoint.as_deref().map(as_text).unwrap_or_default(),
                    })
                    .collect(),
                error: String::new(),
            }),
            Err(error) => failed(StatusCode::OK, error.to_string()),
        }
    }

    pub(super) async fn path(&self, body: &Bytes) -> Answer {
        let request: wire::NameRequest = match read(body) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        let found = match resolve(&request.name) {
            Ok(spec) => self.view(&spec).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(view) => answered(&wire::MountAnswer {
                mountpoint: view.mountpoint.as_deref().map(as_text).unwrap_or_default(),
                error: String::new(),
            }),
            Err(error) => failed(StatusCode::OK, error.to_string()),
        }
    }
}

/// A volume that is being made or deleted does not exist yet, or no longer, as far as Docker is concerned.
fn exists_for_docker(view: &VolumeView) -> bool {
    !matches!(view.state.as_str(), "creating" | "deleting")
}

fn unanswered(seconds: u64) -> ServiceError {
    ServiceError::Unavailable(format!(
        "the volumes could not be looked up within {seconds} s; see `bulkhead status`"
    ))
}
