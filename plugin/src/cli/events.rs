//! `bulkhead events` and `bulkhead alerts`: what happened, what happens, and what is wrong.

use std::time::SystemTime;

use super::args::{EventsArgs, WatchArgs};
use super::client::Client;
use super::print::{Printer, moment, table};
use super::watch::show;
use super::{CliError, Code};
use crate::service::{AlertView, EventKind, EventView, Severity};

pub(super) async fn run(client: &Client, printer: &Printer, args: &EventsArgs) -> Result<Code, CliError> {
    let wanted = |event: &EventView| {
        let named = |name: &String| event.object.name == *name || event.object.id == *name;
        args.severity.is_none_or(|least| event.severity >= least) && args.object.as_ref().is_none_or(named)
    };
    // Opened first: what happens between the two is told by both, and shown once.
    let stream = if args.follow {
        Some(client.stream("/events/stream").await?)
    } else {
        None
    };
    let mut events: Vec<EventView> = client.get("/events").await?;
    events.retain(wanted);
    let skipped = events.len().saturating_sub(args.last.unwrap_or(usize::MAX));
    let shown: Vec<EventView> = events.drain(skipped..).collect();
    let Some(mut stream) = stream else {
        printer.value(&shown, |shown| list(shown))?;
        return Ok(Code::Ok);
    };
    for event in &shown {
        if printer.line(event, line)?.is_break() {
            return Ok(Code::Ok);
        }
    }
    let told: std::collections::BTreeSet<String> = shown.into_iter().map(|event| event.id).collect();
    while let Some(event) = stream.next::<EventView>().await? {
        if wanted(&event) && !told.contains(&event.id) && printer.line(&event, line)?.is_break() {
            return Ok(Code::Ok);
        }
    }
    Err(CliError::Ended)
}

pub(super) async fn alerts(client: &Client, printer: &Printer, watch: &WatchArgs) -> Result<Code, CliError> {
    let look = async || client.get::<Vec<AlertView>>("/alerts").await;
    let alerts = show(printer, watch, look, |alerts| alerts_screen(alerts)).await?;
    Ok(if alerts.is_none_or(|alerts| alerts.is_empty()) {
        Code::Ok
    } else {
        Code::Unhealthy
    })
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

fn list(events: &[EventView]) -> String {
    if events.is_empty() {
        return "nothing has happened that is kept\n".to_owned();
    }
    events.iter().map(line).collect()
}

/// `2026-11-23T07:12:03Z critical raised node-away n2: …`.
fn line(event: &EventView) -> String {
    let kind = match event.kind {
        EventKind::Raised => "raised ",
        EventKind::Cleared => "cleared ",
        EventKind::Happened => "",
    };
    let remedy = if event.remedy.is_empty() {
        String::new()
    } else {
        format!("; {}", event.remedy)
    };
    format!(
        "{} {} {kind}{} {}: {}{remedy}\n",
        humantime::format_rfc3339_seconds(event.at),
        severity(event.severity),
        event.what,
        event.object.name,
        event.cause
    )
}

fn alerts_screen(alerts: &[AlertView]) -> String {
    if alerts.is_empty() {
        return "nothing is wrong that is known\n".to_owned();
    }
    let rows: Vec<_> = alerts
        .iter()
        .map(|alert| {
            [
                severity(alert.severity).to_owned(),
                alert.alert.clone(),
                alert.object.name.clone(),
                age(alert.since),
                alert.cause.clone(),
                alert.remedy.clone(),
            ]
        })
        .collect();
    table(["SEVERITY", "ALERT", "OBJECT", "SINCE", "CAUSE", "REMEDY"], &rows)
}

fn age(since: SystemTime) -> String {
    moment(since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::ObjectView;

    fn object() -> ObjectView {
        ObjectView {
            kind: "node".to_owned(),
            id: "1d".to_owned(),
            name: "n2".to_owned(),
        }
    }

    #[test]
    fn an_event_is_a_line_with_what_to_do() {
        let event = EventView {
            id: "a-1".to_owned(),
            at: SystemTime::UNIX_EPOCH,
            node: "n1".to_owned(),
            kind: EventKind::Raised,
            what: "node-away".to_owned(),
            severity: Severity::Critical,
            object: object(),
            cause: "no sign of life".to_owned(),
            remedy: "look at its power".to_owned(),
        };
        assert_eq!(
            line(&event),
            "1970-01-01T00:00:00Z critical raised node-away n2: no sign of life; look at its power\n"
        );
        let cleared = EventView {
            kind: EventKind::Cleared,
            remedy: String::new(),
            ..event
        };
        assert!(line(&cleared).ends_with("cleared node-away n2: no sign of life\n"));
        assert!(list(&[]).contains("nothing has happened"));
    }

    #[test]
    fn alerts_are_a_table_or_a_word_that_there_are_none() {
        assert!(alerts_screen(&[]).contains("nothing is wrong"));
        let alert = AlertView {
            alert: "node-away".to_owned(),
            severity: Severity::Critical,
            object: object(),
            cause: "no sign of life".to_owned(),
            remedy: "look at its power".to_owned(),
            since: SystemTime::UNIX_EPOCH,
            node: "n1".to_owned(),
        };
        assert!(alerts_screen(&[alert]).contains("look at its power"));
    }
}
