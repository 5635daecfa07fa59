//! What a failed run leaves for whoever looks for the cause: the logs of all hosts, in one folder.
//!
//! It owns nothing. It must never keep a host's disks, and never fail: the failure that led here is what matters.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::host::Host;
use crate::lab::Lab;
use crate::programs;

/// Copies every log of a lab into `target/lab-failed/NAME`, and says where.
pub fn logs(lab: &Lab, name: &str) {
    let Ok(target) = programs::target_dir() else {
        return;
    };
    let folder = target
        .join("lab-failed")
        .join(format!("{name}-{}", std::process::id()));
    let hosts = lab.members.iter().map(|member| &member.node.host);
    for host in hosts.chain([lab.switch.host()]) {
        keep(host, &folder);
    }
    println!("the logs of all hosts: {}", folder.display());
}

fn keep(host: &Arc<Host>, folder: &Path) {
    let own = folder.join(host.hostname());
    if fs::create_dir_all(&own).is_err() {
        return;
    }
    let logs = fs::read_dir(host.dir()).into_iter().flatten().flatten();
    let logs: Vec<PathBuf> = logs.map(|entry| entry.path()).collect();
    for log in logs.iter().filter(|log| log.is_file()) {
        if let Some(name) = log.file_name() {
            let _ = fs::copy(log, own.join(name));
        }
    }
}
