//! The log, and the words to systemd. Owns their form.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{Log, LogFormat};

/// Begins to log to standard error.
pub fn init(log: &Log) -> Result<(), TryInitError> {
    let filter: Targets = log.level.parse().unwrap_or_else(|_| Targets::new());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => Box::new(lines.with_target(false).with_filter(filter)),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_filter(filter)),
    };
    tracing_subscriber::registry().with(lines).try_init()
}

/// Says that the daemon serves: the log line that people wait for, and the notice to systemd.
pub fn ready() {
    tracing::info!("bulkhead is ready");
    notify(&[sd_notify::NotifyState::Ready]);
}

/// Says that the daemon stops.
pub fn stopping() {
    tracing::info!("bulkhead stops");
    notify(&[sd_notify::NotifyState::Stopping]);
}

/// Says that the daemon is about to be started again. systemd is not told, as nothing stops.
pub fn restarting() {
    tracing::info!("bulkhead restarts");
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
