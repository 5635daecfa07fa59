//! When the peer was last heard, and whether this end was listening at all. Judges nothing.

use super::stream::ReadHalf;
use std::io::{self, IoSliceMut, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A reader that was away for less than this was listening all the time.
const AWAY: Duration = Duration::from_millis(100);

/// What the reader leaves for the keeper to see. Times are milliseconds since the session began.
pub(super) struct Pulse {
    born: Instant,
    heard: AtomicU64,
    /// When the reader last went away to serve what it had read; [`Self::HERE`] while it waits for the peer.
    away_since: AtomicU64,
    /// When the reader last came back after a long time away.
    back_since: AtomicU64,
}

impl Pulse {
    const HERE: u64 = u64::MAX;

    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            heard: AtomicU64::new(0),
            away_since: AtomicU64::new(Self::HERE),
            back_since: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn at(&self, millis: u64) -> Instant {
        self.born + Duration::from_millis(millis)
    }

    /// Since when nothing was heard though this end listened, and since when it listens; nothing if it does not.
    pub(super) fn listening(&self, now: Instant) -> Option<(Instant, Instant)> {
        let away_since = self.away_since.load(Ordering::Acquire);
        if away_since != Self::HERE && now.saturating_duration_since(self.at(away_since)) >= AWAY {
            return None;
        }
        let back = self.back_since.load(Ordering::Acquire);
        let heard = self.heard.load(Ordering::Acquire).max(back);
        Some((self.at(heard), self.at(back)))
    }

    fn come(&self) {
        let (now, away_since) = (self.now(), self.away_since.load(Ordering::Acquire));
        if away_since != Self::HERE && now - away_since.min(now) >= AWAY.as_millis() as u64 {
            self.back_since.store(now, Ordering::Release);
        }
        self.away_since.store(Self::HERE, Ordering::Release);
    }

    fn go(&self, outcome: &io::Result<usize>) {
        let now = self.now();
        if matches!(outcome, Ok(1..)) {
            self.heard.store(now, Ordering::Release);
        }
        self.away_since.store(now, Ordering::Release);
    }
}

/// A read half that tells the pulse whatever comes, also in the middle of a frame.
pub(super) struct Heard {
    inner: Box<dyn ReadHalf>,
    pulse: Arc<Pulse>,
}

impl Heard {
    pub(super) fn new(inner: Box<dyn ReadHalf>, pulse: Arc<Pulse>) -> Self {
        Self { inner, pulse }
    }
}

impl Read for Heard {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.pulse.come();
        let outcome = self.inner.read(target);
        self.pulse.go(&outcome);
        outcome
    }

    fn read_vectored(&mut self, targets: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.pulse.come();
        let outcome = self.inner.read_vectored(targets);
        self.pulse.go(&outcome);
        outcome
    }
}
