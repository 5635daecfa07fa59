//! Values of single options. Each error names the option, the value, and what to write instead.

use std::collections::BTreeMap;

use bulkhead_cluster::schema::{Fs, IoPriority};

use super::OptionError;

/// More replicas than this serve nobody.
pub(crate) const MAX_REPL: u8 = 8;
/// Mount options that would lose acknowledged writes, or that are ours to decide.
const REFUSED_MOUNT_OPTIONS: &[(&str, &str)] = &[
    (
        "nobarrier",
        "without barriers a power cut loses writes that were acknowledged",
    ),
    (
        "barrier=0",
        "without barriers a power cut loses writes that were acknowledged",
    ),
    ("noload", "skipping the journal loses acknowledged writes"),
    ("norecovery", "skipping the log loses acknowledged writes"),
    ("nologreplay", "skipping the log loses acknowledged writes"),
    ("loop", "the block device is made by the daemon"),
    ("remount", "mounting is the daemon's task"),
    ("bind", "mounting is the daemon's task"),
];

fn bad(key: &str, value: &str, why: impl Into<String>) -> OptionError {
    OptionError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        why: why.into(),
    }
}

pub(super) fn repl(key: &str, value: &str) -> Result<u8, OptionError> {
    match value.parse() {
        Ok(repl) if (1..=MAX_REPL).contains(&repl) => Ok(repl),
        _ => Err(bad(
            key,
            value,
            format!("the number of replicas is 1 to {MAX_REPL}, such as {key}=2"),
        )),
    }
}

pub(super) fn file_system(key: &str, value: &str) -> Result<Fs, OptionError> {
    value
        .parse()
        .map_err(|_| bad(key, value, "the file system is ext4, xfs or btrfs"))
}

pub(super) fn io_priority(key: &str, value: &str) -> Result<IoPriority, OptionError> {
    value
        .parse()
        .map_err(|_| bad(key, value, "the priority is high, medium or low (3, 2, 1)"))
}

fn is_word(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && text.len() <= 128
}

pub(super) fn word(key: &str, value: &str) -> Result<String, OptionError> {
    if is_word(value) {
        Ok(value.to_owned())
    } else {
        Err(bad(
            key,
            value,
            "a name has letters, digits, '_', '.' and '-', and at most 128 of them",
        ))
    }
}

pub(super) fn nodes(key: &str, value: &str) -> Result<Vec<String>, OptionError> {
    let mut nodes: Vec<String> = Vec::new();
    for node in value
        .split([';', ','])
        .map(str::trim)
        .filter(|node| !node.is_empty())
    {
        if !is_word(node) {
            return Err(bad(
                key,
                value,
                format!("{node:?} is not the name or id of a node; write {key}=n1;n2"),
            ));
        }
        if !nodes.iter().any(|known| known == node) {
            nodes.push(node.to_owned());
        }
    }
    if nodes.is_empty() {
        return Err(bad(key, value, format!("no node is named; write {key}=n1;n2")));
    }
    Ok(nodes)
}

/// Whether a label can be one: its name and its value.
pub(super) fn check_label(name: &str, value: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 128 || value.len() > 256 {
        return Err("is too short or too long (128 bytes for a name, 256 for a value)");
    }
    if name.chars().chain(value.chars()).any(char::is_control) {
        return Err("has control characters");
    }
    if name.contains(['=', ',']) || value.contains(',') {
        return Err("has a comma, or a second '=' in its name");
    }
    Ok(())
}

pub(super) fn labels(key: &str, value: &str) -> Result<BTreeMap<String, String>, OptionError> {
    let mut labels = BTreeMap::new();
    for label in value.split(',').map(str::trim).filter(|label| !label.is_empty()) {
        let fail = |why: &str| {
            bad(
                key,
                value,
                format!("{label:?} {why}; write {key}=app=shop,tier=db"),
            )
        };
        let (name, text) = label.split_once('=').ok_or_else(|| fail("has no '='"))?;
        check_label(name, text).map_err(fail)?;
        if labels
            .insert(name.to_owned(), text.to_owned())
            .is_some_and(|earlier| earlier != text)
        {
            return Err(fail("is given twice, with different values"));
        }
    }
    if labels.is_empty() {
        return Err(bad(
            key,
            value,
            format!("no label is given; write {key}=app=shop,tier=db"),
        ));
    }
    Ok(labels)
}

pub(super) fn mount_options(key: &str, value: &str) -> Result<String, OptionError> {
    for option in value.split(',').map(str::trim) {
        let plain = option.bytes().all(|byte| byte.is_ascii_graphic());
        if option.is_empty() || !plain || option.len() > 256 {
            return Err(bad(
                key,
                value,
                format!("{option:?} is not an option of mount; write {key}=noatime,nodev"),
            ));
        }
        if let Some((_, why)) = REFUSED_MOUNT_OPTIONS
            .iter()
            .find(|(refused, _)| *refused == option)
        {
            return Err(bad(
                key,
                value,
                format!("{option:?} is refused, because {why}; leave it out"),
            ));
        }
    }
    Ok(value.split(',').map(str::trim).collect::<Vec<_>>().join(","))
}

pub(super) fn mkfs_options(key: &str, value: &str) -> Result<String, OptionError> {
    let words: Vec<&str> = value.split_whitespace().collect();
    let plain = value.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    // The words go to mkfs one by one, past any shell. A path would be a second device or a file of the host.
    if !plain || !words.first().is_some_and(|word| word.starts_with('-')) {
        return Err(bad(
            key,
            value,
            format!("options of mkfs begin with '-'; write {key}=\"-m 0\""),
        ));
    }
    if let Some(word) = words.iter().find(|word| word.contains('/')) {
        return Err(bad(
            key,
            value,
            format!("{word:?} names a file or a device, which a volume cannot use; leave it out"),
        ));
    }
    Ok(words.join(" "))
}
