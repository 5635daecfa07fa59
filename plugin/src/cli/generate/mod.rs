//! `bulkhead generate`: prints what makes machines nodes of one cluster: a shell script, systemd units, the line that installs
//! the managed plugin, a Swarm stack that does so on every node. Checks settings as the daemon does; asks nobody and changes
//! nothing, but for the files that `unit --directory` is told to write.

mod asked;
mod plan;
mod script;
mod shell;
mod swarm;
mod unit;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::args::GenerateCommand;
use super::print::Printer;
use super::{CliError, Code};
pub(crate) use asked::{forms, generated};
use plan::Plan;
pub(super) use plan::{ClassPlan, PoolPlan};

pub(super) fn run(printer: &Printer, command: GenerateCommand) -> Result<Code, CliError> {
    if let GenerateCommand::Unit {
        node,
        directory: Some(root),
    } = command
    {
        let files = unit::files(&Plan::of(*node)?);
        for file in &files {
            let path = root.join(file.path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap_or(&root))?;
            fs::write(&path, &file.text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        }
        let paths: Vec<&str> = files.iter().map(|file| file.path).collect();
        printer.value(&paths, |paths| {
            let lines = paths.iter().map(|path| format!("{}{path}\n", root.display()));
            lines.collect()
        })?;
        return Ok(Code::Ok);
    }
    printer.value(&text(command)?, Clone::clone)?;
    Ok(Code::Ok)
}

/// What is printed.
fn text(command: GenerateCommand) -> Result<String, CliError> {
    Ok(match command {
        GenerateCommand::Script { node, binary, sha256 } => {
            script::script(&Plan::of(*node)?, binary.as_deref(), sha256.as_deref())
        }
        GenerateCommand::Unit { node, .. } => unit::text(&unit::files(&Plan::of(*node)?)),
        GenerateCommand::Plugin { node, image } => swarm::plugin(&Plan::of(*node)?, &image)?,
        GenerateCommand::Stack {
            node,
            image,
            docker_image,
        } => swarm::stack(&Plan::of(*node)?, &image, &docker_image)?,
    })
}

#[cfg(test)]
mod tests;
