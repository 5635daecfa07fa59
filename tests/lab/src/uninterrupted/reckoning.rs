//! What a run came to: the table, and whether it was good.
//!
//! It owns the judgement. It must never be kinder than: no I/O error, no wrong byte, no lost commit, no failed transaction, and
//! all of that looked at.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::loads::Troubles;
use super::pauses::{Kill, Pauses, longest, median};
use super::probe::Notes;
use crate::postgres::Done;

/// No pause of a sound system is longer; a run with one has hung.
const SANE: Duration = Duration::from_secs(30);
/// Of errors of one kind so many are shown.
const SHOWN: usize = 5;

/// All that was found.
#[derive(Debug, Default, Clone)]
pub struct Reckoning {
    title: String,
    kills: Vec<Kill>,
    /// What the probes felt.
    pub probes: Vec<Notes>,
    /// What the clients of the database were told.
    pub clients: Done,
    /// Commits of which a client was told and that are not there.
    pub lost: Vec<u64>,
    /// Failed requests, as containers and kernel tell them.
    pub io: Vec<String>,
    /// Wrong data.
    pub verify: Vec<String>,
    /// Passes of fio that were verified.
    pub passes: u64,
    /// Checks at the end that were not passed, or not made.
    pub broken: Vec<String>,
}

impl Reckoning {
    pub(super) fn new(title: String, kills: Vec<Kill>) -> Self {
        Self {
            title,
            kills,
            ..Self::default()
        }
    }

    /// Takes in what the containers and the kernel tell.
    pub(super) fn take(&mut self, troubles: Troubles, kernel: Vec<String>) {
        self.io = troubles.io;
        self.io
            .extend(kernel.into_iter().map(|line| format!("kernel: {line}")));
        self.verify = troubles.verify;
        self.passes = troubles.passes;
    }

    /// Whether a container may have noticed anything but a pause.
    pub fn hurt(&self) -> bool {
        !self.io.is_empty() || !self.clients.failures.is_empty()
    }

    /// The pauses, each given to its kill.
    pub fn pauses(&self) -> Pauses {
        Pauses::attribute(&self.kills, &self.probes)
    }

    /// How often a daemon was killed.
    pub fn kills(&self) -> usize {
        self.kills.len()
    }

    /// Fails unless nobody but a stop-watch has noticed anything.
    pub fn judge(&self) -> Result<()> {
        let pauses = self.pauses();
        let worst = longest(&pauses.primary).max(longest(&pauses.replica));
        let bad: Vec<String> = [
            (self.kills.is_empty(), "nothing was killed".to_owned()),
            (
                self.passes == 0 || self.clients.transactions == 0 || self.clients.commits.is_empty(),
                "a load did nothing".to_owned(),
            ),
            (!self.io.is_empty(), format!("{} I/O errors", self.io.len())),
            (
                !self.verify.is_empty(),
                format!("{} verify errors", self.verify.len()),
            ),
            (!self.lost.is_empty(), format!("{} commits lost", self.lost.len())),
            (
                !self.clients.failures.is_empty(),
                format!("{} failures of clients", self.clients.failures.len()),
            ),
            (!self.broken.is_empty(), self.broken.join("; ")),
            (worst > SANE, format!("a pause of {:.1} s", worst.as_secs_f64())),
        ]
        .into_iter()
        .filter_map(|(is, what)| is.then_some(what))
        .collect();
        ensure!(bad.is_empty(), "interrupted: {}", bad.join(", "));
        Ok(())
    }
}

impl fmt::Display for Reckoning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pauses = self.pauses();
        let seconds = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
        let row = |f: &mut fmt::Formatter<'_>, what: &str, value: &dyn fmt::Display| {
            writeln!(f, "  {what:<44} {value:>12}")
        };
        writeln!(f, "{}", self.title)?;
        row(f, "kills", &self.kills.len())?;
        for (whose, all) in [
            ("serving daemon", &pauses.primary),
            ("replica's daemon", &pauses.replica),
        ] {
            if !all.is_empty() {
                row(f, &format!("  pauses by a {whose}"), &all.len())?;
                row(f, "    median", &seconds(median(all)))?;
                row(f, "    longest", &seconds(longest(all)))?;
            }
        }
        let others: Vec<Duration> = pauses.other.iter().map(|gap| gap.length).collect();
        row(f, "  writes above 100 ms that met no kill", &others.len())?;
        row(f, "    longest", &seconds(longest(&others)))?;
        row(
            f,
            "writes of the probes",
            &self.probes.iter().map(|notes| notes.writes).sum::<u64>(),
        )?;
        row(f, "passes of fio, each verified", &self.passes)?;
        row(f, "transactions of pgbench", &self.clients.transactions)?;
        row(f, "commits that a client noted", &self.clients.commits.len())?;
        for (what, all) in [
            ("I/O errors", &self.io),
            ("verify errors", &self.verify),
            ("failed transactions and clients", &self.clients.failures),
            ("checks at the end that failed", &self.broken),
        ] {
            row(f, what, &all.len())?;
            for line in all.iter().take(SHOWN) {
                writeln!(f, "      {line}")?;
            }
        }
        row(f, "commits lost", &self.lost.len())?;
        write!(
            f,
            "{} kills, pauses {} median, {} longest, {} I/O errors, {} verify errors, {} commits lost",
            self.kills.len(),
            seconds(median(&pauses.primary)),
            seconds(longest(&pauses.primary).max(longest(&pauses.replica))),
            self.io.len(),
            self.verify.len(),
            self.lost.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::pauses::Whose;
    use super::super::probe::Gap;
    use super::*;

    fn good() -> Reckoning {
        let kill = Kill {
            at: Duration::from_secs(10),
            whose: Whose::Primary,
        };
        let probe = Notes {
            writes: 1000,
            gaps: vec![Gap {
                begin: Duration::from_secs(10),
                length: Duration::from_millis(700),
            }],
            errors: Vec::new(),
        };
        Reckoning {
            probes: vec![probe],
            passes: 3,
            clients: Done {
                commits: [1, 2].into(),
                transactions: 100,
                failures: Vec::new(),
            },
            ..Reckoning::new("one node".to_owned(), vec![kill])
        }
    }

    #[test]
    fn only_a_run_without_any_fault_is_good() {
        type Spoil = (&'static str, fn(&mut Reckoning));
        good().judge().unwrap();
        assert!(good().to_string().ends_with(
            "1 kills, pauses 0.70 s median, 0.70 s longest, 0 I/O errors, 0 verify errors, 0 commits lost"
        ));
        let spoil: [Spoil; 8] = [
            ("nothing was killed", |r| r.kills.clear()),
            ("a load did nothing", |r| r.passes = 0),
            ("1 I/O errors", |r| r.io.push("EIO".to_owned())),
            ("1 verify errors", |r| r.verify.push("bad".to_owned())),
            ("1 commits lost", |r| r.lost.push(2)),
            ("1 failures of clients", |r| {
                r.clients.failures.push("gone".to_owned());
            }),
            ("no answer", |r| r.broken.push("no answer".to_owned())),
            ("a pause of 31.0 s", |r| {
                r.probes[0].gaps[0].length = Duration::from_secs(31);
            }),
        ];
        for (why, spoil) in spoil {
            let mut one = good();
            spoil(&mut one);
            let told = one.judge().unwrap_err().to_string();
            assert!(told.contains(why), "{why}: {told}");
        }
    }
}
