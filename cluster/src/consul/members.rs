//! The servers of a Consul cluster, as its catalogue knows them. Decides nothing.

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::http::Http;
use crate::store::{Member, StoreError};

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Node")]
    node: Node,
    #[serde(rename = "Service")]
    service: Service,
    #[serde(rename = "Checks", default)]
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Node {
    #[serde(rename = "Node")]
    name: String,
    #[serde(rename = "Address")]
    address: String,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "Port")]
    port: u16,
    #[serde(rename = "Meta", default)]
    meta: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Check {
    #[serde(rename = "Status")]
    status: String,
    #[serde(rename = "Output", default)]
    output: String,
}

pub(super) async fn list(http: &Http) -> Result<Vec<Member>, StoreError> {
    let leader: String = get(http, "status/leader").await?;
    let peers: Vec<String> = get(http, "status/peers").await?;
    // A token may read keys and not the catalogue; the peers alone have to do then.
    let known: Vec<Entry> = match get(http, "health/service/consul").await {
        Ok(known) => known,
        Err(StoreError::Denied { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut members: Vec<Member> = peers
        .into_iter()
        .map(|address| {
            let entry = known.iter().find(|entry| entry.address() == address);
            Member {
                name: entry.map(|entry| entry.node.name.clone()).unwrap_or_default(),
                version: entry.and_then(|entry| entry.service.meta.as_ref()?.get("version").cloned()),
                leader: address == leader,
                size: None,
                trouble: entry.and_then(Entry::trouble),
                address,
            }
        })
        .collect();
    members.sort_by(|a, b| (&a.name, &a.address).cmp(&(&b.name, &b.address)));
    Ok(members)
}

impl Entry {
    /// The address by which the servers know each other.
    fn address(&self) -> String {
        if self.node.address.contains(':') {
            format!("[{}]:{}", self.node.address, self.service.port)
        } else {
            format!("{}:{}", self.node.address, self.service.port)
        }
    }

    fn trouble(&self) -> Option<String> {
        let failing = self.checks.iter().find(|check| check.status != "passing")?;
        Some(format!("{}: {}", failing.status, failing.output.trim()))
    }
}

async fn get<T: DeserializeOwned>(http: &Http, path: &str) -> Result<T, StoreError> {
    let answer = http.read("member list", Method::GET, path, None).await?;
    if answer.status != StatusCode::OK {
        return Err(http.failed(format!("{path}: {}", answer.status)));
    }
    serde_json::from_slice(&answer.body).map_err(|error| http.failed(error))
}
