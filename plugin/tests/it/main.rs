//! Tests of the faces and of the daemon behind them, over real Unix sockets.
//!
//! [`driver`] has the protocol's traps, with volumes that can be made slow or unreachable at will. The others run the
//! real daemon, which needs root, FUSE, loop devices, and mkfs for ext4, XFS and btrfs.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets what it does not expect has failed"
)]

mod api;
mod cli;
mod client;
mod cluster;
mod creation;
mod daemon;
mod driver;
mod hundred;
mod last_resort;
mod life;
mod malformed;
mod node;
mod repair;
mod restored;
mod several;
mod shelf;
mod takeover;
mod uninterrupted;
mod upkeep;
