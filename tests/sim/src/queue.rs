//! What is still to happen, in its order: by time, and at one time in the order in which it was put there.

use std::collections::BTreeMap;

use crate::plan::Ns;

/// Events that wait for their time.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: BTreeMap<(Ns, u64), T>,
    count: u64,
}

impl<T> Queue<T> {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            count: 0,
        }
    }

    /// Puts an event there.
    pub(crate) fn push(&mut self, at: Ns, event: T) {
        self.count += 1;
        self.waiting.insert((at, self.count), event);
    }

    /// Takes the next one, and when it happens.
    pub(crate) fn pop(&mut self) -> Option<(Ns, T)> {
        let ((at, _), event) = self.waiting.pop_first()?;
        Some((at, event))
    }

    /// What was to happen at the time `from` happens at `to`.
    pub(crate) fn move_to(&mut self, from: Ns, to: Ns) {
        let moved: Vec<_> = self
            .waiting
            .extract_if((from, 0)..=(from, u64::MAX), |_, _| true)
            .collect();
        let moved = moved
            .into_iter()
            .map(|((_, number), event)| ((to, number), event));
        self.waiting.extend(moved);
    }
}
