//! One write after the other, past every cache, and a note of each that took long: what a container feels of a pause.
//!
//! It owns the form of its log, one event a line:
//!
//! | line | means |
//! |---|---|
//! | `w COUNT` | so many writes were acknowledged so far; about once a second |
//! | `g AT LENGTH` | the write begun at AT took LENGTH; both in milliseconds, AT since 1970 |
//! | `e AT TEXT` | a write failed at AT |
//!
//! All hosts have one clock, that of the machine. It must never give up: what comes after an error is wanted too.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::register::block::{BLOCK, Page, fill};

/// A write that takes longer is noted.
pub const NOTED: Duration = Duration::from_millis(100);
/// Between two writes, so that the probe is no load of its own.
const PAUSE: Duration = Duration::from_millis(2);
/// After a failed write.
const REST: Duration = Duration::from_millis(200);
/// Between two counts.
const COUNT: Duration = Duration::from_secs(1);

/// A write that took long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When it began, since 1970.
    pub begin: Duration,
    /// How long it took.
    pub length: Duration,
}

impl Gap {
    /// When it was over, since 1970.
    pub fn end(&self) -> Duration {
        self.begin + self.length
    }
}

/// What a probe has noted.
#[derive(Debug, Default, Clone)]
pub struct Notes {
    /// Acknowledged writes.
    pub writes: u64,
    /// Those that took long, in order.
    pub gaps: Vec<Gap>,
    /// What the failed ones said.
    pub errors: Vec<String>,
}

impl Notes {
    /// Reads a log; a last line that is cut short is left out.
    pub fn parse(text: &str) -> Self {
        let mut notes = Self::default();
        let whole = text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'));
        for line in whole {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let mut numbers = rest
                .split(' ')
                .map_while(|word| word.parse::<u64>().ok())
                .map(Duration::from_millis);
            match kind {
                "w" => notes.writes = rest.parse().unwrap_or(notes.writes),
                "g" => {
                    if let (Some(begin), Some(length)) = (numbers.next(), numbers.next()) {
                        notes.gaps.push(Gap { begin, length });
                    }
                }
                "e" => notes.errors.push(rest.to_owned()),
                _ => {}
            }
        }
        notes
    }
}

/// The time since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Writes the first block of `file` again and again until it is killed.
pub fn run(file: &Path, log: &Path) -> Result<()> {
    let device = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(file)
        .with_context(|| format!("cannot open {}", file.display()))?;
    let log = File::options()
        .append(true)
        .create(true)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let note = |line: String| (&log).write_all(line.as_bytes()).context("cannot write the log");
    let mut page = Page::new();
    let mut writes: u64 = 0;
    let mut counted = Instant::now();
    loop {
        fill(&mut page.0[..BLOCK], 0, writes + 1);
        let (at, begin) = (now(), Instant::now());
        match device.write_all_at(&page.0, 0) {
            Ok(()) => writes += 1,
            Err(error) => {
                note(format!("e {} {error}\n", now().as_millis()))?;
                thread::sleep(REST);
            }
        }
        let took = begin.elapsed();
        if took > NOTED {
            note(format!("g {} {}\n", at.as_millis(), took.as_millis()))?;
        }
        if writes == 1 || counted.elapsed() > COUNT {
            note(format!("w {writes}\n"))?;
            counted = Instant::now();
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_pauses_and_errors_and_a_cut_line_nothing() {
        let notes = Notes::parse("w 1\ng 1000 250\nw 400\ne 2000 Input/output error (os error 5)\ng 30");
        assert_eq!(notes.writes, 400);
        assert_eq!(
            notes.gaps,
            [Gap {
                begin: Duration::from_secs(1),
                length: Duration::from_millis(250)
            }]
        );
        assert_eq!(notes.gaps[0].end(), Duration::from_millis(1250));
        assert_eq!(notes.errors, ["2000 Input/output error (os error 5)"]);
    }
}
