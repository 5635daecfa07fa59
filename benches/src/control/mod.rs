//! What the control plane costs: a fleet of simulated nodes, each with its own connection, sign of life and catalogue,
//! against a real etcd. The code that runs in them is the daemon's; only the disks are left out.
//!
//! | room | owns |
//! |---|---|
//! | [`fleet`] | the simulated nodes |
//! | [`creates`] | volumes that are made, all at once or at a rate |
//! | [`readers`] | those who look things up in the catalogues |
//! | [`arrivals`] | when each node has seen which revision |
//! | [`load`] | what the store says of its own work |
//! | [`listing`] | a real daemon, and how long its `List` takes |
//! | [`run`] | the order of all this, and what came of it |
//! | [`report`] | the figures as a page, and what they say of larger clusters |

pub mod arrivals;
pub mod creates;
pub mod fleet;
pub mod listing;
pub mod load;
pub mod readers;
pub mod report;
pub mod run;
