//! `bulkhead cluster` and `bulkhead store`.

use super::args::WatchArgs;
use super::client::Client;
use super::print::{Lines, Printer, age, counts, moment, table};
use super::watch::show;
use super::{CliError, Code};
use crate::options::format_size;
use crate::service::{ClusterView, StoreView};

/// `cluster status`.
pub(super) async fn run(client: &Client, printer: &Printer, watch: &WatchArgs) -> Result<Code, CliError> {
    let look = async || client.get::<ClusterView>("/cluster").await;
    let cluster = show(printer, watch, look, screen).await?;
    Ok(if cluster.is_none_or(|cluster| cluster.healthy) {
        Code::Ok
    } else {
        Code::Unhealthy
    })
}

/// `store status`.
pub(super) async fn store(client: &Client, printer: &Printer) -> Result<Code, CliError> {
    let store: StoreView = client.get("/store").await?;
    printer.value(&store, store_screen)?;
    Ok(if store.reachable && store.reason.is_none() {
        Code::Ok
    } else {
        Code::Unhealthy
    })
}

/// The first lines of a screen: whether all is well, and what is not.
pub(super) fn verdict(what: &str, healthy: bool, problems: &[String]) -> String {
    let verdict = if healthy { "healthy" } else { "needs attention" };
    let mut text = format!("{what}: {verdict}\n");
    for problem in problems {
        text.push_str(&format!("  ! {problem}\n"));
    }
    text
}

/// The store in a line.
pub(super) fn store_line(store: &StoreView) -> String {
    let since = store
        .since
        .map(|since| format!(" since {}", moment(since)))
        .unwrap_or_default();
    let mut text = match (store.reachable, store.latency_ms) {
        (true, Some(latency)) => format!("{}, answers{since}, the last time in {latency} ms", store.name),
        (true, None) => format!("{}, does not answer at once", store.name),
        (false, _) => format!("{}, away{since}", store.name),
    };
    if !store.reachable {
        text.push_str(&match store.copy_as_of {
            Some(as_of) => format!("; this node's copy of the records is of {}", moment(as_of)),
            None => "; this node has no copy of the records".to_owned(),
        });
    }
    text
}

fn screen(cluster: &ClusterView) -> String {
    let mut lines = Lines::default();
    lines.text(&age(cluster.as_of));
    lines.text(&verdict(
        &format!("cluster {}", cluster.name),
        cluster.healthy,
        &cluster.problems,
    ));
    lines.text("\n");
    lines.line("Id", &cluster.id);
    lines.some("Created", cluster.created_at.map(moment));
    lines.line("Nodes", counts(&cluster.nodes));
    lines.line("Store", store_line(&cluster.store));
    lines.line("Volumes", counts(&cluster.volumes));
    let all = &cluster.capacity;
    lines.line(
        "Capacity",
        format!(
            "{} of {} free in {} pool{}, {} of {} promised to volumes",
            format_size(all.free),
            format_size(all.capacity),
            all.pools,
            if all.pools == 1 { "" } else { "s" },
            format_size(all.promised),
            format_size(all.promisable)
        ),
    );
    lines.finish()
}

fn store_screen(store: &StoreView) -> String {
    let mut lines = Lines::default();
    lines.line("Store", &store.name);
    let state = match (store.reachable, &store.reason) {
        (true, None) => "answers".to_owned(),
        (true, Some(reason)) => format!("slow or refuses: {reason}"),
        (false, reason) => format!("away: {}", reason.as_deref().unwrap_or("it does not answer")),
    };
    lines.line("State", state);
    lines.some("Since", store.since.map(moment));
    lines.some(
        "Latency",
        store.latency_ms.map(|latency| format!("{latency} ms for a read")),
    );
    lines.line(
        "Local copy",
        match store.copy_as_of {
            Some(as_of) => format!("of {}", moment(as_of)),
            None => "none".to_owned(),
        },
    );
    if !store.shared {
        lines.line(
            "Note",
            "embedded in this node; a cluster of several needs etcd or Consul",
        );
    }
    lines.some(
        "Servers",
        store
            .members_unknown
            .as_ref()
            .map(|why| format!("not known: {why}")),
    );
    if !store.members.is_empty() {
        lines.text("\n");
        lines.text(&members(store));
    }
    lines.finish()
}

