//! The faces of Bulkhead: the Docker volume driver, the command line, and the daemon that wires them to the engine
//! and the cluster. It uses the public faces of those two only.
//!
//! | room | owns |
//! |---|---|
//! | [`service`] | the one trait through which every face asks for a volume to be made, mounted, shown |
//! | [`options`] | what a person may ask of a volume, parsed and checked |
//! | [`http`] | sockets that speak HTTP, with deadlines and limits |
//! | [`locks`] | one lock per volume name |
//! | nearest | names that may have been meant |
//! | proc | what the kernel tells of a process |
//! | [`docker`] | Docker's volume driver protocol, and the table of who has what mounted |
//! | [`api`] | the JSON interface: on a socket for root, over TCP with TLS and tokens |
//! | [`exposition`] | the text form of figures for Prometheus |
//! | [`config`] | one struct from file, environment and flags |
//! | [`cli`] | the command line |
//! | [`daemon`] | the wiring: engine, cluster and faces in one process |
//! | [`versions`] | what this program speaks and writes, for an upgrade to compare |
//! | [`telemetry`] | logs, and the word to systemd that all is ready |

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod docker;
pub mod exposition;
pub mod http;
pub mod locks;
mod nearest;
pub mod options;
mod proc;
pub mod service;
pub mod telemetry;
pub mod versions;
