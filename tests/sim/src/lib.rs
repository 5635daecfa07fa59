//! A simulation of a volume's machines: disks, network, store, clocks and processes, all driven by one seed.
//!
//! | file | owns |
//! |---|---|
//! | `plan` | what happens in a run, drawn beforehand |
//! | `world`, `node`, `net`, `store`, `disk` | the cluster |
//! | `user`, `chaos` | who uses it, and what goes wrong |
//! | `checker` | what P1, P2 and P3 allow |
//! | `campaign` | many seeds, shrinking, and the deliberate faults |

pub mod campaign;
mod chaos;
pub mod checker;
pub mod disk;
pub mod net;
pub mod node;
pub mod plan;
pub mod rng;
pub mod store;
pub mod user;
pub mod world;
