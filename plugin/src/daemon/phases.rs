//! How long each part of a mount takes, for the log. Decides nothing.

use std::fmt;
use std::time::{Duration, Instant};

/// The parts of something that is under way, one after the other.
#[derive(Debug)]
pub(super) struct Phases {
    begun: Instant,
    mark: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Phases {
    /// The first one begins.
    pub(super) fn begin() -> Self {
        Self::at(Instant::now())
    }

    fn at(now: Instant) -> Self {
        Self {
            begun: now,
            mark: now,
            done: Vec::new(),
        }
    }

    /// What was done since the last one ended is called so. Of what is done more than once the times are added.
    pub(super) fn end(&mut self, phase: &'static str) {
        self.end_at(phase, Instant::now());
    }

    /// What was timed elsewhere meanwhile belongs to this.
    pub(super) fn add(&mut self, others: &Self) {
        self.mark = Instant::now();
        for (phase, took) in &others.done {
            match self.done.iter_mut().find(|(known, _)| known == phase) {
                Some((_, sum)) => *sum += *took,
                None => self.done.push((phase, *took)),
            }
        }
    }

    fn end_at(&mut self, phase: &'static str, now: Instant) {
        let took = now.saturating_duration_since(self.mark);
        self.mark = now;
        match self.done.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, sum)) => *sum += took,
            None => self.done.push((phase, took)),
        }
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (phase, took) in &self.done {
            write!(f, "{phase} {:.2} s, ", took.as_secs_f64())?;
        }
        let all = self.mark.saturating_duration_since(self.begun);
        write!(f, "in all {:.2} s", all.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_what_is_done_again_are_added() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut phases = Phases::at(begin);
        phases.end_at("survey", at(500));
        phases.end_at("attach", at(600));
        phases.end_at("survey", at(850));
        assert_eq!(phases.to_string(), "survey 0.75 s, attach 0.10 s, in all 0.85 s");
    }
}
