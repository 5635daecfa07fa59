//! The keeper: the parent of the daemon, which holds what must outlive it.
//!
//! A volume's connection to the kernel lives as long as one process holds its descriptor. The daemon, large and busy, may
//! be killed, may crash, and is replaced by a newer version; the keeper does so little that none of that is likely: it
//! holds descriptors, starts the daemon, hands them to it, and starts it again when it dies. It has one thread, opens
//! nothing but its own executable, waits for nothing without a bound, and understands nothing of what it keeps.
//!
//! Layout, from the bottom: [`protocol`] (messages as bytes), [`socket`] (datagrams with a descriptor), [`table`] (what is
//! kept), [`pace`] (when the daemon is started again), `launch` (how), `carry` (what goes over to the next keeper when
//! this one replaces itself), [`parent`] (the loop), and [`client`], which is the daemon's end.
//!
//! It must never fail because of what the daemon says, and never hold a connection that nobody serves for longer than the
//! daemon has allowed: what it lets go of, the kernel ends.

mod carry;
pub mod client;
mod clock;
mod launch;
pub mod pace;
pub mod parent;
pub mod protocol;
pub mod socket;
pub mod table;

pub use client::{Client, ClientError, Kept, Start};
pub use parent::run;

/// In the daemon's environment: the number of the descriptor that leads to the keeper.
pub const ENV_SOCKET: &str = "BULKHEAD_KEEPER";
/// In the environment of a keeper that another one has become: the descriptor of what it has to go on with.
pub const ENV_STATE: &str = "BULKHEAD_KEEPER_STATE";
/// In the environment of one that is only asked whether it could.
pub const ENV_TRY: &str = "BULKHEAD_KEEPER_TRY";
/// With this exit code the daemon asks to be started again at once (`EX_TEMPFAIL`).
pub const AGAIN: i32 = 75;

/// Whether this process was started by a keeper, as its daemon.
pub fn is_kept() -> bool {
    std::env::var_os(ENV_SOCKET).is_some()
}
