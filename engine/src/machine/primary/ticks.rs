//! The volume's clock: the tick of new writes, and which ticks are settled (O3).

use std::collections::VecDeque;

use crate::ids::{Epoch, Tick};

/// Counts unfinished writes by tick.
#[derive(Debug)]
pub(super) struct Ticks {
    current: Tick,
    /// Whether a write has carried the current tick.
    used: bool,
    /// Ticks with unfinished writes, in order; an entry whose count is zero is dropped once it is the first.
    open: VecDeque<(Tick, u32)>,
}

impl Ticks {
    /// The ticks of an epoch; the first is convergence's.
    pub(super) fn of(epoch: Epoch) -> Self {
        Self {
            current: Tick::new(epoch, 1),
            used: false,
            open: VecDeque::new(),
        }
    }

    /// The tick of a write that begins now.
    pub(super) const fn current(&self) -> Tick {
        self.current
    }

    /// A write begins: its tick.
    pub(super) fn begin(&mut self) -> Tick {
        self.used = true;
        match self.open.back_mut() {
            Some((tick, count)) if *tick == self.current => *count += 1,
            _ => self.open.push_back((self.current, 1)),
        }
        self.current
    }

    /// A write has been answered by everyone who had to.
    pub(super) fn end(&mut self, tick: Tick) {
        if let Some(at) = self.open.iter().rposition(|&(open, _)| open == tick)
            && let Some((_, count)) = self.open.get_mut(at)
        {
            *count = count.saturating_sub(1);
        }
        while self.open.front().is_some_and(|&(_, count)| count == 0) {
            self.open.pop_front();
        }
    }

    /// Raises the sequence if a write has carried the current tick.
    pub(super) fn raise(&mut self) {
        if self.used
            && let Some(next) = self.current.next()
        {
            self.current = next;
            self.used = false;
        }
    }

    /// Goes on in a newer epoch.
    pub(super) fn enter(&mut self, epoch: Epoch) {
        if epoch > self.current.epoch() {
            self.current = Tick::new(epoch, 1);
            self.used = false;
        }
    }

    /// Whether the current tick has carried writes, so that raising it would settle something.
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// The newest tick all of whose writes are done, now and for ever: the one before the oldest unfinished, or before the
    /// current one, which may be used again.
    pub(super) fn settled(&self) -> Tick {
        let first_open = self.open.front().map_or(self.current, |&(tick, _)| tick);
        Tick::from_bits(first_open.to_bits() - 1)
    }

    /// Deliberate fault: as if the current tick could not be used again.
    pub(super) fn settled_too_new(&self) -> Tick {
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_stays_before_the_oldest_unfinished_write() {
        let mut ticks = Ticks::of(Epoch(3));
        assert_eq!(ticks.settled(), Tick::first_of(Epoch(3)));
        let first = ticks.begin();
        ticks.raise();
        let second = ticks.begin();
        assert!(second > first);
        ticks.end(second);
        assert_eq!(ticks.settled(), Tick::first_of(Epoch(3)));
        ticks.end(first);
        assert_eq!(ticks.settled(), first, "the second may be carried by more writes");
        ticks.raise();
        assert_eq!(ticks.settled(), second);
    }
}
