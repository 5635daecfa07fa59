//! The daemon is killed again and again under load, and nobody but a stop-watch notices.
//!
//! | file | owns |
//! |---|---|
//! | [`probe`] | a program in a container that writes without end and notes each write that took long |
//! | [`loads`] | fio, PostgreSQL and the probes on their volumes, and what went wrong in them |
//! | [`kernel`] | what the kernel said of those volumes |
//! | [`pauses`] | which pause belongs to which kill |
//! | [`campaign`] | kill after kill, chosen by one seed |
//! | [`reckoning`] | the checks at the end, and the table |
//! | [`cases`] | what else ends a daemon: its keeper's end, a cut, an upgrade |
//!
//! It must never count a run as good whose loads did not run, or whose end was not checked.

pub mod campaign;
pub mod cases;
pub mod kernel;
pub mod loads;
pub mod pauses;
pub mod probe;
pub mod reckoning;

pub use campaign::{Campaign, run};
pub use reckoning::Reckoning;
