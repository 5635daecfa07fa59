//! The log, and the window of values that it allows in each block.
//!
//! It owns the meaning of the lines, one event each, in the order in which they happened:
//!
//! | line | means |
//! |---|---|
//! | `s BLOCK COUNTER` | the write is about to be made |
//! | `a BLOCK COUNTER` | it was acknowledged |
//! | `f ID` | a flush is about to be made; it covers every `a` above |
//! | `g ID` | it was acknowledged |
//! | `r BLOCK COUNTER` | this value was read |
//! | `p` | every member lost its power: what was not flushed may be gone |
//! | `v …` | something was found that must not be |
//! | `e …` | an operation failed, and the program ended |
//!
//! It must never allow a value that the promises P1 to P3 do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::block::Content;

/// All that is known of a register file.
#[derive(Debug, Default, Clone)]
pub struct History {
    blocks: BTreeMap<u64, Block>,
    flushes: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Acknowledged since the last flush began, so that a flush notes no more than it has to.
    fresh: BTreeMap<u64, u64>,
    last_flush: u64,
    /// What was counted.
    pub tally: Tally,
}

/// Counts of events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Acknowledged writes.
    pub writes: u64,
    /// Acknowledged flushes.
    pub flushes: u64,
    /// Values that were read and fitted.
    pub reads: u64,
    /// Lines that tell of a violation.
    pub violations: u64,
}

#[derive(Debug, Default, Clone)]
struct Block {
    /// Writes whose outcome is not known: submitted, not acknowledged.
    open: BTreeSet<u64>,
    /// Acknowledged later than what was flushed: gone, or not, after a power cut of all.
    unflushed: BTreeSet<u64>,
    submitted: u64,
    acknowledged: u64,
    flushed: u64,
    seen: u64,
}

/// A block holds what it must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    block: u64,
    found: Content,
    least: u64,
    most: u64,
    flushed: u64,
    seen: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            block,
            found,
            least,
            most,
            flushed,
            seen,
        } = self;
        write!(
            f,
            "block {block} holds {found:?}; allowed are {least} to {most} (flushed {flushed}, read before {seen})"
        )
    }
}

impl History {
    /// What a whole log tells; lines that are cut short by a kill are left out.
    pub fn replay(text: &str) -> Self {
        let mut history = Self::default();
        for line in text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
        {
            history.event(line);
        }
        history
    }

    /// Takes one line in.
    pub fn event(&mut self, line: &str) {
        let mut words = line.split(' ');
        let kind = words.next();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (first, second) = (number(), number());
        if matches!(kind, Some("s" | "a" | "f" | "g" | "r")) && words.next().is_some() {
            return;
        }
        match (kind, first, second) {
            (Some("s"), Some(block), Some(counter)) => {
                let block = self.blocks.entry(block).or_default();
                block.submitted = block.submitted.max(counter);
                block.open.insert(counter);
            }
            (Some("a"), Some(number), Some(counter)) => {
                let block = self.blocks.entry(number).or_default();
                block.acknowledged = block.acknowledged.max(counter);
                // One writer for each block: what was open before can no longer come out on top.
                block.open.retain(|&open| open > counter);
                block.unflushed.insert(counter);
                self.fresh.insert(number, counter);
                self.tally.writes += 1;
            }
            (Some("f"), Some(id), _) => {
                self.last_flush = self.last_flush.max(id);
                let mut covered = std::mem::take(&mut self.fresh);
                // A flush that is still under way may fail: what it covers is covered by this one too.
                for earlier in self.flushes.values() {
                    for (&block, &counter) in earlier {
                        let known = covered.entry(block).or_default();
                        *known = (*known).max(counter);
                    }
                }
                self.flushes.insert(id, covered);
            }
            (Some("g"), Some(id), _) => {
                for (number, counter) in self.flushes.remove(&id).unwrap_or_default() {
                    let block = self.blocks.entry(number).or_default();
                    block.flushed = block.flushed.max(counter);
                    let flushed = block.flushed;
                    block.unflushed.retain(|&counter| counter > flushed);
                }
                self.tally.flushes += 1;
            }
            (Some("r"), Some(number), Some(counter)) => {
                let block = self.blocks.entry(number).or_default();
                block.seen = block.seen.max(counter);
                self.tally.reads += 1;
            }
            (Some("p"), ..) => {
                self.fresh.clear();
                self.flushes.clear();
                for block in self.blocks.values_mut() {
                    block.seen = block.flushed;
                    block.open.append(&mut block.unflushed);
                    block.acknowledged = block.flushed;
                }
            }
            (Some("v"), ..) => self.tally.violations += 1,
            _ => {}
        }
    }

