//! `bulkhead man`: manual pages, made from the arguments themselves.

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use super::print::Printer;
use super::{Cli, CliError, Code};

pub(super) fn run(printer: &Printer, directory: &Path) -> Result<Code, CliError> {
    let pages = pages()?;
    fs::create_dir_all(directory)?;
    for (name, page) in &pages {
        fs::write(directory.join(name), page)?;
    }
    let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    printer.value(&names, |names| {
        format!("{} pages are in {}\n", names.len(), directory.display())
    })?;
    Ok(Code::Ok)
}

/// File names and contents.
fn pages() -> Result<Vec<(String, Vec<u8>)>, CliError> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    add(&root, "bulkhead", &mut pages)?;
    Ok(pages)
}

fn add(command: &clap::Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> Result<(), CliError> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().name(name.to_owned())).render(&mut page)?;
    pages.push((format!("{name}.1"), page));
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        add(inner, &format!("{name}-{}", inner.get_name()), pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let pages = pages().expect("pages");
        for wanted in [
            "bulkhead.1",
            "bulkhead-volume.1",
            "bulkhead-volume-create.1",
            "bulkhead-node-maintenance-enter.1",
        ] {
            let page = pages.iter().find(|(name, _)| name == wanted);
            assert!(page.is_some_and(|(_, page)| page.len() > 200), "{wanted}");
        }
        assert!(!pages.iter().any(|(name, _)| name.contains("help")));
    }
}
