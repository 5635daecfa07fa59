//! The pure state machines: every rule of docs/replication.md, and nothing else.
//!
//! Events and the time go in, actions come out. In this folder there are no threads, sockets, files, clocks or
//! randomness (a test checks the imports); the same code runs in a node and in the simulation.
//!
//! | part | owns |
//! |---|---|
//! | [`replica`] | one copy of a volume: what is written to its two files and when (D1 to D7), epochs, sessions, leases |
//! | [`primary`] | one attached volume: order, members, ticks, takeover, convergence, rebuild |
//! | [`protocol`] | what a primary asks of a replica, and what it is answered |
//! | [`record`] | the volume's entry in the store, and the changes that are made to it |
//! | [`faults`] | deliberate faults for the simulation; without the feature `faults` they do not exist |
//!
//! A machine is stepped under a lock, its actions are executed outside of it: two actions may be executed in any order
//! and at the same time, unless the second was given out in answer to the completion of the first.

pub mod faults;
pub mod payload;
pub mod primary;
pub mod protocol;
pub mod record;
pub mod replica;
mod slab;
pub mod time;

pub use faults::{Fault, FaultSet};
pub use payload::Payload;
pub use primary::Primary;
pub use protocol::{Reply, Request, RequestId, Role, SessionId};
pub use record::{MemberState, Record, RecordReplica};
pub use replica::Replica;
pub use time::Time;
