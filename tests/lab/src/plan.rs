//! What a host is to be, as the program that makes it reads it from the host's folder.
//!
//! It owns the file `plan.json`. It must never hold anything that changes while the host lives.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const FILE: &str = "plan.json";

/// A host before it is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Unique on the machine; its control groups bear it.
    pub name: String,
    /// What `hostname` says on it.
    pub hostname: String,
    /// Lines of its `/etc/hosts` besides the local ones.
    pub hosts: String,
    /// Folders of the machine, and where they are seen on the host.
    pub binds: Vec<(PathBuf, PathBuf)>,
}

impl Plan {
    /// Reads it from the host's folder.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no plan of a host", path.display()))
    }

    /// Writes it into the host's folder.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
