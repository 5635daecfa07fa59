//! (next)

use std::process::ExitCode;

/// (next)
pub fn main(_args: &crate::cli::DaemonArgs) -> ExitCode {
    ExitCode::SUCCESS
}
