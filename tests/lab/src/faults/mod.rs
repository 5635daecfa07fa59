//! Random faults under a workload that knows what every block may hold.
//!
//! | file | owns |
//! |---|---|
//! | [`blow`] | one fault: how it is dealt, and how it is undone |
//! | [`campaign`] | fault after fault, the workload's way from node to node, the reckoning at the end |
//! | [`compare`] | whether the replicas' files are the same, byte by byte |
//!
//! It must never call a run good whose workload made no progress, or whose volumes are not whole at the end.

pub mod blow;
pub mod campaign;
pub mod compare;

pub use campaign::{Campaign, run};
