//! `bulkhead status`: one screen, and an exit code that says whether all is well.

use std::fmt::Write;
use std::time::SystemTime;

use super::client::Client;
use super::pool::pools_table;
use super::print::Printer;
use super::{CliError, Code};
use crate::service::StatusView;

pub(super) async fn run(client: &Client, printer: &Printer) -> Result<Code, CliError> {
    let status: StatusView = client.get("/status").await?;
    printer.value(&status, screen)?;
    Ok(if status.healthy { Code::Ok } else { Code::Unhealthy })
}

fn screen(status: &StatusView) -> String {
    let mut text = String::new();
    let verdict = if status.healthy {
        "healthy"
    } else {
        "needs attention"
    };
    let _ = writeln!(text, "bulkhead {} on {}: {verdict}", status.version, status.node);
    for problem in &status.problems {
        let _ = writeln!(text, "  ! {problem}");
    }
    let running = SystemTime::now()
        .duration_since(status.started_at)
        .unwrap_or_default();
    let running = humantime::format_duration(std::time::Duration::from_secs(running.as_secs()));
    let _ = writeln!(
        text,
        "\nNode     {} ({}), running for {running}",
        status.node, status.node_id
    );
    let _ = writeln!(text, "Cluster  {}, store {}", status.cluster, status.store);
    let counts: Vec<String> = status
        .volumes
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let volumes = if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    };
    let _ = writeln!(text, "Volumes  {volumes}\n");
    if status.pools.is_empty() {
        text.push_str("Pools    none; `bulkhead pool add /dev/DEVICE` makes one\n");
    } else {
        text.push_str(&pools_table(&status.pools));
    }
    text
}
