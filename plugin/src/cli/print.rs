//! Output: tables for people, JSON for programs. A closed pipe is no error.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{CliError, Code};

/// Where output goes, and in which form.
pub(super) struct Printer {
    json: bool,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a value: as JSON, or as the text that `text` makes of it.
    pub(super) fn value<T: Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        let text = if self.json {
            let mut json = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
            json.push('\n');
            json
        } else {
            text(value)
        };
        self.bytes(text.as_bytes()).map(|_| ())
    }

    /// Prints one of several values that come one after the other: as JSON on a line of its own, or as the text that `text`
    /// makes of it. Nobody may be reading any more.
    pub(super) fn line<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<ControlFlow<()>, CliError> {
        let text = if self.json {
            serde_json::to_string(value).map_err(io::Error::from)? + "\n"
        } else {
            text(value)
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            Err(error) => Err(error.into()),
        }
    }

    /// Prints bytes.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<Code, CliError> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(Code::Ok),
        }
    }

    /// Prints an error.
    pub(super) fn error(&self, error: &CliError) {
        let text = match (self.json, error) {
            (true, CliError::Daemon(detail)) => serde_json::json!({ "error": detail }).to_string(),
            (true, _) => serde_json::json!({ "error": { "message": error.to_string() } }).to_string(),
            (false, _) => format!("bulkhead: {error}"),
        };
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// A moment and how long ago it was: `2026-11-23T07:12:03Z (3m 5s ago)`.
pub(super) fn moment(moment: SystemTime) -> String {
    let shown = humantime::format_rfc3339_seconds(moment);
    match SystemTime::now().duration_since(moment) {
        Ok(passed) => format!("{shown} ({} ago)", span(passed)),
        // By the clock of another node.
        Err(_) => shown.to_string(),
    }
}

/// A span in whole seconds, the two largest parts of it.
pub(super) fn span(span: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(span.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Counts by state: `2 ok, 1 offline`.
pub(super) fn counts(counts: &BTreeMap<String, usize>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let parts: Vec<String> = counts
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    parts.join(", ")
}

/// What an answer that may be out of date has to carry before it; nothing if it is of now.
pub(super) fn age(as_of: Option<SystemTime>) -> String {
    match as_of {
        Some(as_of) => format!(
            "! the store is away; this is what was known at {}\n",
            moment(as_of)
        ),
        None => String::new(),
    }
}

/// Lines of a name and a value each.
#[derive(Default)]
pub(super) struct Lines(String);

impl Lines {
    /// Adds a line.
    pub(super) fn line(&mut self, key: &str, value: impl AsRef<str>) {
        self.0.push_str(format!("{key:<16}{}", value.as_ref()).trim_end());
        self.0.push('\n');
    }

    /// Adds a line if there is something to say.
    pub(super) fn some(&mut self, key: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.line(key, value);
        }
    }

    /// Adds one line for each label.
    pub(super) fn labels(&mut self, labels: &BTreeMap<String, String>) {
        for (label, value) in labels {
            self.line("Label", format!("{label}={value}"));
        }
    }

    /// Adds text as it is.
    pub(super) fn text(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// All of it.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Columns under headings, as wide as what is in them. Nothing stands behind the last one.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    let headings = headings.map(str::to_owned);
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_spans_are_short() {
        assert_eq!(span(Duration::from_millis(93_784_900)), "1day 2h");
        assert_eq!(span(Duration::from_millis(900)), "0s");
        let then = SystemTime::now() - Duration::from_secs(65);
        assert!(moment(then).ends_with("(1m 5s ago)"), "{}", moment(then));
        let ahead = SystemTime::now() + Duration::from_secs(65);
        assert!(moment(ahead).ends_with('Z'));
        assert!(age(None).is_empty() && age(Some(then)).contains("ago"));
    }

    #[test]
    fn columns_are_as_wide_as_their_content() {
        let rows = [
            ["a".to_owned(), "1 GiB".to_owned()],
            ["long name".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["NAME", "SIZE"], &rows),
            "NAME       SIZE\na          1 GiB\nlong name\n"
        );
    }
}