fn members(store: &StoreView) -> String {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let named = |name: &String| {
        if name.is_empty() {
            "-".to_owned()
        } else {
            name.clone()
        }
    };
    let rows: Vec<_> = store
        .members
        .iter()
        .map(|member| {
            [
                named(&member.name),
                named(&member.address),
                if member.leader { "leader" } else { "-" }.to_owned(),
                or_dash(member.version.clone()),
                or_dash(member.size.map(format_size)),
                member.trouble.clone().unwrap_or_else(|| "ok".to_owned()),
            ]
        })
        .collect();
    table(
        ["SERVER", "ADDRESS", "ROLE", "VERSION", "DATABASE", "STATE"],
        &rows,
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::service::{CapacityView, StoreMemberView};
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    pub(in crate::cli) fn store() -> StoreView {
        StoreView {
            name: "etcd h1:2379".to_owned(),
            shared: true,
            reachable: true,
            since: Some(SystemTime::now() - Duration::from_secs(90)),
            reason: None,
            latency_ms: Some(1.25),
            copy_as_of: Some(SystemTime::now()),
            members: Vec::new(),
            members_unknown: None,
        }
    }

    #[test]
    fn the_store_in_a_line() {
        assert!(store_line(&store()).ends_with("(1m 30s ago), the last time in 1.25 ms"));
        let away = StoreView {
            reachable: false,
            reason: Some("refused".to_owned()),
            latency_ms: None,
            copy_as_of: Some(SystemTime::now() - Duration::from_secs(35)),
            ..store()
        };
        let line = store_line(&away);
        assert!(
            line.contains("away since") && line.ends_with("(35s ago)"),
            "{line}"
        );
        let text = store_screen(&away);
        assert!(
            text.contains("away: refused") && !text.contains("Latency"),
            "{text}"
        );
    }

    #[test]
    fn servers_of_the_store_are_told_apart() {
        let server = |name: &str, leader, trouble: Option<&str>| StoreMemberView {
            name: name.to_owned(),
            address: format!("http://{name}:2379"),
            version: Some("3.5.9".to_owned()),
            leader,
            size: Some(20 << 20),
            trouble: trouble.map(str::to_owned),
        };
        let text = store_screen(&StoreView {
            members: vec![server("h1", true, None), server("h2", false, Some("gone"))],
            ..store()
        });
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert!(
            rows.contains(&vec![
                "h1",
                "http://h1:2379",
                "leader",
                "3.5.9",
                "20",
                "MiB",
                "ok"
            ]),
            "{text}"
        );
        assert!(
            rows.contains(&vec!["h2", "http://h2:2379", "-", "3.5.9", "20", "MiB", "gone"]),
            "{text}"
        );
    }

    #[test]
    fn the_cluster_at_a_glance() {
        let cluster = ClusterView {
            name: "prod".to_owned(),
            id: "1d".to_owned(),
            created_at: None,
            healthy: false,
            problems: vec!["node n3 is offline".to_owned()],
            nodes: BTreeMap::from([("ok".to_owned(), 2), ("offline".to_owned(), 1)]),
            store: store(),
            volumes: BTreeMap::new(),
            capacity: CapacityView {
                pools: 3,
                capacity: 30 << 30,
                free: 20 << 30,
                promised: 5 << 30,
                promisable: 60 << 30,
            },
            as_of: None,
        };
        let text = screen(&cluster);
        for part in [
            "cluster prod: needs attention\n  ! node n3 is offline\n",
            "1 offline, 2 ok",
            "Volumes         none",
            "20 GiB of 30 GiB free in 3 pools, 5 GiB of 60 GiB promised",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
