//! What a machine has to know of the bytes that it passes on: their number.

use xxhash_rust::xxh3::xxh3_128;

use crate::io::Data;

/// The data of a write or a read. Cloning must be cheap: one buffer goes to every member.
pub trait Payload: Clone {
    /// Number of bytes.
    fn size(&self) -> u64;

    /// A digest by which copies are compared: zero if and only if every byte is zero, so that a hole equals zeroes.
    fn digest(&self) -> u128;

    /// The digest of each block of `block` bytes, the last of which may be shorter.
    fn digests(&self, block: u32) -> Vec<u128>;
}

/// The digest of bytes.
pub fn digest(bytes: &[u8]) -> u128 {
    if bytes.iter().all(|&byte| byte == 0) {
        return 0;
    }
    xxh3_128(bytes).max(1)
}

/// The digests of the blocks of bytes.
pub fn digests(bytes: &[u8], block: u32) -> Vec<u128> {
    bytes.chunks(block.max(1) as usize).map(digest).collect()
}

impl Payload for Data {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn digest(&self) -> u128 {
        digest(self)
    }

    fn digests(&self, block: u32) -> Vec<u128> {
        digests(self, block)
    }
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn only_zeroes_have_the_digest_zero() {
        assert_eq!(digest(&[0; 4096]), 0);
        assert_eq!(digest(&[]), 0);
        let mut bytes = [0; 4096];
        bytes[4095] = 1;
        assert_ne!(digest(&bytes), 0);
        assert_ne!(digest(&bytes), digest(&[1; 4096]));
    }
}
