//! A line on the terminal while something takes long.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// A line that is written over and over, on a terminal only, and wiped away at the end.
pub(super) struct Progress {
    terminal: bool,
    shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            terminal: stderr().is_terminal(),
            shown: false,
        }
    }

    /// Shows a text in the place of the one before.
    pub(super) fn show(&mut self, text: &str) {
        if self.terminal {
            self.shown = true;
            let _ = write!(stderr(), "\r\x1b[K{text} ");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// Waits for `work`; says what is waited for, after half a second and on a terminal only.
pub(super) async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut progress = Progress::new();
    let start = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    tick.tick().await;
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => break result,
            _ = tick.tick() => progress.show(&format!("{what} … {} s", start.elapsed().as_secs())),
        }
    }
}
