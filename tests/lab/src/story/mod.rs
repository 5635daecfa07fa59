//! The founding story: PostgreSQL as a Swarm service survives the loss of its node, and its harder sisters.
//!
//! | file | owns |
//! |---|---|
//! | [`application`] | the application of a stack, and what it was told |
//! | [`stage`] | the hosts, the class, the service, the filled database |
//! | [`fall`] | the ways in which the database's node is lost, and comes back |
//! | [`scene`] | one loss: the watch, the first query elsewhere, the reckoning, the return |
//! | [`timeline`] | what took how long, from what Docker, the daemon and the database tell |
//! | [`sisters`] | the whole set, and its table |
//!
//! It must never call a run good that it has not counted row by row.

pub mod application;
pub mod fall;
pub mod scene;
pub mod sisters;
pub mod stage;
pub mod timeline;

pub use fall::Fall;
pub use scene::{Outcome, Scene};
pub use stage::{Setting, Stage};
pub use timeline::Division;
