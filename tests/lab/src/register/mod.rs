//! The register checker: a file of blocks, each stamped with a counter, and a log outside of the host that tells which values
//! were written, acknowledged, flushed and read. What a block may hold after a fault follows from the log alone.
//!
//! | file | owns |
//! |---|---|
//! | [`block`] | what a block looks like |
//! | [`history`] | the log, and the window of values that it allows |
//! | [`run`] | writing, reading and flushing until something fails |
//! | [`workload`] | that program in a container of a host, and what its log tells a test |
//!
//! It must never take for granted what the log does not show, and never lose a line that was written.

pub mod block;
pub mod history;
pub mod run;
pub mod workload;

pub use history::{History, Violation};
pub use workload::Workload;
