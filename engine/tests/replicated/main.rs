//! Volumes over several nodes: real files, real connections on the loopback interface, several nodes in this process,
//! each with its own directory. Between any two of them is a wire that can be cut, stopped and counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    dead_code
)]

#[path = "../support/faulty.rs"]
mod faulty;

mod bounds;
mod catch_up;
mod cluster;
mod disks;
mod loss;
mod members;
mod store;
mod takeover;
mod verify;
mod wire;
mod work;
