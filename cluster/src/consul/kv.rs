//! Consul's words for keys, values and transactions, and ours in them. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::MARK;
use crate::store::{Entry, Expect, Op, Revision, Txn};

/// A key as a part of a URL's path. Of what the trait admits only `%` means something there.
pub(super) fn path(key: &str) -> String {
    key.replace('%', "%25")
}

/// A key with its value, as Consul tells it.
#[derive(Deserialize)]
pub(super) struct Pair {
    #[serde(rename = "Key")]
    pub(super) key: String,
    #[serde(rename = "Value")]
    value: Option<String>,
    #[serde(rename = "ModifyIndex")]
    modified: u64,
}

impl Pair {
    pub(super) fn into_entry(self, prefix: &str) -> Result<Entry, String> {
        let key = self
            .key
            .strip_prefix(prefix)
            .ok_or_else(|| format!("`{}` is not below our prefix", self.key))?;
        let value = match &self.value {
            Some(text) => STANDARD
                .decode(text)
                .map_err(|error| format!("`{key}`: {error}"))?,
            None => Vec::new(),
        };
        Ok(Entry {
            key: key.to_owned(),
            value: Bytes::from(value),
            revision: Revision(self.modified),
        })
    }
}

#[derive(Serialize)]
pub(super) struct Wrapped {
    #[serde(rename = "KV")]
    operation: Operation,
}

#[derive(Serialize, Default)]
struct Operation {
    #[serde(rename = "Verb")]
    verb: &'static str,
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value", skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(rename = "Flags", skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(rename = "Index", skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(rename = "Session", skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

/// A transaction in Consul's words: the checks first, in our order.
pub(super) struct Request {
    pub(super) ops: Vec<Wrapped>,
}

impl Request {
    pub(super) fn of(txn: &Txn, prefix: &str) -> Self {
        let full = |key: &str| format!("{prefix}{key}");
        // Consul does not count a write of the same value as a change: two who swap to the same value would both be
        // told that they won. A number that is never the same in the flags makes every write a change.
        let unique = Uuid::new_v4().as_u64_pair().0;
        let mut ops: Vec<Operation> = txn
            .checks
            .iter()
            .map(|(key, expect)| match expect {
                Expect::Absent => Operation {
                    verb: "check-not-exists",
                    key: full(key),
                    ..Operation::default()
                },
                Expect::At(at) => Operation {
                    verb: "check-index",
                    key: full(key),
                    index: Some(at.0),
                    ..Operation::default()
                },
            })
            .collect();
        let delete = |key: &str| Operation {
            verb: "delete",
            key: full(key),
            ..Operation::default()
        };
        for op in &txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    if lease.is_some() {
                        // Else a key that another session holds could not be taken over by this one.
                        ops.push(delete(key));
                    }
                    ops.push(Operation {
                        verb: if lease.is_some() { "lock" } else { "set" },
                        key: full(key),
                        value: Some(STANDARD.encode(value)),
                        flags: Some(unique),
                        session: lease.as_ref().map(|lease| lease.0.clone()),
                        ..Operation::default()
                    });
                }
                Op::Delete { key } => ops.push(delete(key)),
            }
        }
        if txn.ops.iter().all(|op| matches!(op, Op::Delete { .. })) {
            ops.push(Operation {
                verb: "set",
                key: full(MARK),
                value: Some(String::new()),
                flags: Some(unique),
                ..Operation::default()
            });
        }
        Self {
            ops: ops.into_iter().map(|operation| Wrapped { operation }).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ops.len()
    }
}

/// What came of a transaction.
#[derive(Deserialize)]
pub(super) struct Outcome {
    #[serde(rename = "Results", default)]
    results: Option<Vec<ResultOf>>,
    #[serde(rename = "Errors", default)]
    errors: Option<Vec<ErrorOf>>,
}

#[derive(Deserialize)]
struct ResultOf {
    #[serde(rename = "KV")]
    pair: Option<Changed>,
}

#[derive(Deserialize)]
struct Changed {
    #[serde(rename = "ModifyIndex")]
    modified: u64,
}

#[derive(Deserialize)]
struct ErrorOf {
    #[serde(rename = "OpIndex")]
    position: usize,
    #[serde(rename = "What")]
    what: String,
}

impl Outcome {
    /// The revision of the changes: all of one transaction have the same, and it is the newest there.
    pub(super) fn revision(&self) -> Option<Revision> {
        let results = self.results.as_ref()?;
        results
            .iter()
            .filter_map(|result| Some(Revision(result.pair.as_ref()?.modified)))
            .max()
    }

    /// The first operation that failed, and why.
    pub(super) fn first_error(self) -> Option<(usize, String)> {
        self.errors?
            .into_iter()
            .map(|error| (error.position, error.what))
            .min_by_key(|(position, _)| *position)
    }
}

/// The revision that Consul found, if it says so: `… current modify index 12 != 7`.
pub(super) fn found_in(what: &str) -> Option<Revision> {
    let (_, rest) = what.rsplit_once("index ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().map(Revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_consul_found_is_read_from_its_words() {
        assert_eq!(
            found_in("failed index check for key \"a\", current modify index 12 != 7"),
            Some(Revision(12))
        );
        assert_eq!(found_in("key \"a\" doesn't exist"), None);
    }

    #[test]
    fn a_percent_sign_survives_the_path() {
        assert_eq!(path("volume-names/a%20b"), "volume-names/a%2520b");
    }
}
