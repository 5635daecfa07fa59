//! Block files for tests: one that records every write and sync, one that fails on command, one that is rebuilt
//! from a recording at a cut; and a small file system to put real ones on. Each test binary uses a part of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod alone;
pub mod cut;
pub mod faulty;
pub mod pool;
pub mod recording;
