//! What a run found, as a table for people.
//!
//! It owns figures and their form. It must never call a case good that failed.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Cases with their figures, in the order in which they ran.
#[derive(Debug, Default)]
pub struct Report {
    title: String,
    cases: Vec<Case>,
}

#[derive(Debug)]
struct Case {
    name: String,
    took: Duration,
    outcome: Result<Vec<Figure>, String>,
}

/// A figure: what was measured, and how much it is.
pub type Figure = (String, String);

impl Report {
    /// An empty report.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            cases: Vec::new(),
        }
    }

    /// Runs a case and notes its figures or its failure. Tells whether it went well.
    pub fn case(&mut self, name: &str, run: impl FnOnce() -> Result<Vec<Figure>>) -> bool {
        println!("--- {name}");
        let begin = Instant::now();
        let outcome = run().map_err(|error| format!("{error:#}"));
        if let Err(error) = &outcome {
            println!("FAILED: {error}");
        }
        let good = outcome.is_ok();
        self.cases.push(Case {
            name: name.to_owned(),
            took: begin.elapsed(),
            outcome,
        });
        good
    }

    /// Prints it; fails if a case did.
    pub fn finish(self) -> Result<()> {
        println!("\n{self}");
        let failed: Vec<_> = self
            .cases
            .iter()
            .filter_map(|case| Some((&case.name, case.outcome.as_ref().err()?)))
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        let lines: String = failed
            .iter()
            .map(|(name, error)| format!("\n{name}: {error}"))
            .collect();
        bail!("{} of {} cases failed:{lines}", failed.len(), self.cases.len())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for case in &self.cases {
            let word = if case.outcome.is_ok() { "ok" } else { "FAILED" };
            writeln!(
                f,
                "  {word:<7} {:<62} {:>7.1} s",
                case.name,
                case.took.as_secs_f64()
            )?;
            for (what, value) in case.outcome.iter().flatten() {
                writeln!(f, "            {what:<58} {value:>14}")?;
            }
        }
        Ok(())
    }
}

/// A figure with its words.
pub fn figure(what: impl Into<String>, value: impl fmt::Display) -> Figure {
    (what.into(), value.to_string())
}

/// Median and greatest of some durations, in milliseconds.
pub fn spread(what: &str, mut all: Vec<Duration>) -> Figure {
    all.sort_unstable();
    let at = |index: usize| all.get(index).map_or(0, Duration::as_millis);
    figure(
        format!("{what}, median / greatest of {}", all.len()),
        format!("{} / {} ms", at(all.len() / 2), at(all.len().saturating_sub(1))),
    )
}
