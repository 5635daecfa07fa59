//! What a person may ask of a volume: `docker volume create -o KEY=VALUE`, the flags of the command line, and the whole
//! spec written as the volume's name. Owns the table of options and their checks. Nothing that it does not understand
//! passes: a typo that were taken for a label would cost somebody a replica.

mod inline;
mod keys;
mod size;
mod values;

use std::collections::BTreeMap;
use std::fmt;

use bulkhead_cluster::schema::{Fs, IoPriority};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use inline::{InlineSpec, VolumeName};
pub use keys::{KEYS, Key};
pub use size::{MAX_SIZE, format_size, parse_size};
pub(crate) use values::MAX_REPL;

/// Labels, separated by commas: `app=shop,tier=db`.
pub fn parse_labels(key: &str, value: &str) -> Result<BTreeMap<String, String>, OptionError> {
    values::labels(key, value)
}

/// Whether a label can be one: its name and its value. The error says why not, as the end of a sentence.
pub fn check_label(name: &str, value: &str) -> Result<(), &'static str> {
    values::check_label(name, value)
}

/// What a person asked for. `None` and empty mean: the class decides, else the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeRequest {
    /// Size in bytes, a multiple of 1 MiB.
    pub size: Option<u64>,
    /// Number of replicas.
    pub repl: Option<u8>,
    /// File system.
    pub fs: Option<Fs>,
    /// Medium of the pools.
    pub io_priority: Option<IoPriority>,
    /// Storage class.
    pub class: Option<String>,
    /// Names or ids of the nodes that may hold replicas.
    pub nodes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options for mount, comma-separated.
    pub mount_options: Option<String>,
    /// Options for mkfs, separated by blanks.
    pub mkfs_options: Option<String>,
}

/// The smallest volume on which a file system can be made, in bytes.
pub const fn smallest(fs: Fs) -> u64 {
    match fs {
        Fs::Ext4 => 16 << 20,
        Fs::Xfs => 300 << 20,
        Fs::Btrfs => 128 << 20,
    }
}

/// What is wrong with one option.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// No such option.
    #[error("unknown option {key:?}{}", hint(.nearest.as_deref()))]
    Unknown {
        /// As it was given.
        key: String,
        /// What it may have been meant to be.
        nearest: Option<String>,
    },
    /// An option of a later version.
    #[error("option {0:?} is not available yet; leave it out")]
    NotYet(String),
    /// A value that cannot be.
    #[error("option {key}={value:?}: {why}")]
    Value {
        /// The option.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong, and what to write instead.
        why: String,
    },
    /// Given twice with different values, also by an alias or in the name and with `-o`.
    #[error("option {0:?} is given twice, with different values; give it once")]
    Twice(String),
    /// A name that a volume cannot have.
    #[error("{0}")]
    Name(String),
}

fn hint(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean {nearest:?}?"),
        None => format!("; known are {}", keys::available().collect::<Vec<_>>().join(", ")),
    }
}

/// All that is wrong with a request, so that one attempt shows every fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionErrors(pub Vec<OptionError>);

impl fmt::Display for OptionErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ". Also: " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for OptionErrors {}

/// Parses options as they come: by key, in any order.
pub fn parse<'a>(
    options: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<VolumeRequest, OptionErrors> {
    let mut request = VolumeRequest::default();
    let mut seen: BTreeMap<&'static str, &str> = BTreeMap::new();
    let mut errors = Vec::new();
    for (given, value) in options {
        let key = match keys::find(given) {
            Ok(key) => key,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        match seen.insert(key.name, value) {
            Some(earlier) if earlier == value => continue,
            Some(_) => errors.push(OptionError::Twice(key.name.to_owned())),
            None => {
                if let Err(error) = key.apply(&mut request, given, value) {
                    errors.push(error);
                }
            }
        }
    }
    if errors.is_empty()
        && let Err(error) = request.check_together()
    {
        errors.push(error);
    }
    if errors.is_empty() {
        Ok(request)
    } else {
        Err(OptionErrors(errors))
    }
}

impl VolumeRequest {
    /// What no option alone shows.
    fn check_together(&self) -> Result<(), OptionError> {
        let fs = self.fs.unwrap_or(Fs::Ext4);
        match self.size {
            Some(size) if size < smallest(fs) => Err(OptionError::Value {
                key: "size".to_owned(),
                value: format_size(size),
                why: format!(
                    "{fs} needs a volume of at least {}; ask for that, or for another file system with fs=",
                    format_size(smallest(fs))
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Options in which this request differs from what a volume is; what was not asked for does not differ.
    pub fn drift(&self, actual: &Self) -> Vec<String> {
        fn differ<T: PartialEq>(
            drift: &mut Vec<String>,
            key: &str,
            asked: Option<&T>,
            is: Option<&T>,
            show: impl Fn(&T) -> String,
        ) {
            if let Some(asked) = asked
                && is != Some(asked)
            {
                let is = is.map_or_else(|| "not set".to_owned(), &show);
                drift.push(format!("{key}: asked for {}, is {is}", show(asked)));
            }
        }
        let mut drift = Vec::new();
        differ(
            &mut drift,
            "size",
            self.size.as_ref(),
            actual.size.as_ref(),
            |size| format_size(*size),
        );
        differ(
            &mut drift,
            "repl",
            self.repl.as_ref(),
            actual.repl.as_ref(),
            u8::to_string,
        );
        differ(
            &mut drift,
            "fs",
            self.fs.as_ref(),
            actual.fs.as_ref(),
            Fs::to_string,
        );
        differ(
            &mut drift,
            "io_priority",
            self.io_priority.as_ref(),
            actual.io_priority.as_ref(),
            IoPriority::to_string,
        );
        differ(
            &mut drift,
            "class",
            self.class.as_ref(),
            actual.class.as_ref(),
            String::clone,
        );
        let nodes = |list: &Vec<String>| list.join(";");
        differ(
            &mut drift,
            "nodes",
            (!self.nodes.is_empty()).then_some(&self.nodes),
            (!actual.nodes.is_empty()).then_some(&actual.nodes),
            nodes,
        );
        for (label, value) in &self.labels {
            differ(
                &mut drift,
                &format!("label {label}"),
                Some(value),
                actual.labels.get(label),
                String::clone,
            );
        }
        let (asked, is) = (self.mount_options.as_ref(), actual.mount_options.as_ref());
        differ(&mut drift, "mount_options", asked, is, String::clone);
        let (asked, is) = (self.mkfs_options.as_ref(), actual.mkfs_options.as_ref());
        differ(&mut drift, "mkfs_options", asked, is, String::clone);
        drift
    }
}

#[cfg(test)]
mod tests;
