//! The figures as Markdown, and what they say of a larger cluster. Extrapolates by straight lines through what was
//! measured, and says so.

use std::fmt::Write;
use std::time::Duration;

use super::load::Load;
use super::run::{Outcome, Storm};
use crate::spread::Spread;

/// A cluster of another size.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes.
    pub nodes: usize,
    /// Volumes.
    pub volumes: usize,
}

/// Tables of all that was measured, and the extrapolation to a size.
pub fn markdown(outcome: &Outcome, larger: Size) -> String {
    let mut page = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(page, "{}", header(outcome));
    let _ = writeln!(page, "{}", rest(outcome));
    let _ = writeln!(page, "{}", storms(outcome));
    let _ = writeln!(page, "{}", sizes(outcome));
    let _ = writeln!(page, "{}", extrapolation(outcome, larger));
    page
}

fn header(outcome: &Outcome) -> String {
    let plan = &outcome.plan;
    format!(
        "{} nodes, {} volumes of two replicas, etcd with three members on the same machine. {}.\n",
        plan.nodes,
        plan.volumes,
        crate::machine::describe()
    )
}

fn rest(outcome: &Outcome) -> String {
    let mut table = String::from(
        "| at rest: readers on each node | look-ups/s | requests/s on the store | of these | \"are you there?\" on watches/s | processors, all members | KiB/s to all nodes |\n|---|---|---|---|---|---|---|\n",
    );
    for reading in &outcome.readings {
        let load = &reading.load;
        let _ = writeln!(
            table,
            "| {} | {:.0} | {:.1} | {} | {:.1} | {:.2} | {:.1} |",
            reading.readers,
            reading.lookups,
            load.requests(),
            methods(load),
            load.asked,
            load.cpu,
            load.bytes / 1024.0
        );
    }
    table
}

fn methods(load: &Load) -> String {
    let parts: Vec<String> = load
        .methods
        .iter()
        .filter(|(_, rate)| **rate >= 0.05)
        .map(|(method, rate)| format!("{method} {rate:.1}"))
        .collect();
    parts.join(", ")
}

fn storms(outcome: &Outcome) -> String {
    let mut table = String::from(
        "| creates: nodes × creates/s asked for | made, in | requests/s on the store | per create | messages/s to the nodes | processors: all members, all nodes | answered: median, 99 %, max | seen by all after the answer | seen by all after the request |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for storm in &outcome.storms {
        let load = &storm.load;
        let _ = writeln!(
            table,
            "| {} × {} | {}{} in {:.0} s | {:.0} | {:.1} | {:.0} | {:.2}, {:.2} | {} | {} | {} |",
            storm.nodes,
            storm.rate,
            storm.made,
            troubles(storm),
            load.time.as_secs_f64(),
            load.requests(),
            outcome.requests_per_create(storm),
            load.told,
            load.cpu,
            storm.cpu,
            shown(storm.answered),
            shown(storm.told),
            shown(storm.seen)
        );
    }
    table
}

fn sizes(outcome: &Outcome) -> String {
    let (nodes, start) = &outcome.started;
    let mut list = format!(
        "- Memory of a catalogue: {:.1} KiB for each volume ({:.0} MiB for {}).\n\
         - A node that starts reads everything once: {:.0} requests and {:.1} MiB for {} volumes; {nodes} nodes that started together did so within {:.0} s.\n\
         - The store's database: {:.1} KiB for each volume, history included. Largest member: {:.0} MiB of memory.\n",
        outcome.memory / 1024.0,
        outcome.memory * outcome.volumes as f64 / f64::from(1 << 20),
        outcome.volumes,
        start.requests() * start.time.as_secs_f64() / *nodes as f64,
        start.bytes * start.time.as_secs_f64() / *nodes as f64 / f64::from(1 << 20),
        outcome.volumes,
        start.time.as_secs_f64(),
        outcome.end.database / outcome.made() as f64 / 1024.0,
        outcome.end.memory / f64::from(1 << 20),
    );
    if let Some(listing) = &outcome.listing {
        let _ = writeln!(
            list,
            "- Docker's `List` of {} volumes ({:.0} KiB of answer) by a daemon beside them: {}; {} of processor time each. The whole daemon: {:.0} MiB of memory.",
            listing.volumes,
            listing.bytes as f64 / 1024.0,
            shown(listing.time),
            millis(listing.cpu),
            listing.memory as f64 / f64::from(1 << 20)
        );
    }
    list
}

