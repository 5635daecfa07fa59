//! The table of options: names, aliases, forms. docs/options.md is checked against it by a test.

use super::values;
use super::{OptionError, VolumeRequest, parse_size};
use crate::nearest::nearest;

/// What becomes of an option.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Taken, by this function: the request, the key as given, the value.
    Now(fn(&mut VolumeRequest, &str, &str) -> Result<(), OptionError>),
    /// Known, and refused until a later version.
    Later,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// The form of its value.
    pub form: &'static str,
    /// What it does.
    pub doc: &'static str,
    state: State,
}

impl Key {
    const fn now(
        name: &'static str,
        aliases: &'static [&'static str],
        form: &'static str,
        doc: &'static str,
        apply: fn(&mut VolumeRequest, &str, &str) -> Result<(), OptionError>,
    ) -> Self {
        Self {
            name,
            aliases,
            form,
            doc,
            state: State::Now(apply),
        }
    }

    const fn later(name: &'static str, aliases: &'static [&'static str]) -> Self {
        Self {
            name,
            aliases,
            form: "",
            doc: "",
            state: State::Later,
        }
    }

    /// Whether this version takes it.
    pub const fn is_available(&self) -> bool {
        matches!(self.state, State::Now(_))
    }

    pub(super) fn apply(
        &self,
        request: &mut VolumeRequest,
        given: &str,
        value: &str,
    ) -> Result<(), OptionError> {
        let value = value.trim();
        match self.state {
            State::Later => Err(OptionError::NotYet(given.to_owned())),
            State::Now(_) if value.is_empty() => Err(OptionError::Value {
                key: given.to_owned(),
                value: String::new(),
                why: format!("the value is missing; write {given}={}", self.form),
            }),
            State::Now(apply) => apply(request, given, value),
        }
    }
}

/// Every option, in the order in which the documentation lists them.
pub const KEYS: &[Key] = &[
    Key::now(
        "size",
        &[],
        "10G",
        "size of the volume: a number with M, G, T or P (also MiB, GB, …), powers of 1024 throughout; a bare number is GiB",
        |request, key, value| {
            request.size = Some(parse_size(value).map_err(|why| OptionError::Value {
                key: key.to_owned(),
                value: value.to_owned(),
                why,
            })?);
            Ok(())
        },
    ),
    Key::now(
        "repl",
        &["replicas"],
        "2",
        "number of replicas, each on a node of its own",
        |request, key, value| {
            request.repl = Some(values::repl(key, value)?);
            Ok(())
        },
    ),
    Key::now(
        "fs",
        &["fstype"],
        "ext4",
        "file system: ext4 (default), xfs or btrfs",
        |request, key, value| {
            request.fs = Some(values::file_system(key, value)?);
            Ok(())
        },
    ),
    Key::now(
        "io_priority",
        &["priority_io"],
        "high",
        "medium of the pools: high (3), medium (2) or low (1)",
        |request, key, value| {
            request.io_priority = Some(values::io_priority(key, value)?);
            Ok(())
        },
    ),
    Key::now(
        "class",
        &["storage_class"],
        "replicated",
        "storage class, from which everything comes that is not given here",
        |request, key, value| {
            request.class = Some(values::word(key, value)?);
            Ok(())
        },
    ),
    Key::now(
        "nodes",
        &[],
        "n1;n2",
        "names or ids of the nodes that may hold replicas, separated by ; or ,",
        |request, key, value| {
            request.nodes = values::nodes(key, value)?;
            Ok(())
        },
    ),
    Key::now(
        "labels",
        &[],
        "app=shop,tier=db",
        "labels, separated by commas",
        |request, key, value| {
            request.labels = values::labels(key, value)?;
            Ok(())
        },
    ),
    Key::now(
        "mount_options",
        &[],
        "noatime,nodev",
        "options for mount, separated by commas",
        |request, key, value| {
            request.mount_options = Some(values::mount_options(key, value)?);
            Ok(())
        },
    ),
    Key::now(
        "mkfs_options",
        &[],
        "-m 0",
        "options for mkfs, separated by blanks",
        |request, key, value| {
            request.mkfs_options = Some(values::mkfs_options(key, value)?);
            Ok(())
        },
    ),
    Key::later("parent", &["from"]),
    Key::later("snap_schedule", &[]),
    Key::later("secure", &[]),
    Key::later("secret_key", &[]),
    Key::later("group", &[]),
    Key::later("fg", &[]),
    Key::later("zones", &[]),
    Key::later("racks", &[]),
    Key::later("io_throttle_rd_iops", &[]),
    Key::later("io_throttle_wr_iops", &[]),
    Key::later("io_throttle_rd_bw", &[]),
    Key::later("io_throttle_wr_bw", &[]),
    Key::later("shared", &[]),
    Key::later("sharedv4", &[]),
    Key::later("sticky", &[]),
    Key::later("nodiscard", &[]),
    Key::later("journal", &[]),
    Key::later("io_profile", &[]),
    Key::later("queue_depth", &[]),
    Key::later("block_size", &[]),
];

/// Names of the options that this version takes.
pub(super) fn available() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter(|key| key.is_available()).map(|key| key.name)
}

pub(super) fn find(given: &str) -> Result<&'static Key, OptionError> {
    let given = given.trim();
    KEYS.iter()
        .find(|key| key.name == given || key.aliases.contains(&given))
        .ok_or_else(|| OptionError::Unknown {
            key: given.to_owned(),
            nearest: meant(given),
        })
}

/// The option that may have been meant.
fn meant(given: &str) -> Option<String> {
    let known = KEYS
        .iter()
        .flat_map(|key| std::iter::once(key.name).chain(key.aliases.iter().copied()));
    nearest(&given.replace('-', "_"), known).map(str::to_owned)
}
