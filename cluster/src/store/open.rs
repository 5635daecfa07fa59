//! From a URL to an open store. Parses, refuses what makes no sense, and keeps secrets out of every message.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Store, StoreError, check_prefix};
use crate::consul::Consul;
use crate::etcd::Etcd;
use crate::sqlite::Sqlite;

/// A password or token. Shows itself to nobody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the connection.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Certificates for `etcds://` and `consuls://`, as PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authority that signed the store's certificate; without it those of the system.
    pub ca: Option<PathBuf>,
    /// Our own certificate.
    pub cert: Option<PathBuf>,
    /// Our own key.
    pub key: Option<PathBuf>,
}

/// How to open a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Prefix of all keys: one per cluster, such as `bulkhead/NAME/`.
    pub prefix: String,
    /// The time within which every call ends.
    pub deadline: Duration,
    /// Certificates.
    pub tls: Tls,
    /// User of etcd.
    pub user: Option<String>,
    /// Password of that user.
    pub password: Option<Secret>,
    /// ACL token of Consul.
    pub token: Option<Secret>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: "bulkhead/".to_owned(),
            deadline: Duration::from_secs(5),
            tls: Tls::default(),
            user: None,
            password: None,
            token: None,
        }
    }
}

/// A store's URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:///path`: the embedded store of a single node.
    Sqlite(PathBuf),
    /// `etcd://h1:2379,h2:2379`, `etcds://…`.
    Etcd {
        /// Whether over TLS.
        tls: bool,
        /// Hosts with ports.
        endpoints: Vec<String>,
    },
    /// `consul://h:8500`, `consuls://…`.
    Consul {
        /// Whether over TLS.
        tls: bool,
        /// Hosts with ports.
        endpoints: Vec<String>,
    },
}

impl StoreUrl {
    /// Takes a URL apart.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let shown = without_secrets(url);
        let fault = |reason: &str| StoreError::Config {
            url: shown.clone(),
            reason: reason.to_owned(),
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| {
            fault("not a URL; give sqlite:///path, etcd://host:2379,… or consul://host:8500,…")
        })?;
        match scheme {
            "sqlite" if rest.starts_with('/') && !rest.ends_with('/') => {
                Ok(Self::Sqlite(PathBuf::from(rest)))
            }
            "sqlite" => Err(fault(
                "the path of a file must be absolute: sqlite:///var/lib/bulkhead/store.db",
            )),
            "etcd" | "etcds" => Ok(Self::Etcd {
                tls: scheme == "etcds",
                endpoints: endpoints(rest, 2379).map_err(|reason| fault(&reason))?,
            }),
            "consul" | "consuls" => Ok(Self::Consul {
                tls: scheme == "consuls",
                endpoints: endpoints(rest, 8500).map_err(|reason| fault(&reason))?,
            }),
            "http" | "https" => Err(fault(
                "say which store it is: etcd://, etcds://, consul:// or consuls://",
            )),
            _ => Err(fault(
                "no such kind of store: sqlite, etcd, etcds, consul and consuls there are",
            )),
        }
    }
}

/// The URL as it may be shown and logged: what stands before an `@` is dropped.
fn without_secrets(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let hosts: Vec<&str> = rest
                .split(',')
                .map(|host| host.rsplit_once('@').map_or(host, |(_, host)| host))
                .collect();
            format!("{scheme}://{}", hosts.join(","))
        }
        None => url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
    }
}

fn endpoints(list: &str, default_port: u16) -> Result<Vec<String>, String> {
    if list.contains('@') {
        return Err("give user, password and token as options of their own, not in the URL".to_owned());
    }
    let mut found = Vec::new();
    for endpoint in list.trim_end_matches('/').split(',').map(str::trim) {
        let (host, port) = match endpoint.rsplit_once(':') {
            // `[::1]` without a port ends in the bracket.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (endpoint, None),
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let inner = host.trim_start_matches('[').trim_end_matches(']');
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c) || (bracketed && c == ':');
        if inner.is_empty() || !inner.chars().all(plain) {
            return Err(format!("`{endpoint}` is not HOST:PORT"));
        }
        let port = match port {
            Some(port) => port
                .parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| format!("`{endpoint}`: `{port}` is not a port"))?,
            None => default_port,
        };
        let endpoint = format!("{host}:{port}");
        if !found.contains(&endpoint) {
            found.push(endpoint);
        }
    }
    Ok(found)
}

/// Opens the store that a URL names. For a store across the network this does not wait until it answers: a node
/// must be able to start, and to serve what it has, while the store is away.
pub async fn open(url: &str, options: &Options) -> Result<Arc<dyn Store>, StoreError> {
    let parsed = StoreUrl::parse(url)?;
    let fault = |reason: String| StoreError::Config {
        url: without_secrets(url),
        reason,
    };
    check_prefix(&options.prefix).map_err(|error| fault(error.to_string()))?;
    if !options.prefix.is_empty() && !options.prefix.ends_with('/') {
        return Err(fault(format!("prefix `{}` must end in /", options.prefix)));
    }
    if options.deadline.is_zero() {
        return Err(fault("a deadline of nothing".to_owned()));
    }
    match parsed {
        StoreUrl::Sqlite(path) => Ok(Arc::new(Sqlite::open(&path, options).await?)),
        StoreUrl::Etcd { tls, endpoints } => Ok(Arc::new(Etcd::new(tls, endpoints, options)?)),
        StoreUrl::Consul { tls, endpoints } => Ok(Arc::new(Consul::new(tls, &endpoints, options)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_every_kind() {
        let parsed = |url: &str| StoreUrl::parse(url).map_err(|error| error.to_string());
        assert_eq!(parsed("sqlite:///a/b.db"), Ok(StoreUrl::Sqlite("/a/b.db".into())));
        assert_eq!(
            parsed("etcd://h1,h2:99,h1:2379,[::1]:5,[fe80::1]"),
            Ok(StoreUrl::Etcd {
                tls: false,
                endpoints: ["h1:2379", "h2:99", "[::1]:5", "[fe80::1]:2379"]
                    .map(str::to_owned)
                    .to_vec(),
            })
        );
        assert_eq!(
            parsed("consuls://c.example/"),
            Ok(StoreUrl::Consul {
                tls: true,
                endpoints: vec!["c.example:8500".to_owned()],
            })
        );
        for bad in [
            "",
            "etcd",
            "etcd://",
            "etcd://:1",
            "etcd://h:0",
            "etcd://h:x",
            "etcd://a,,b",
            "sqlite://rel",
            "sqlite:///",
            "sqlite:///d/",
            "mysql://h",
            "http://h:2379",
            "etcd://h:1/path",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let error = StoreUrl::parse("etcd://root:geheim@h:1")
            .err()
            .map(|error| error.to_string());
        assert!(error.is_some_and(|text| !text.contains("geheim") && text.contains("h:1")));
        let options = Options {
            password: Some(Secret::new("geheim")),
            token: Some(Secret::new("geheim")),
            ..Options::default()
        };
        assert!(!format!("{options:?}").contains("geheim"));
    }
}
