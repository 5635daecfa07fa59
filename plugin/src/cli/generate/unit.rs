//! The files of a node under systemd: service, socket and configuration.

use super::plan::Plan;
use crate::config::DEFAULT_FILE;

/// Where the binary lies.
pub(super) const BINARY: &str = "/usr/local/bin/bulkhead";

/// A file of a node.
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) text: String,
    /// Who may read it.
    pub(super) mode: u32,
}

pub(super) fn files(plan: &Plan) -> Vec<File> {
    let unit = |text: &str| text.replace("@BIN@", BINARY);
    vec![
        File {
            path: DEFAULT_FILE,
            text: plan.configuration(),
            mode: 0o600,
        },
        File {
            path: "/etc/systemd/system/bulkhead.service",
            text: unit(include_str!("../../../../deploy/bulkhead.service")),
            mode: 0o644,
        },
        File {
            path: "/etc/systemd/system/bulkhead.socket",
            text: unit(include_str!("../../../../deploy/bulkhead.socket")),
            mode: 0o644,
        },
    ]
}

/// All of them, one after the other, for somebody who reads.
pub(super) fn text(files: &[File]) -> String {
    let one = |file: &File| format!("# --- {} (mode {:04o})\n{}", file.path, file.mode, file.text);
    files.iter().map(one).collect::<Vec<_>>().join("\n")
}
