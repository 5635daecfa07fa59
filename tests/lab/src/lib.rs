//! The lab: real hosts for tests, on one machine.
//!
//! A test asks for a [`Host`], which has a network, a process tree, mounts, `/run` and `/etc` of its own; starts a real
//! dockerd on it ([`Dockerd`]) and the real daemon ([`Bulkhead`]); and takes anything away at any time, as a broken machine
//! would. Nothing here is a stand-in: the kernel, dockerd, PostgreSQL and the file systems are the ones users have.
//!
//! | file | owns |
//! |---|---|
//! | [`command`] | one command with a deadline, whose failure tells what it printed |
//! | [`wait`] | waiting for a condition, never for ever |
//! | [`programs`] | where the binary under test is, and that it is the newest |
//! | [`host`] | a host: its namespaces, its first process, its end |
//! | [`service`] | a long-running process on a host |
//! | [`dockerd`] | a dockerd on a host, and the docker command line |
//! | [`image`] | container images made of this machine's own programs, without a registry |
//! | [`bulkhead`] | the daemon under test on a host |
//! | [`managed`] | the daemon under test as a managed plugin |
//! | [`node`] | a host with the daemon, a pool and dockerd, as a user has it |
//! | [`postgres`] | a database in a container, its load, and what proves that it is undamaged |
//! | [`leaks`] | what a host must not leave behind |
//! | [`plan`] | what a host is to be, as its first process reads it |
//! | [`switch`] | the network of several hosts |
//! | [`cuts`] | cuts of that network |
//! | [`store`] | etcd or Consul, a member on each host |
//! | [`disk`] | a disk that fails, and that forgets what was not synced |
//! | [`driver`] | the volume driver's socket, called as dockerd calls it |
//! | [`docs`] | the documentation's commands, and which of them are run |
//! | [`keep`] | the logs of a run that failed |
//! | [`lab`] | several hosts with a store, daemons, pools and dockerds: a cluster |
//! | [`register`] | a checker that knows which values a block may hold after any fault |
//! | [`registry`] | the managed plugin in a registry of each host's own |
//! | [`faults`] | random faults under that checker |
//! | [`report`] | what a run found, as a table |
//! | [`story`] | PostgreSQL survives the loss of its node: the founding story and its sisters |
//! | [`supervise`] | programs for a terminal, which leave nothing behind |
//! | [`swarm`] | Docker Swarm over them |
//! | [`uninterrupted`] | the daemon killed again and again under load, without one I/O error |
//!
//! It needs root. Two rules hold everywhere: every wait has a deadline, and everything that was started ends with the value
//! that stands for it, also when a test panics or is killed (a host's first process ends when its standard input does, and
//! with it every process, mount and namespace of that host).

pub mod bulkhead;
pub mod command;
pub mod cuts;
pub mod disk;
pub mod dockerd;
pub mod docs;
pub mod driver;
pub mod faults;
pub mod host;
pub mod image;
pub mod keep;
pub mod lab;
pub mod leaks;
pub mod managed;
pub mod node;
pub mod plan;
pub mod postgres;
pub mod programs;
pub mod register;
pub mod registry;
pub mod report;
pub mod service;
pub mod store;
pub mod story;
pub mod supervise;
pub mod swarm;
pub mod switch;
pub mod uninterrupted;
pub mod wait;

pub use bulkhead::Bulkhead;
pub use command::Cmd;
pub use dockerd::Dockerd;
pub use driver::Driver;
pub use host::Host;
pub use lab::Lab;
pub use managed::ManagedPlugin;
pub use node::Node;
pub use postgres::Postgres;
pub use service::Service;
pub use store::StoreKind;
