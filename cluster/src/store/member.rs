//! The servers of a store, for people: who they are, which one leads, what is wrong with them. Nothing is decided by it.

/// One server of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name; empty if it has none, or never started.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Its version, if it told.
    pub version: Option<String>,
    /// Whether it leads the others.
    pub leader: bool,
    /// Bytes of its database, if it told.
    pub size: Option<u64>,
    /// What is wrong with it, as far as we see it from here.
    pub trouble: Option<String>,
}
