//! The figures as Markdown.

use std::fmt::Write;

use super::results::{Results, Row};

/// What stands where there is no figure.
const NOTHING: &str = "–";

/// Tables: figures with their ratios, how long operations took, and what they cost.
pub fn markdown(results: &Results) -> String {
    let mut page = format!(
        "`{}`: {} round{} in turn, medians. {}.\n\n",
        results.command,
        results.rounds,
        if results.rounds == 1 { "" } else { "s" },
        results.machine
    );
    if results.quick {
        page.push_str(
            "A short run, to see that everything works: its figures are not to be relied upon.\n\n",
        );
    }
    table(&mut page, results, "figure and ratio to the plain loop", |row| {
        format!("{} ({:.2})", figure(row), row.ratio)
    });
    table(&mut page, results, "µs: median, 99 %, 99.9 %", |row| {
        row.latency_us.map_or(NOTHING.to_owned(), |[median, p99, p999]| {
            format!("{median:.0}, {p99:.0}, {p999:.0}")
        })
    });
    table(
        &mut page,
        results,
        "processor seconds per 10,000 operations: serving programs, whole machine",
        |row| format!("{:.2}, {:.2}", row.cpu_per_10k_ops[0], row.cpu_per_10k_ops[1]),
    );
    table(
        &mut page,
        results,
        "processor seconds per GiB: serving programs, whole machine",
        |row| {
            row.cpu_per_gib
                .map_or(NOTHING.to_owned(), |[own, all]| format!("{own:.1}, {all:.1}"))
        },
    );
    page.push_str("| memory | of its programs, MiB | of each further volume at rest, KiB |\n|---|---|---|\n");
    // Writing to a String does not fail.
    for memory in &results.memory {
        let _ = writeln!(
            page,
            "| {} | {:.0} | {} |",
            memory.target,
            memory.programs_mib,
            memory
                .volume_kib
                .map_or(NOTHING.to_owned(), |kib| format!("{kib:.0}"))
        );
    }
    page
}

fn table(page: &mut String, results: &Results, what: &str, cell: impl Fn(&Row) -> String) {
    let _ = writeln!(page, "| {what} | {} |", results.targets.join(" | "));
    let _ = writeln!(page, "|---|{}", "---|".repeat(results.targets.len()));
    for workload in results.workloads() {
        let cells: Vec<String> = results
            .targets
            .iter()
            .map(|target| results.row(workload, target).map_or(NOTHING.to_owned(), &cell))
            .collect();
        // A workload that has no such figure on any target is not in the table.
        if cells.iter().any(|cell| cell != NOTHING) {
            let _ = writeln!(page, "| {workload} | {} |", cells.join(" | "));
        }
    }
    page.push('\n');
}

fn figure(row: &Row) -> String {
    format!("{:.0} {}", row.value, row.unit)
}
