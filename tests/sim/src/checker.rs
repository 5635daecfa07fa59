//! What a volume's users may see: for every sector the values that P1 and P3 allow, and P2.
//!
//! Knows the promises only, nothing of how they are kept. An event's number is its order in the run.

use std::collections::BTreeMap;

use bulkhead_engine::machine::primary::OpId;

/// A value that a sector may hold.
#[derive(Clone, Copy, Debug)]
struct Version {
    value: u64,
    submitted: u64,
    /// When its write ended, if it has.
    ended: Option<u64>,
    acknowledged: bool,
    op: OpId,
}

/// A sector's history since the volume was last taken over.
#[derive(Clone, Debug)]
struct Sector {
    /// Values that may be read now.
    current: Vec<Version>,
    /// Older ones that a power cut of every member may bring back.
    unflushed: Vec<Version>,
    /// Values that could be read until then.
    expired: Vec<(u64, u64)>,
}

/// An operation that has not ended.
#[derive(Clone, Debug)]
pub enum Doing {
    /// A write, or a zero with the value zero.
    Write {
        /// Tracked sectors that it touches.
        sectors: Vec<usize>,
        /// The value.
        value: u64,
    },
    /// A read.
    Read {
        /// Tracked sectors, with their place in the answer.
        sectors: Vec<(usize, u32)>,
    },
    /// A flush.
    Flush,
}

#[derive(Clone, Debug)]
struct Pending {
    doing: Doing,
    term: u32,
    submitted: u64,
}

/// The checker.
#[derive(Debug)]
pub struct Checker {
    sectors: Vec<Sector>,
    pending: BTreeMap<OpId, Pending>,
    number: u64,
    serving: u32,
    /// A person has declared that whatever is served next is the volume.
    anything_goes: bool,
    /// Counts for the report.
    pub acknowledged: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Reads answered.
    pub reads: u64,
}

const NOBODY: OpId = OpId(u64::MAX);

impl Checker {
    /// A volume of which this many sectors are tracked, all zero.
    pub fn new(sectors: usize) -> Self {
        let zero = Sector {
            current: vec![Version {
                value: 0,
                submitted: 0,
                ended: Some(0),
                acknowledged: true,
                op: NOBODY,
            }],
            unflushed: Vec::new(),
            expired: Vec::new(),
        };
        Self {
            sectors: vec![zero; sectors],
            pending: BTreeMap::new(),
            number: 1,
            serving: 0,
            anything_goes: false,
            acknowledged: 0,
            flushes: 0,
            reads: 0,
        }
    }

    /// Notes an operation.
    pub fn submitted(&mut self, op: OpId, term: u32, doing: Doing) {
        self.number += 1;
        let submitted = self.number;
        // A primary that has been replaced writes into the void, and must not say that it is done.
        if let Doing::Write { sectors, value } = &doing
            && term >= self.serving
        {
            for &sector in sectors {
                self.sectors[sector].current.push(Version {
                    value: *value,
                    submitted,
                    ended: None,
                    acknowledged: false,
                    op,
                });
            }
        }
        self.pending.insert(
            op,
            Pending {
                doing,
                term,
                submitted,
            },
        );
    }

    /// Whether a write to this sector is under way.
    pub fn is_being_written(&self, sector: usize) -> bool {
        self.sectors[sector]
            .current
            .iter()
            .any(|version| !version.acknowledged)
    }

    /// The term that was served last.
    pub fn serving_term(&self) -> u32 {
        self.serving
    }

    /// An operation that nobody has answered is given to another primary of its node. It was under way all the time.
    pub fn asked_again(&mut self, op: OpId, term: u32) {
        self.number += 1;
        if let Some(pending) = self.pending.get_mut(&op) {
            pending.term = term;
        }
    }

    /// The process that had asked for it is gone: nobody will be answered.
    pub fn forgotten(&mut self, op: OpId) {
        self.number += 1;
        if let Some(pending) = self.pending.remove(&op) {
            self.end(op, &pending, false);
        }
    }

    fn end(&mut self, op: OpId, pending: &Pending, acknowledged: bool) {
        let number = self.number;
        let Doing::Write { sectors, .. } = &pending.doing else {
            return;
        };
        for &sector in sectors {
            let at = &mut self.sectors[sector];
            for version in at.current.iter_mut().chain(&mut at.unflushed) {
                if version.op == op {
                    version.ended = Some(number);
                    version.acknowledged = acknowledged;
                }
            }
            if acknowledged && at.current.iter().any(|version| version.op == op) {
                at.expire(number, |version| {
                    version.ended.is_some_and(|ended| ended < pending.submitted) && version.op != op
                });
            }
        }
    }

    /// An operation has ended with an error.
    pub fn failed(&mut self, op: OpId) {
        self.forgotten(op);
    }

    /// A write or a flush was acknowledged.
    pub fn acknowledged(&mut self, op: OpId) -> Result<(), String> {
        self.number += 1;
        let Some(pending) = self.pending.remove(&op) else {
            return Err(format!("{op:?} was completed twice"));
        };
        if pending.term < self.serving {
            return Err(format!(
                "P2: the primary of term {} acknowledged {op:?} after the one of term {} had begun to serve",
                pending.term, self.serving
            ));
        }
        match pending.doing {
            Doing::Flush => {
                self.flushes += 1;
                for sector in &mut self.sectors {
                    sector.flushed(pending.submitted);
                }
            }
            _ => {
                self.acknowledged += 1;
                self.end(op, &pending, true);
            }
        }
        Ok(())
    }

