//! `bulkhead version`: what this program is, speaks and writes. Asks nobody.

use super::print::Printer;
use super::{CliError, Code};
use crate::versions::Versions;

pub(super) fn run(printer: &Printer) -> Result<Code, CliError> {
    printer.value(&Versions::ours(), words)?;
    Ok(Code::Ok)
}

fn words(versions: &Versions) -> String {
    let newer: Vec<String> = versions
        .records
        .iter()
        .filter(|(_, version)| **version != 1)
        .map(|(kind, version)| format!("{kind} {version}"))
        .collect();
    format!(
        "{} {}\nwire protocol: {}\nreplicas on disk: format {}\nrecords in the store: version 1{}{}\n",
        versions.name,
        versions.version,
        versions.wire.words(),
        versions.disk,
        if newer.is_empty() { "" } else { ", but " },
        newer.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_words() {
        let mut versions = Versions::ours();
        versions.version = "1.2.3".to_owned();
        assert!(words(&versions).starts_with("bulkhead 1.2.3\nwire protocol: version"));
        versions.records.insert("volume record".to_owned(), 4);
        assert!(words(&versions).ends_with("version 1, but volume record 4\n"));
    }
}
