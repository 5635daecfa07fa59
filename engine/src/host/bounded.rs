//! Calls into the kernel that may hang, on a helper thread and with a bound (P5).
//!
//! A call that does not come back is left to its thread, which ends when the kernel lets it: after the FUSE
//! connection has been aborted every one of them does.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::error::HostError;

/// A point in time by which something has to be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn within(limit: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(limit).unwrap_or(now + Duration::from_secs(3600)))
    }

    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(crate) fn is_over(self) -> bool {
        self.left().is_zero()
    }
}

/// A call that is running on its own thread.
pub(crate) struct Pending<T> {
    result: mpsc::Receiver<T>,
    what: String,
}

impl<T: Send + 'static> Pending<T> {
    /// Starts the call.
    pub(crate) fn start(
        what: impl Into<String>,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Self, HostError> {
        let what = what.into();
        let (sender, result) = mpsc::channel();
        thread::Builder::new()
            .name("host-call".into())
            .stack_size(256 << 10)
            .spawn(move || {
                // Nobody may be waiting any more: that is what the bound is for.
                let _ = sender.send(call());
            })
            .map_err(|source| HostError::system(format!("starting a thread for {what}"), source))?;
        Ok(Self { result, what })
    }

    /// Waits for it; it can be waited for again after a time-out.
    pub(crate) fn wait(&self, limit: Duration) -> Result<T, HostError> {
        self.result.recv_timeout(limit).map_err(|_| HostError::TimedOut {
            what: self.what.clone(),
            limit,
        })
    }
}

/// Runs a call that may hang, and waits for it no longer than `limit`.
pub(crate) fn bounded<T: Send + 'static>(
    what: impl Into<String>,
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HostError> {
    Pending::start(what, call)?.wait(limit)
}

/// Asks again and again, with a growing pause, until the answer is yes or the time is over.
pub(crate) fn poll_until(deadline: Deadline, mut done: impl FnMut() -> bool) -> bool {
    let mut pause = Duration::from_millis(1);
    loop {
        if done() {
            return true;
        }
        if deadline.is_over() {
            return false;
        }
        thread::sleep(pause.min(deadline.left()));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_is_given_up_and_can_be_asked_again() -> Result<(), HostError> {
        let (release, held) = mpsc::channel::<()>();
        let call = Pending::start("waiting", move || held.recv().is_err())?;
        assert!(matches!(
            call.wait(Duration::from_millis(20)),
            Err(HostError::TimedOut { .. })
        ));
        drop(release);
        assert!(call.wait(Duration::from_secs(5))?);
        Ok(())
    }
}