    /// Whether a block may hold this.
    pub fn check(&self, number: u64, found: Content) -> Result<(), Violation> {
        let block = self.blocks.get(&number).cloned().unwrap_or_default();
        let least = block.acknowledged.max(block.flushed).max(block.seen);
        let good = match found {
            Content::Blank => least == 0,
            Content::Value(value) => value == least || (value > least && block.open.contains(&value)),
            // The power failed in the middle of a write that nobody was told of.
            Content::Torn => block
                .open
                .iter()
                .any(|&open| open > block.flushed.max(block.seen)),
        };
        if good {
            return Ok(());
        }
        Err(Violation {
            block: number,
            found,
            least,
            most: block.submitted,
            flushed: block.flushed,
            seen: block.seen,
        })
    }

    /// The number of the next run of the program. It leads each counter and id of the run, so that a run that goes on where
    /// it was thought to be dead is told apart from the one that has taken its place.
    pub fn next_run(&self) -> u64 {
        let last = self
            .blocks
            .values()
            .map(|block| block.submitted)
            .max()
            .unwrap_or(0);
        (last.max(self.last_flush) >> 32) + 1
    }

    /// How many blocks hold something that must have survived.
    pub fn kept(&self) -> usize {
        self.blocks
            .values()
            .filter(|block| block.flushed.max(block.acknowledged) > 0)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(log: &str) -> Vec<String> {
        let history = History::replay(log);
        let candidates = [Content::Blank, Content::Torn]
            .into_iter()
            .chain((1..=5).map(Content::Value));
        candidates
            .filter(|&content| history.check(0, content).is_ok())
            .map(|content| format!("{content:?}"))
            .collect()
    }

    #[test]
    fn an_acknowledged_write_must_be_there_and_an_open_one_may() {
        assert_eq!(allowed(""), ["Blank"]);
        assert_eq!(allowed("s 0 1\n"), ["Blank", "Torn", "Value(1)"]);
        assert_eq!(allowed("s 0 1\na 0 1\n"), ["Value(1)"]);
        assert_eq!(allowed("s 0 1\na 0 1\ns 0 2\n"), ["Torn", "Value(1)", "Value(2)"]);
        // The older open write was overtaken by an acknowledged one.
        assert_eq!(allowed("s 0 1\na 0 1\ns 0 2\ns 0 3\na 0 3\n"), ["Value(3)"]);
        // A line that a kill has cut short counts for nothing.
        assert_eq!(
            allowed("s 0 1\na 0 1\ns 0 2\na 0 2"),
            ["Torn", "Value(1)", "Value(2)"]
        );
    }

    #[test]
    fn after_a_power_cut_of_all_only_the_flushed_must_be_there() {
        let log = "s 0 1\na 0 1\nf 1\ns 0 2\na 0 2\ng 1\n";
        assert_eq!(allowed(log), ["Value(2)"]);
        assert_eq!(allowed(&format!("{log}p\n")), ["Torn", "Value(1)", "Value(2)"]);
        // What was not flushed by a flush that began later than the acknowledgement is not covered.
        assert_eq!(
            allowed("f 1\ns 0 1\na 0 1\ng 1\np\n"),
            ["Blank", "Torn", "Value(1)"]
        );
        // A flush that failed covers nothing; the next one covers it too.
        assert_eq!(allowed("s 0 1\na 0 1\nf 1\np\n"), ["Blank", "Torn", "Value(1)"]);
        assert_eq!(allowed("s 0 1\na 0 1\nf 1\nf 2\ng 2\np\n"), ["Value(1)"]);
    }

    #[test]
    fn what_was_read_once_never_goes_back() {
        let log = "s 0 1\na 0 1\ns 0 2\n";
        assert_eq!(allowed(log), ["Torn", "Value(1)", "Value(2)"]);
        assert_eq!(allowed(&format!("{log}r 0 2\n")), ["Value(2)"]);
        let after = format!("{log}f 1\ng 1\ns 0 3\na 0 3\np\n");
        assert_eq!(
            allowed(&format!("{after}r 0 3\n")),
            ["Value(3)"],
            "stable after the power cut"
        );
    }
}
