//! Storage classes: named defaults for volumes, one of them for volumes that name none. A volume keeps a copy of what
//! its class said, so a class may go while its volumes stay.

use std::sync::Arc;

use thiserror::Error;

use crate::records::{self, RecordError};
use crate::schema::{
    CLASSES, ClassRecord, DEFAULT_CLASS_KEY, DefaultClassRecord, SchemaError, Stored, class_key, encode,
};
use crate::store::{Expect, Store, StoreError, Txn};

/// Conflicts in a row before we give up.
const TRIES: usize = 20;

/// Why something could not be done with a storage class.
#[derive(Clone, Debug, Error)]
pub enum ClassError {
    /// There is no such class.
    #[error("there is no storage class `{name}`{}", listed(known))]
    NoSuch {
        /// The name asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// There is one, and it is another one.
    #[error(
        "storage class `{0}` exists already and says something else; delete it first, or choose another name"
    )]
    Exists(String),
    /// It is the default one, and volumes without a class would come out differently from now on without a word.
    #[error(
        "storage class `{0}` is the default one, which volumes without a class take; make another one the default first (bulkhead class default OTHER), or none (bulkhead class default --none)"
    )]
    Default(String),
    /// Others changed classes all the time.
    #[error("storage class `{0}` is being changed by others all the time; try again")]
    Busy(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record that cannot be read, or a name that cannot be one.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl From<RecordError> for ClassError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Store(error) => Self::Store(error),
            RecordError::Schema(error) => Self::Schema(error),
        }
    }
}

fn listed(known: &[String]) -> String {
    if known.is_empty() {
        "; bulkhead class create NAME makes one".to_owned()
    } else {
        format!("; there are: {}", known.join(", "))
    }
}

/// The storage classes of a cluster.
#[derive(Clone, Debug)]
pub struct Classes {
    store: Arc<dyn Store>,
}

impl Classes {
    /// Those that a store holds.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// All classes, in the order of their names, and the name of the default one.
    pub async fn list(&self) -> Result<(Vec<ClassRecord>, Option<String>), ClassError> {
        let (classes, faults, _) = records::list::<ClassRecord>(&*self.store, CLASSES).await?;
        for fault in faults {
            tracing::error!(%fault, "a storage class cannot be read");
        }
        let mut classes: Vec<_> = classes.into_iter().map(|stored| stored.record).collect();
        classes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((classes, self.default().await?.map(|default| default.record.class)))
    }

    /// The class of a name.
    pub async fn get(&self, name: &str) -> Result<Option<ClassRecord>, ClassError> {
        Ok(records::get(&*self.store, &class_key(name)?)
            .await?
            .map(|stored| stored.record))
    }

    /// The class that a volume takes: the one it names, which must be there; else the default one, if there is one.
    pub async fn for_volume(&self, named: Option<&str>) -> Result<Option<ClassRecord>, ClassError> {
        let name = match named {
            Some(name) => name.to_owned(),
            None => match self.default().await? {
                Some(default) => default.record.class,
                None => return Ok(None),
            },
        };
        match self.get(&name).await? {
            Some(class) => Ok(Some(class)),
            None => Err(self.no_such(&name).await),
        }
    }

    /// Makes a class. No fault if it is there and says the same.
    pub async fn create(&self, class: &ClassRecord, default: bool) -> Result<(), ClassError> {
        let key = class_key(&class.name)?;
        for _ in 0..TRIES {
            match self.get(&class.name).await? {
                Some(found) if same(&found, class) => {
                    return if default {
                        self.set_default(&class.name).await
                    } else {
                        Ok(())
                    };
                }
                Some(_) => return Err(ClassError::Exists(class.name.clone())),
                None => {}
            }
            let mut txn = Txn::new()
                .check(&key, Expect::Absent)
                .put(&key, encode(&key, class)?);
            if default {
                txn = txn.put(DEFAULT_CLASS_KEY, default_record(&class.name)?);
            }
            match self.store.commit(txn).await {
                Ok(_) => return Ok(()),
                // Made by someone, or by us with the answer lost: see what is there.
                Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ClassError::Busy(class.name.clone()))
    }

    /// Makes a class the one that volumes without a class take.
    pub async fn set_default(&self, name: &str) -> Result<(), ClassError> {
        let key = class_key(name)?;
        for _ in 0..TRIES {
            let Some(class) = records::get::<ClassRecord>(&*self.store, &key).await? else {
                return Err(self.no_such(name).await);
            };
            let txn = Txn::new()
                .check(&key, Expect::At(class.revision))
                .put(DEFAULT_CLASS_KEY, default_record(name)?);
            match self.store.commit(txn).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ClassError::Busy(name.to_owned()))
    }

    /// Volumes without a class take none from now on. No fault if there is no default one.
    pub async fn clear_default(&self) -> Result<(), ClassError> {
        self.store.commit(Txn::new().delete(DEFAULT_CLASS_KEY)).await?;
        Ok(())
    }

    /// Removes a class; refused while it is the default one. Its volumes stay as they are.
    pub async fn delete(&self, name: &str) -> Result<(), ClassError> {
        let key = class_key(name)?;
        let mut lost = false;
        for _ in 0..TRIES {
            let default = self.default().await?;
            let Some(class) = records::get::<ClassRecord>(&*self.store, &key).await? else {
                return if lost {
                    Ok(())
                } else {
                    Err(self.no_such(name).await)
                };
            };
            // It must not become the default one in between either.
            let still = match default {
                Some(default) if default.class == name => return Err(ClassError::Default(name.to_owned())),
                Some(default) => Expect::At(default.revision),
                None => Expect::Absent,
            };
            let txn = Txn::new()
                .check(&key, Expect::At(class.revision))
                .check(DEFAULT_CLASS_KEY, still)
                .delete(&key);
            match self.store.commit(txn).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::OutcomeUnknown { .. }) => lost = true,
                Err(error) => return Err(error.into()),
            }
        }
        Err(ClassError::Busy(name.to_owned()))
    }

    async fn default(&self) -> Result<Option<Stored<DefaultClassRecord>>, ClassError> {
        Ok(records::get(&*self.store, DEFAULT_CLASS_KEY).await?)
    }

    async fn no_such(&self, name: &str) -> ClassError {
        let known = match self.store.list(CLASSES).await {
            Ok((entries, _)) => entries
                .iter()
                .filter_map(|entry| crate::schema::decode_name(entry.key.strip_prefix(CLASSES)?))
                .collect(),
            Err(_) => Vec::new(),
        };
        ClassError::NoSuch {
            name: name.to_owned(),
            known,
        }
    }
}

fn default_record(name: &str) -> Result<bytes::Bytes, SchemaError> {
    encode(
        DEFAULT_CLASS_KEY,
        &DefaultClassRecord {
            class: name.to_owned(),
        },
    )
}

/// Whether two classes say the same, whenever they were made.
fn same(a: &ClassRecord, b: &ClassRecord) -> bool {
    let a = ClassRecord {
        created_at: b.created_at,
        ..a.clone()
    };
    a == *b
}
