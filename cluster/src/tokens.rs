//! Tokens of the API: made, listed and deleted. Knows only their hashes; whoever makes one shows it once.

use std::sync::Arc;

use thiserror::Error;

use crate::records::{self, RecordError};
use crate::schema::{SchemaError, TOKENS, TokenRecord, decode_name, encode, token_key};
use crate::store::{Expect, Store, StoreError};

/// Why something could not be done with a token.
#[derive(Clone, Debug, Error)]
pub enum TokenError {
    /// There is no such token.
    #[error("there is no token `{name}`{}", listed(known))]
    NoSuch {
        /// The name asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// There is one.
    #[error(
        "token `{0}` exists already, and nobody can be shown it again; delete it first, or choose another name"
    )]
    Exists(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record that cannot be read, or a name that cannot be one.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

fn listed(known: &[String]) -> String {
    if known.is_empty() {
        "; bulkhead token create NAME makes one".to_owned()
    } else {
        format!("; there are: {}", known.join(", "))
    }
}

/// The tokens of a cluster.
#[derive(Clone, Debug)]
pub struct Tokens {
    store: Arc<dyn Store>,
}

impl Tokens {
    /// Those that a store holds.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Keeps a token. After a lost answer it is looked for: its hash is nobody else's.
    pub async fn create(&self, token: &TokenRecord) -> Result<(), TokenError> {
        let key = token_key(&token.name)?;
        match self.store.swap(&key, Expect::Absent, encode(&key, token)?).await {
            Ok(_) => Ok(()),
            Err(error @ (StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. })) => {
                match self.get(&key).await? {
                    Some(found) if found.hash == token.hash => Ok(()),
                    Some(_) => Err(TokenError::Exists(token.name.clone())),
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends a token. Whoever holds it is refused as soon as the nodes have heard of it.
    pub async fn delete(&self, name: &str) -> Result<(), TokenError> {
        let key = token_key(name)?;
        let there = self.store.get(&key).await?;
        if there.is_none() {
            let (entries, _) = self.store.list(TOKENS).await?;
            let known = entries
                .iter()
                .filter_map(|entry| decode_name(entry.key.strip_prefix(TOKENS)?))
                .collect();
            return Err(TokenError::NoSuch {
                name: name.to_owned(),
                known,
            });
        }
        self.store.commit(crate::store::Txn::new().delete(&key)).await?;
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<TokenRecord>, TokenError> {
        match records::get::<TokenRecord>(&*self.store, key).await {
            Ok(found) => Ok(found.map(|stored| stored.record)),
            Err(RecordError::Store(error)) => Err(error.into()),
            Err(RecordError::Schema(error)) => Err(error.into()),
        }
    }
}
