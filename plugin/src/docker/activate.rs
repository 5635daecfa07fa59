//! Activate and Capabilities: what the driver is. Both answer at once, whatever the state of the daemon.

use bytes::Bytes;

use super::{Driver, wire};
use super::{answered, read};
use crate::http::Answer;

impl Driver {
    /// Comes once per dockerd, at its first use of the driver: a fresh one means a new dockerd. Nothing is waited for
    /// here; the reconciliation runs in the background.
    pub(super) fn activate(&self) -> Answer {
        tracing::info!("a dockerd has activated the driver");
        self.table.carry_over();
        self.dockerds.send_modify(|count| *count += 1);
        answered(&wire::Activated {
            implements: ["VolumeDriver"],
        })
    }

    pub(super) fn capabilities(&self, body: &Bytes) -> Answer {
        if let Err(answer) = read::<wire::EmptyRequest>(body) {
            return answer;
        }
        answered(&wire::CapabilitiesAnswer {
            capabilities: wire::Capabilities { scope: "global" },
            error: String::new(),
        })
    }
}
