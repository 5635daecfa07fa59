//! The command line. Owns arguments, tables and exit codes; everything is done by the daemon, which it asks over a Unix
//! socket. Errors go to standard error as one sentence with what to do.

mod args;
mod class;
mod client;
mod cluster;
mod delete;
mod diags;
mod doctor;
mod events;
mod exit;
mod generate;
mod life;
mod man;
mod node;
mod pool;
mod print;
mod progress;
mod rebalance;
mod removal;
mod replica;
mod status;
mod token;
mod top;
mod upgrade;
mod verify;
mod version;
mod volume;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

pub use args::{Cli, Command, DaemonArgs};
pub use exit::{CliError, Code};
pub(crate) use generate::{forms, generated};

use crate::config::Config;

use args::{ClusterCommand, StoreCommand};
use client::Client;
use print::Printer;

/// Parses the arguments of this process. Usage errors, `--help` and `--version` end the process here.
pub fn parse() -> Cli {
    Cli::parse()
}

/// Carries out a command other than `daemon`.
pub async fn run(cli: Cli) -> ExitCode {
    let printer = Printer::new(cli.json);
    let client = Client::new(&cli.socket.unwrap_or_else(|| Config::default().control_socket));
    let done = match cli.command {
        Command::Status(watch) => status::run(&client, &printer, &watch).await,
        Command::Pool(command) => pool::run(&client, &printer, command).await,
        Command::Volume(command) => volume::run(&client, &printer, command).await,
        Command::Node(command) => node::run(&client, &printer, command).await,
        Command::Class(command) => class::run(&client, &printer, command).await,
        Command::Cluster(ClusterCommand::Status(watch)) => cluster::run(&client, &printer, &watch).await,
        Command::Cluster(ClusterCommand::Rebalance(args)) => rebalance::run(&client, &printer, &args).await,
        Command::Store(StoreCommand::Status) => cluster::store(&client, &printer).await,
        Command::Replica(command) => replica::run(&printer, command),
        Command::Events(args) => events::run(&client, &printer, &args).await,
        Command::Alerts(watch) => events::alerts(&client, &printer, &watch).await,
        Command::Top { interval, count } => top::run(&client, &printer, interval, count).await,
        Command::Diags { file } => diags::run(&client, &printer, file).await,
        Command::Doctor => doctor::run(&client, &printer).await,
        Command::Generate(command) => generate::run(&printer, command),
        Command::Upgrade(args) => upgrade::run(&client, &printer, &args).await,
        Command::Version => version::run(&printer),
        Command::Uninstall(args) => removal::uninstall(&client, &printer, args).await,
        Command::Man { directory } => man::run(&printer, &directory),
        Command::Token(command) => token::run(&client, &printer, command).await,
        Command::Completion { shell } => printer.bytes(&completion(shell)),
        // `main` takes it before the runtime starts.
        Command::Daemon(_) => Ok(Code::Usage),
    };
    match done {
        Ok(code) => code.into(),
        Err(error) => {
            printer.error(&error);
            error.code().into()
        }
    }
}

fn completion(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bulkhead", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documentation_lists_every_command_and_exit_code() {
        let page = include_str!("../../../docs/cli.md");
        let root = Cli::command();
        for command in root.get_subcommands() {
            let name = command.get_name();
            let inner: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
            if inner.is_empty() {
                assert!(
                    page.contains(&format!("`bulkhead {name}")),
                    "docs/cli.md lacks {name}"
                );
            }
            for sub in inner {
                assert!(
                    page.contains(&format!("`bulkhead {name} {sub}")),
                    "docs/cli.md lacks {name} {sub}"
                );
            }
        }
        for code in Code::ALL {
            let row = format!("| {} | {} |", *code as u8, code.meaning());
            assert!(page.contains(&row), "docs/cli.md lacks {row:?}");
        }
    }
}
