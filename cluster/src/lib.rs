//! The control plane's memory: what exists in a cluster and who holds what. Everything here goes through a
//! [`store::Store`]; nothing here touches a disk of a volume, a mount or Docker.
//!
//! - [`store`]: the trait that etcd, Consul and the embedded SQLite implement, and a watcher without gaps.
//! - [`sqlite`]: the embedded store of a single node.
//! - [`etcd`], [`consul`]: for several nodes.
//! - [`schema`]: the keys and records.
//! - [`catalogue`]: a node's own copy of the records, which answers while the store is away.
//! - [`classes`]: storage classes.
//! - [`events`]: what happened and what is wrong.
//! - [`tokens`]: who may use the API over the network.
//! - [`nodes`]: who belongs to the cluster, who lives, and what pools there are.
//! - [`placement`]: where a volume's replicas go.
//! - [`volumes`]: the life of a volume as changes of its record, and who may attach it.

pub mod catalogue;
pub mod classes;
pub mod consul;
pub mod etcd;
pub mod events;
pub mod nodes;
pub mod placement;
pub mod records;
pub mod schema;
pub mod sqlite;
pub mod store;
pub mod tokens;
pub mod volumes;
