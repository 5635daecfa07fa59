//! How a program is replaced.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// Which program takes the place of the installed one, and how patient the command is.
#[derive(Args, Clone, Debug)]
pub struct UpgradeArgs {
    /// The new program; the one that runs this command if it is left out
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// How long all may take to be healthy, before and after
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Even if something is not healthy now; what was wrong before may then be wrong afterwards
    #[arg(long)]
    pub force: bool,
}
