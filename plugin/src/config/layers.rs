//! From file, environment and flags to one [`Config`]. The names of settings come from the struct itself, so the three
//! cannot disagree: `timeout.mount` in the file is BULKHEAD_TIMEOUT_MOUNT and `--timeout-mount`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use bulkhead_keeper::{ENV_SOCKET, ENV_STATE, ENV_TRY};
use thiserror::Error;
use toml::{Table, Value};

use super::Config;
use crate::nearest::nearest;

/// Prefix of the environment's variables.
const PREFIX: &str = "BULKHEAD_";
/// Variables with this prefix that are no settings.
const NOT_SETTINGS: &[&str] = &["BULKHEAD_CONFIG", ENV_SOCKET, ENV_STATE, ENV_TRY];

/// Flags as given: key of the setting and value.
pub type Flags = Vec<(String, String)>;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The file.
    File(String),
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(String),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {path}"),
            Self::Environment(name) => write!(f, "from {name}"),
            Self::Flag(name) => write!(f, "from {name}"),
            Self::Default => f.write_str("by default"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The setting.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Where it comes from.
    pub layer: Layer,
    /// What is wrong, and what to write.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({}): {}", self.key, self.value, self.layer, self.why)
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {path} cannot be read: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration {path} is not TOML: {message}")]
    Syntax {
        /// Which.
        path: String,
        /// Where and what.
        message: String,
    },
    /// Settings are wrong; all of them.
    #[error("the configuration has {} fault{}:{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, lines(.0))]
    Faults(Vec<Fault>),
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

/// The keys of all settings, with dots, and their default values.
pub fn settings() -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    if let Ok(table) = Table::try_from(Config::default()) {
        flatten("", &table, &mut flat);
    }
    flat
}

/// The variable of a setting.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// The flag of a setting, without the dashes.
pub fn flag(key: &str) -> String {
    if key == "control_socket" {
        return "socket".to_owned();
    }
    key.replace(['.', '_'], "-")
}

fn flatten(prefix: &str, table: &Table, flat: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(inner) => flatten(&path, inner, flat),
            other => {
                flat.insert(path, other.clone());
            }
        }
    }
}

/// Puts a value under its key, with dots, into a table of tables.
pub(crate) fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table
                .entry(first.to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Fills a configuration: defaults, then `file`, then the variables, then `flags`.
///
/// `required` tells whether a missing file is an error, that is whether somebody named it.
pub fn load(
    file: &Path,
    required: bool,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &Flags,
) -> Result<Config, ConfigError> {
    let known = settings();
    let mut given: BTreeMap<String, (Value, Layer)> = BTreeMap::new();
    let mut faults = Vec::new();

    let path = file.display().to_string();
    for (key, value) in read_file(file, required)? {
        let layer = Layer::File(path.clone());
        if known.contains_key(&key) {
            given.insert(key, (value, layer));
        } else {
            faults.push(unknown(key, &value, layer, known.keys().map(String::as_str)));
        }
    }
    let variables: BTreeMap<String, &String> = known.keys().map(|key| (variable(key), key)).collect();
    for (name, value) in environment {
        if !name.starts_with(PREFIX) || NOT_SETTINGS.contains(&name.as_str()) {
            continue;
        }
        let (layer, value) = (Layer::Environment(name.clone()), Value::String(value));
        match variables.get(&name) {
            Some(key) => {
                given.insert((*key).clone(), (value, layer));
            }
            None => faults.push(unknown(name, &value, layer, variables.keys().map(String::as_str))),
        }
    }
    for (key, value) in flags {
        let layer = Layer::Flag(format!("--{}", flag(key)));
        given.insert(key.clone(), (Value::String(value.clone()), layer));
    }

    let mut table = Table::new();
    for (key, (value, layer)) in &given {
        // Each on its own first, so that one wrong value does not hide the next.
        let mut alone = Table::new();
        insert(&mut alone, key, value.clone());
        match alone.try_into::<Config>() {
            Ok(_) => insert(&mut table, key, value.clone()),
            Err(error) => faults.push(Fault {
                key: key.clone(),
                value: value.to_string(),
                layer: layer.clone(),
                why: error.message().to_owned(),
            }),
        }
    }
    let config = table.try_into::<Config>().unwrap_or_else(|error| {
        faults.push(Fault {
            key: "all".to_owned(),
            value: String::new(),
            layer: Layer::Default,
            why: error.message().to_owned(),
        });
        Config::default()
    });
    let mut effective = BTreeMap::new();
    if let Ok(table) = Table::try_from(&config) {
        flatten("", &table, &mut effective);
    }
    for (key, why) in config.faults() {
        faults.push(Fault {
            value: effective.get(key).map(Value::to_string).unwrap_or_default(),
            layer: given.get(key).map_or(Layer::Default, |(_, layer)| layer.clone()),
            key: key.to_owned(),
            why,
        });
    }
    if faults.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Faults(faults))
    }
}

fn read_file(file: &Path, required: bool) -> Result<BTreeMap<String, Value>, ConfigError> {
    let path = file.display().to_string();
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return Ok(BTreeMap::new()),
        Err(error) => return Err(ConfigError::File { path, error }),
    };
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Syntax {
            path,
            message: error.to_string(),
        })?;
    let mut flat = BTreeMap::new();
    flatten("", &table, &mut flat);
    Ok(flat)
}

fn unknown<'a>(key: String, value: &Value, layer: Layer, known: impl Iterator<Item = &'a str>) -> Fault {
    let nearest = nearest(&key, known)
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_else(|| "; docs/configuration.md lists them".to_owned());
    Fault {
        why: format!("there is no such setting{nearest}"),
        key,
        value: value.to_string(),
        layer,
    }
}
