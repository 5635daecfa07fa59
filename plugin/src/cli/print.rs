//! Output: tables for people, JSON for programs. A closed pipe is no error.

use std::io::{self, Write};

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