fn extrapolation(outcome: &Outcome, larger: Size) -> String {
    let (Some(few), Some(all), Some(rest)) = (
        outcome.storms.first(),
        outcome.storms.last(),
        outcome.readings.first(),
    ) else {
        return String::new();
    };
    let plan = &outcome.plan;
    let by_nodes = larger.nodes as f64 / plan.nodes as f64;
    let by_volumes = larger.volumes as f64 / outcome.volumes as f64;
    let rate = f64::from(plan.rate);
    // A create costs the store something by itself, and something for every node that is told of it.
    let line = |cost: fn(&Load) -> f64| {
        let per_create = |storm: &Storm| {
            let more = cost(&storm.load) - cost(&rest.load);
            more * storm.load.time.as_secs_f64() / storm.made as f64
        };
        let slope = (per_create(all) - per_create(few)) / (all.nodes - few.nodes).max(1) as f64;
        let fixed = per_create(all) - slope * all.nodes as f64;
        (fixed + slope * larger.nodes as f64) * rate + cost(&rest.load) * by_nodes
    };
    let requests = rest.load.requests() * by_nodes;
    let mut table = format!(
        "| | measured: {} nodes, {} volumes | extrapolated: {} nodes, {} volumes |\n|---|---|---|\n",
        plan.nodes, outcome.volumes, larger.nodes, larger.volumes
    );
    let mut row = |what: &str, measured: String, extrapolated: String| {
        let _ = writeln!(table, "| {what} | {measured} | {extrapolated} |");
    };
    let per_create = outcome.requests_per_create(all);
    row(
        "requests/s at rest",
        format!("{:.0}", rest.load.requests()),
        format!("{requests:.0}"),
    );
    row(
        &format!("requests/s, {rate} creates/s"),
        format!("{:.0}", all.load.requests()),
        format!("{:.0}", per_create * rate + requests),
    );
    row(
        &format!("messages/s to the nodes, {rate} creates/s"),
        format!("{:.0}", all.load.told),
        format!("{:.0}", line(|load| load.told)),
    );
    row(
        &format!("MiB/s to the nodes, {rate} creates/s"),
        format!("{:.0}", all.load.bytes / f64::from(1 << 20)),
        format!("{:.0}", line(|load| load.bytes) / f64::from(1 << 20)),
    );
    row(
        &format!("processors, all members, {rate} creates/s"),
        format!("{:.1}", all.load.cpu),
        format!("{:.1}", line(|load| load.cpu)),
    );
    let catalogue = |volumes: f64| format!("{:.0} MiB", outcome.memory * volumes / f64::from(1 << 20));
    row(
        "memory of a catalogue",
        catalogue(outcome.volumes as f64),
        catalogue(larger.volumes as f64),
    );
    let database = outcome.end.database / outcome.made() as f64 / f64::from(1 << 20);
    row(
        "the store's database",
        format!("{:.0} MiB", outcome.end.database / f64::from(1 << 20)),
        format!("{:.0} MiB", database * larger.volumes as f64),
    );
    if let Some(listing) = &outcome.listing {
        row(
            "`List`, processor time",
            millis(listing.cpu),
            millis(listing.cpu.mul_f64(by_volumes)),
        );
    }
    table
}

/// What went wrong in a storm; empty if nothing did.
fn troubles(storm: &Storm) -> String {
    let mut parts = Vec::new();
    if storm.unseen > 0 {
        parts.push(format!("{} not seen by all", storm.unseen));
    }
    if storm.dead > 0 {
        parts.push(format!("{} nodes lost their lease", storm.dead));
    }
    if let (failed, Some(why)) = &storm.failed {
        parts.push(format!("{failed} failed: {why}"));
    }
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join("; "))
    }
}

fn shown(spread: Spread) -> String {
    format!(
        "{}, {}, {}",
        millis(spread.median),
        millis(spread.p99),
        millis(spread.max)
    )
}

fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 10.0 {
        format!("{millis:.1} ms")
    } else {
        format!("{millis:.0} ms")
    }
}
