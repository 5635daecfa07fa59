//! What all forms of a node have in common: its settings, pools and the cluster's classes, checked before anything is printed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use crate::cli::CliError;
use crate::cli::args::NodePlanArgs;
use crate::config::{self, Flags};
use crate::options::{parse, parse_size};

/// A pool that each node is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// The device, or the file.
    pub device: PathBuf,
    /// The size of the file, as it was written.
    pub size: Option<String>,
}

impl PoolPlan {
    /// Takes `DEVICE` or `FILE=SIZE`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (device, size) = match text.split_once('=') {
            Some((device, size)) => {
                parse_size(size).map_err(|error| error.to_string())?;
                (device, Some(size.to_owned()))
            }
            None => (text, None),
        };
        let device = PathBuf::from(device);
        if !device.is_absolute() {
            return Err("a pool is a path that begins with /, such as /dev/nvme1n1, or /var/lib/bulkhead/pool-0.img=50G".to_owned());
        }
        if size.is_none() && !device.starts_with("/dev") {
            return Err("a file needs a size, as in /var/lib/bulkhead/pool-0.img=50G".to_owned());
        }
        Ok(Self { device, size })
    }
}

/// A storage class that the cluster is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassPlan {
    /// Its name.
    pub name: String,
    /// What it says.
    pub options: BTreeMap<String, String>,
}

impl ClassPlan {
    /// Takes `NAME KEY=VALUE KEY=VALUE`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let name = words.next().filter(|name| !name.contains('='));
        let name = name.ok_or("begin with its name, as in \"gold repl=3 size=10G\"")?;
        let mut options = BTreeMap::new();
        for word in words {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| format!("{word:?} has no '='; write KEY=VALUE, such as repl=3"))?;
            options.insert(key.to_owned(), value.to_owned());
        }
        parse(options.iter().map(|(key, value)| (key.as_str(), value.as_str())))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            name: name.to_owned(),
            options,
        })
    }
}

/// What a node is to be.
#[derive(Debug)]
pub(super) struct Plan {
    /// Name of the cluster.
    pub(super) cluster: String,
    /// Settings that are not as by default, by their keys.
    pub(super) settings: Flags,
    /// The interface whose address other nodes reach this one at.
    pub(super) interface: Option<String>,
    pub(super) pools: Vec<PoolPlan>,
    pub(super) classes: Vec<ClassPlan>,
    pub(super) default_class: Option<String>,
}

impl Plan {
    pub(super) fn of(args: NodePlanArgs) -> Result<Self, CliError> {
        let usage = |message: &str| Err(CliError::Usage(message.to_owned()));
        let settings = args.settings.0;
        if settings
            .iter()
            .any(|(_, value)| value.chars().any(char::is_control))
        {
            return usage("a setting has a line break or another sign that cannot be seen in it");
        }
        let is_set = |key: &str| settings.iter().any(|(set, _)| set == key);
        if args.data_interface.is_some() && is_set("data_address") {
            return usage("give --data-interface or --data-address, not both");
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
        let is_name = |name: &String| (1..16).contains(&name.len()) && name.bytes().all(plain);
        if !args.data_interface.iter().all(is_name) {
            return usage("the name of an interface has up to 15 signs, such as eth1");
        }
        if let Some(name) = &args.default_class
            && !args.class.iter().any(|class| class.name == *name)
        {
            return usage("--default-class names none of the classes given with --class");
        }
        let nowhere = std::path::Path::new("/nonexistent");
        let checked = config::load(nowhere, false, [], &settings);
        let checked = checked.map_err(|error| CliError::Usage(error.to_string()))?;
        Ok(Self {
            cluster: checked.cluster,
            settings,
            interface: args.data_interface,
            pools: args.pool,
            classes: args.class,
            default_class: args.default_class,
        })
    }

    /// A line that says so, where what is printed tells a secret.
    pub(super) fn warning(&self) -> &'static str {
        if self.is_secret() {
            "# It holds what opens the metadata store: keep it from others.\n"
        } else {
            ""
        }
    }

    /// Whether what is printed tells a secret.
    fn is_secret(&self) -> bool {
        let told = |(key, value): &(String, String)| {
            let secret = key == "store_password" || key == "store_token";
            (secret && !value.starts_with('@')) || (key == "store" && value.contains('@'))
        };
        self.settings.iter().any(told)
    }

    /// The configuration file. The address of an interface is not in it: that differs from node to node.
    pub(super) fn configuration(&self) -> String {
        let mut table = Table::new();
        for (key, value) in &self.settings {
            config::insert(&mut table, key, Value::String(value.clone()));
        }
        let settings = toml::to_string(&table).unwrap_or_default();
        format!(
            "# A node of the Bulkhead cluster {}, as `bulkhead generate` has written it.\n{settings}",
            self.cluster
        )
    }
}
