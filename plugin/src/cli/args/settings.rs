//! The daemon's flags, made from its settings, so that there is one for each.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Args, FromArgMatches};

use crate::config::{self, Config, ConfigError, Flags, describe, flag, settings};

/// Its flag is `--socket`, which all commands share.
const CONTROL_SOCKET: &str = "control_socket";

/// A flag for each setting.
#[derive(Clone, Debug, Default)]
pub struct SettingArgs(pub Flags);

/// Arguments of the daemon: a file, and a flag for each setting.
#[derive(Args, Clone, Debug, Default)]
pub struct DaemonArgs {
    /// Configuration in TOML [default: /etc/bulkhead/bulkhead.toml, if it exists]
    #[arg(long, env = "BULKHEAD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run the daemon itself, without a keeper: when it dies, what containers have open dies with it
    #[arg(long)]
    pub no_keeper: bool,
    /// Settings that were given as flags.
    #[command(flatten)]
    settings: SettingArgs,
}

impl DaemonArgs {
    /// The settings, out of file, environment and flags.
    pub fn configured(&self) -> Result<Config, ConfigError> {
        configured(self.config.as_deref(), &self.settings.0)
    }

    /// Takes `--socket`, which all commands have, as the setting that it is for the daemon.
    pub fn set_socket(&mut self, socket: Option<PathBuf>) {
        if let Some(socket) = socket.and_then(|socket| socket.into_os_string().into_string().ok()) {
            self.settings.0.push((CONTROL_SOCKET.to_owned(), socket));
        }
    }
}

/// What removes something from this machine: what it says, and whether it does it.
#[derive(Args, Clone, Debug)]
pub struct RemovalArgs {
    /// Do it; without this it is only said what would go
    #[arg(long)]
    pub yes: bool,
    /// Also if the cluster counts on what is here, or cannot be asked
    #[arg(long)]
    pub force: bool,
    /// The daemon's configuration [default: /etc/bulkhead/bulkhead.toml, if it exists]
    #[arg(long, env = "BULKHEAD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings that its daemon has as flags.
    #[command(flatten)]
    settings: SettingArgs,
}

impl RemovalArgs {
    /// The daemon's settings, as it would find them; `socket` is where it is asked.
    pub fn configured(&self, socket: &Path) -> Result<Config, ConfigError> {
        let mut flags = self.settings.0.clone();
        if socket != Config::default().control_socket {
            flags.push((CONTROL_SOCKET.to_owned(), socket.display().to_string()));
        }
        configured(self.config.as_deref(), &flags)
    }
}

/// The settings out of file, environment and flags.
fn configured(file: Option<&Path>, flags: &Flags) -> Result<Config, ConfigError> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match file {
        Some(file) => config::load(file, true, environment, flags),
        None => config::load(Path::new(config::DEFAULT_FILE), false, environment, flags),
    }
}

fn has_flag(key: &str) -> bool {
    key != CONTROL_SOCKET
}

impl Args for SettingArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let settings = settings()
            .into_iter()
            .filter(|(key, _)| has_flag(key))
            .map(|(key, default)| {
                Arg::new(key.clone())
                    .long(flag(&key))
                    .value_name("VALUE")
                    .help(format!("{} [default: {default}]", describe(&key)))
            });
        command.args(settings)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: String| {
            let value = matches.get_one::<String>(&key)?.clone();
            Some((key, value))
        };
        let keys = settings().into_keys().filter(|key| has_flag(key));
        Ok(Self(keys.filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
