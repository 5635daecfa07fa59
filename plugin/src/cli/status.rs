//! `bulkhead status`: one screen, and an exit code that says whether all is well.

use std::time::SystemTime;

use super::args::WatchArgs;
use super::client::Client;
use super::cluster::{store_line, verdict};
use super::pool::pools_table;
use super::print::{Lines, Printer, counts, span};
use super::watch::show;
use super::{CliError, Code};
use crate::service::StatusView;

pub(super) async fn run(client: &Client, printer: &Printer, watch: &WatchArgs) -> Result<Code, CliError> {
    let look = async || client.get::<StatusView>("/status").await;
    let status = show(printer, watch, look, screen).await?;
    Ok(if status.is_none_or(|status| status.healthy) {
        Code::Ok
    } else {
        Code::Unhealthy
    })
}

fn screen(status: &StatusView) -> String {
    let mut lines = Lines::default();
    lines.text(&verdict(
        &format!("bulkhead {} on {}", status.version, status.node),
        status.healthy,
        &status.problems,
    ));
    lines.text("\n");
    let running = SystemTime::now()
        .duration_since(status.started_at)
        .unwrap_or_default();
    lines.line(
        "Node",
        format!(
            "{} ({}) is {}, running for {}{}",
            status.node,
            status.node_id,
            status.state,
            span(running),
            restarts(status)
        ),
    );
    lines.line(
        "Cluster",
        format!(
            "{} ({}), nodes: {}",
            status.cluster,
            status.cluster_id,
            counts(&status.nodes)
        ),
    );
    lines.line("Store", store_line(&status.store));
    lines.line("Volumes", counts(&status.volumes));
    if status.pools.is_empty() {
        lines.line("Pools", "none; `bulkhead pool add /dev/DEVICE` makes one");
    } else {
        lines.text("\n");
        lines.text(&pools_table(&status.pools));
    }
    lines.finish()
}

/// How often the daemon was started again, where that means something.
fn restarts(status: &StatusView) -> String {
    let times = match (status.keeper, status.restarts) {
        (false, _) => ", without a keeper".to_owned(),
        (true, 0) => String::new(),
        (true, 1) => ", started again once".to_owned(),
        (true, times) => format!(", started again {times} times"),
    };
    if status.resuming.is_empty() {
        times
    } else {
        format!("{times}; still to be resumed: {}", status.resuming.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::cluster::tests::store;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[test]
    fn one_screen_says_what_is_wrong_first() {
        let status = StatusView {
            version: "0.1.0".to_owned(),
            pid: 4711,
            node: "n1".to_owned(),
            node_id: "1d".to_owned(),
            state: "ok".to_owned(),
            cluster: "prod".to_owned(),
            cluster_id: "2d".to_owned(),
            nodes: BTreeMap::from([("ok".to_owned(), 3)]),
            store: store(),
            started_at: SystemTime::now() - Duration::from_secs(120),
            keeper: true,
            restarts: 2,
            resuming: vec!["db".to_owned()],
            healthy: false,
            problems: vec!["this node has no pool".to_owned()],
            pools: Vec::new(),
            volumes: BTreeMap::from([("attached".to_owned(), 2), ("ready".to_owned(), 1)]),
        };
        let text = screen(&status);
        assert!(
            text.starts_with("bulkhead 0.1.0 on n1: needs attention\n  ! this node has no pool\n"),
            "{text}"
        );
        for part in [
            "n1 (1d) is ok, running for 2m, started again 2 times; still to be resumed: db\n",
            "prod (2d), nodes: 3 ok",
            "etcd h1:2379, answers since",
            "2 attached, 1 ready",
            "`bulkhead pool add",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.lines().count() <= 24, "it fits on one screen: {text}");
        let well = StatusView {
            healthy: true,
            problems: Vec::new(),
            ..status
        };
        assert!(screen(&well).starts_with("bulkhead 0.1.0 on n1: healthy\n"));
    }
}
