//! Shows something once, or again and again until somebody ends it: `--watch`. A daemon that does not answer for a while is
//! said, and asked again.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use super::CliError;
use super::args::WatchArgs;
use super::print::Printer;

/// The shortest time between looks.
pub(super) const SHORTEST: Duration = Duration::from_millis(200);

/// What comes before a screen that takes the place of the one before.
pub(super) fn wiped() -> &'static str {
    if stdout().is_terminal() {
        "\x1b[H\x1b[2J"
    } else {
        ""
    }
}

/// Shows what `look` finds. Without `--watch` it returns that.
pub(super) async fn show<T: Serialize>(
    printer: &Printer,
    args: &WatchArgs,
    look: impl AsyncFn() -> Result<T, CliError>,
    screen: impl Fn(&T) -> String,
) -> Result<Option<T>, CliError> {
    if !args.watch {
        let seen = look().await?;
        printer.value(&seen, screen)?;
        return Ok(Some(seen));
    }
    loop {
        match look().await {
            Ok(seen) => {
                let text = |seen: &T| format!("{}{}", wiped(), screen(seen));
                if printer.line(&seen, text)?.is_break() {
                    return Ok(None);
                }
            }
            Err(error) => printer.error(&error),
        }
        sleep(args.interval.max(SHORTEST)).await;
    }
}
