//! Real metadata stores on loopback for tests and benchmarks: etcd and Consul, as many members as are asked for, each with
//! ports and a directory of its own. They die with the process that started them, also when it panics or is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod consul;
mod etcd;
mod process;
mod wait;

pub use consul::ConsulCluster;
pub use etcd::EtcdCluster;
pub use process::{Server, data_dir, free_port};
pub use wait::{until, within};
