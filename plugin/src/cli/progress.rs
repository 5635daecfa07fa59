//! A line on the terminal while something takes long.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Waits for `work`; says what is waited for, after half a second and on a terminal only.
pub(super) async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    if !stderr().is_terminal() {
        return work.await;
    }
    let start = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    tick.tick().await;
    let mut shown = false;
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = tick.tick() => {
                shown = true;
                let _ = write!(stderr(), "\r{what} … {} s ", start.elapsed().as_secs());
            }
        }
    };
    if shown {
        let _ = write!(stderr(), "\r\x1b[K");
    }
    result
}