    /// A read was answered.
    pub fn read(&mut self, op: OpId, value_at: impl Fn(u32) -> u64) -> Result<(), String> {
        self.number += 1;
        let number = self.number;
        self.reads += 1;
        let Some(pending) = self.pending.remove(&op) else {
            return Err(format!("{op:?} was completed twice"));
        };
        if pending.term < self.serving {
            return Err(format!(
                "P2: the primary of term {} answered the read {op:?} after the one of term {} had begun to serve",
                pending.term, self.serving
            ));
        }
        let Doing::Read { sectors } = pending.doing else {
            return Err(format!("{op:?} is no read, but was answered with data"));
        };
        for (sector, place) in sectors {
            let value = value_at(place);
            let at = &mut self.sectors[sector];
            if at.current.iter().any(|version| version.value == value) {
                // What was read once never goes back; what was under way may still come.
                at.expire(number, |version| {
                    version.value != value && version.ended.is_some_and(|ended| ended < pending.submitted)
                });
                continue;
            }
            let was = at
                .expired
                .iter()
                .any(|&(old, until)| old == value && until >= pending.submitted);
            if !was {
                return Err(format!(
                    "P3: {op:?} of term {} read {value} from tracked sector {sector}, allowed: {}",
                    pending.term,
                    at.allowed()
                ));
            }
        }
        Ok(())
    }

    /// A person has declared a replica the volume, with whatever it holds.
    pub fn forced(&mut self) {
        self.anything_goes = true;
    }

    /// A primary begins to serve; this is what its members hold. `strong`: a member has kept power all the time. `waiting`: what it will
    /// be asked for again, which is under way as before, whether it has been done already or not.
    pub fn serving(
        &mut self,
        term: u32,
        strong: bool,
        waiting: &[OpId],
        content: impl Fn(usize) -> u64,
    ) -> Result<(), String> {
        self.number += 1;
        let number = self.number;
        if term <= self.serving {
            return Err(format!(
                "P2: a primary of term {term} begins to serve after one of term {}",
                self.serving
            ));
        }
        let anything_goes = std::mem::take(&mut self.anything_goes);
        for index in 0..self.sectors.len() {
            let value = content(index);
            let at = &mut self.sectors[index];
            let allowed = |versions: &[Version]| versions.iter().any(|version| version.value == value);
            if !(anything_goes || allowed(&at.current) || !strong && allowed(&at.unflushed)) {
                return Err(format!(
                    "{}: the primary of term {term} begins to serve with {value} in tracked sector {index}, allowed: {}{}",
                    if strong { "P1/P3" } else { "P1 (flushed)" },
                    at.allowed(),
                    if strong {
                        String::new()
                    } else {
                        format!(", unflushed {:?}", at.unflushed_values())
                    },
                ));
            }
            // Older than what is under way if it was there before: so it is gone once that has been acknowledged.
            let found = at.current.iter().chain(&at.unflushed);
            let ended = found.filter(|version| version.value == value);
            let ended = ended.filter_map(|version| version.ended).max();
            let is_waiting = |version: &Version| version.ended.is_none() && waiting.contains(&version.op);
            let under_way: Vec<Version> = at.current.iter().copied().filter(is_waiting).collect();
            at.expire(number, |version| version.value != value);
            let ended = ended.filter(|_| !under_way.is_empty()).unwrap_or(number);
            at.current = vec![Version {
                value,
                submitted: ended,
                ended: Some(ended),
                acknowledged: true,
                op: NOBODY,
            }];
            at.current.extend(under_way);
            // It was made durable everywhere before it was served.
            at.unflushed.clear();
        }
        self.serving = term;
        Ok(())
    }

    /// Operations that have not been answered.
    pub fn unanswered(&self) -> impl Iterator<Item = OpId> + '_ {
        self.pending.keys().copied()
    }
}

impl Sector {
    /// Versions for which `gone` holds cannot be read any more; a power cut may still bring them back.
    fn expire(&mut self, number: u64, gone: impl Fn(&Version) -> bool) {
        let (old, current) = std::mem::take(&mut self.current)
            .into_iter()
            .partition(|version| gone(version));
        self.current = current;
        let old: Vec<Version> = old;
        self.expired
            .extend(old.iter().map(|version| (version.value, number)));
        self.unflushed.extend(old);
        let excess = self.expired.len().saturating_sub(64);
        self.expired.drain(..excess);
    }

    /// Everything acknowledged before is durable: what ended before such a write was submitted does not come back.
    fn flushed(&mut self, before: u64) {
        let is_flushed =
            |version: &&Version| version.acknowledged && version.ended.is_some_and(|ended| ended < before);
        let newest = self
            .current
            .iter()
            .chain(&self.unflushed)
            .filter(is_flushed)
            .map(|version| version.submitted)
            .max();
        if let Some(newest) = newest {
            self.unflushed
                .retain(|version| version.ended.is_none_or(|ended| ended >= newest));
        }
    }

    fn allowed(&self) -> String {
        let show = |version: &Version| {
            let state = match (version.acknowledged, version.ended) {
                (true, _) => "acknowledged",
                (false, Some(_)) => "failed",
                (false, None) => "under way",
            };
            format!("{} ({state})", version.value)
        };
        self.current.iter().map(show).collect::<Vec<_>>().join(", ")
    }

    fn unflushed_values(&self) -> Vec<u64> {
        self.unflushed.iter().map(|version| version.value).collect()
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
