//! The `bulkhead` binary: the command line, and with `daemon` the daemon and its keeper.

use std::process::ExitCode;

use bulkhead::cli::{self, Command};
use bulkhead::daemon;

fn main() -> ExitCode {
    let cli = cli::parse();
    match cli.command {
        Command::Daemon(mut args) => {
            args.set_socket(cli.socket);
            if args.no_keeper || bulkhead_keeper::is_kept() {
                daemon::main(&args)
            } else {
                bulkhead_keeper::run()
            }
        }
        _ => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(cli::run(cli)),
            Err(error) => {
                eprintln!("bulkhead: cannot start: {error}");
                cli::Code::Failed.into()
            }
        },
    }
}
