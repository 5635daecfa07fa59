//! Waiting for a condition: with a bound, and with words for what did not come.
//!
//! It must never wait for ever.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `condition` until it gives a value; fails when `deadline` has passed. An error of the condition ends the wait.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if begin.elapsed() >= deadline {
            bail!("waited {deadline:?} in vain until {what}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Tries `attempt` until it succeeds; when `deadline` has passed, fails with the last attempt's error.
pub fn retry<T>(what: &str, deadline: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let mut last = None;
    let result = until(what, deadline, || match attempt() {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    match (result, last) {
        (Err(timeout), Some(error)) => Err(error.context(timeout)),
        (result, _) => result,
    }
}
