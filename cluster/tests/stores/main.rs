//! One conformance suite, run against every store there is, and what each of them has of its own. Starts the
//! servers that it needs on loopback, each with ports and directories of its own, and leaves nothing behind.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;
mod consul;
mod etcd;
mod faults;
mod leader;
mod lossy;
mod members;
mod nodes;
mod proxy;
mod sqlite;
mod support;
mod tls;
mod volumes;

use bulkhead_test_servers as servers;
