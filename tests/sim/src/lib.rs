//! A simulation of a volume's machines: disks, network, store, clocks and processes, all driven by one seed.
//!
//! | file | owns |
//! |---|---|
//! | `plan`, `draw` | what happens in a run, drawn beforehand |
//! | `world`, `queue` | what happens, and what is still to happen |
//! | `node`, `net`, `store`, `disk` | the parts of the cluster |
//! | `machines`, `connections`, `questions`, `life` | what happens to machines, connections, the store, and processes |
//! | `attach`, `user` | who attaches the volume and uses it |
//! | `resume` | what a process leaves behind in the kernel, and how the next one goes on with it |
//! | `chaos`, `ambush`, `audit` | what goes wrong, what goes wrong at a chosen moment, and what is looked at |
//! | `rules` | rules of the machines that are looked at directly |
//! | `rot`, `last_resort` | rot and verify; a store from an older copy, and a volume of which every member is lost |
//! | `show` | records and messages in a trace |
//! | `checker` | what P1, P2 and P3 allow |
//! | `campaign` | many seeds, shrinking, and the deliberate faults |

pub mod ambush;
mod attach;
mod audit;
pub mod campaign;
mod chaos;
pub mod checker;
mod connections;
pub mod disk;
mod draw;
pub mod last_resort;
mod life;
mod machines;
pub mod net;
pub mod node;
pub mod plan;
mod questions;
mod queue;
pub mod resume;
pub mod rng;
pub mod rot;
mod rules;
pub mod show;
pub mod store;
pub mod user;
pub mod world;
