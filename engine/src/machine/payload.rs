//! What a machine has to know of the bytes that it passes on: their number.

use crate::io::Data;

/// The data of a write or a read. Cloning must be cheap: one buffer goes to every member.
pub trait Payload: Clone {
    /// Number of bytes.
    fn size(&self) -> u64;
}

impl Payload for Data {
    fn size(&self) -> u64 {
        self.len() as u64
    }
}
