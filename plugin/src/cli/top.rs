//! `bulkhead top`: what the volumes that are attached on this node serve, live. Computes rates out of two looks.

use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use super::client::Client;
use super::print::{Printer, table};
use super::watch::{SHORTEST, wiped};
use super::{CliError, Code};
use crate::options::format_size;
use crate::service::{IoView, OpView};

/// What a volume served in a second, of late.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Rates {
    volume: String,
    node: String,
    reads_per_second: f64,
    read_bytes_per_second: f64,
    read_seconds: Option<f64>,
    writes_per_second: f64,
    written_bytes_per_second: f64,
    write_seconds: Option<f64>,
    flushes_per_second: f64,
    flush_seconds: Option<f64>,
    errors: u64,
    in_flight: usize,
}

pub(super) async fn run(
    client: &Client,
    printer: &Printer,
    interval: Duration,
    count: Option<u64>,
) -> Result<Code, CliError> {
    let mut before: Vec<IoView> = client.get("/io").await?;
    let mut looks = 0;
    loop {
        sleep(interval.max(SHORTEST)).await;
        let now: Vec<IoView> = client.get("/io").await?;
        let rates: Vec<Rates> = now.iter().map(|now| rates(now, &before)).collect();
        before = now;
        if printer
            .line(&rates, |rates| format!("{}{}", wiped(), screen(rates)))?
            .is_break()
        {
            return Ok(Code::Ok);
        }
        looks += 1;
        if count.is_some_and(|count| looks >= count) {
            return Ok(Code::Ok);
        }
    }
}

/// What was served between two looks; since it was attached, for one that was not there before.
fn rates(now: &IoView, before: &[IoView]) -> Rates {
    let nothing = IoView {
        at: 0.0,
        reads: OpView::default(),
        writes: OpView::default(),
        zeroes: OpView::default(),
        flushes: OpView::default(),
        errors: 0,
        ..now.clone()
    };
    // Attached anew, its counters begin anew.
    let is_before = |earlier: &&IoView| {
        earlier.id == now.id && earlier.at < now.at && earlier.writes.timed <= now.writes.timed
    };
    let Some(earlier) = before.iter().find(is_before) else {
        return between(now, &nothing, 0.0);
    };
    between(now, earlier, now.at - earlier.at)
}

fn between(now: &IoView, earlier: &IoView, span: f64) -> Rates {
    let per_second = |now: u64, earlier: u64| {
        let more = now.saturating_sub(earlier) as f64;
        if span > 0.0 { more / span } else { 0.0 }
    };
    let mean = |now: &OpView, earlier: &OpView| {
        let count = now.timed.saturating_sub(earlier.timed);
        (count > 0).then(|| (now.seconds - earlier.seconds).max(0.0) / count as f64)
    };
    Rates {
        volume: now.volume.clone(),
        node: now.node.clone(),
        reads_per_second: per_second(now.reads.count, earlier.reads.count),
        read_bytes_per_second: per_second(now.reads.bytes, earlier.reads.bytes),
        read_seconds: mean(&now.reads, &earlier.reads),
        writes_per_second: per_second(now.writes.count, earlier.writes.count),
        written_bytes_per_second: per_second(now.writes.bytes, earlier.writes.bytes),
        write_seconds: mean(&now.writes, &earlier.writes),
        flushes_per_second: per_second(now.flushes.count, earlier.flushes.count),
        flush_seconds: mean(&now.flushes, &earlier.flushes),
        errors: now.errors,
        in_flight: now.in_flight,
    }
}

fn screen(rates: &[Rates]) -> String {
    if rates.is_empty() {
        return "no volume is attached on this node\n".to_owned();
    }
    let size = |bytes: f64| format!("{}/s", format_size(bytes as u64));
    let span = |seconds: Option<f64>| {
        seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.2} ms", seconds * 1e3))
    };
    let rows: Vec<_> = rates
        .iter()
        .map(|rates| {
            [
                rates.volume.clone(),
                format!("{:.0}", rates.reads_per_second),
                size(rates.read_bytes_per_second),
                span(rates.read_seconds),
                format!("{:.0}", rates.writes_per_second),
                size(rates.written_bytes_per_second),
                span(rates.write_seconds),
                format!("{:.0}", rates.flushes_per_second),
                span(rates.flush_seconds),
                rates.in_flight.to_string(),
                rates.errors.to_string(),
            ]
        })
        .collect();
    let headings = [
        "VOLUME",
        "READS/S",
        "READ",
        "TAKES",
        "WRITES/S",
        "WRITTEN",
        "TAKES",
        "FLUSHES/S",
        "TAKES",
        "IN FLIGHT",
        "ERRORS",
    ];
    table(headings, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(at: f64, writes: u64) -> IoView {
        let op = |count: u64| OpView {
            count,
            bytes: count * 4096,
            timed: count,
            seconds: count as f64 / 1000.0,
        };
        IoView {
            volume: "v".to_owned(),
            id: "1d".to_owned(),
            node: "n1".to_owned(),
            at,
            reads: op(0),
            writes: op(writes),
            zeroes: op(0),
            flushes: op(0),
            errors: 0,
            in_flight: 1,
        }
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let now = rates(&view(12.0, 300), &[view(10.0, 100)]);
        assert_eq!((now.writes_per_second, now.reads_per_second), (100.0, 0.0));
        assert_eq!(now.written_bytes_per_second, 409_600.0);
        assert!(
            now.write_seconds.is_some_and(|span| (span - 0.001).abs() < 1e-9) && now.read_seconds.is_none()
        );
        let screen = screen(&[now]);
        assert!(
            screen.contains("400 KiB/s") && screen.contains("1.00 ms"),
            "{screen}"
        );
        let anew = rates(&view(12.0, 5), &[view(10.0, 100)]);
        assert_eq!(anew.writes_per_second, 0.0, "its counters have begun anew");
    }
}
