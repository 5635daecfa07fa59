//! What a block looks like: whose it is, its counter, and a pattern that shows every sector that is not of the same write.
//!
//! It owns the bytes. It must never take a block of two writes for one.

/// Size of a block, and of every request.
pub const BLOCK: usize = 4096;

const MAGIC: u64 = 0x4c41_4252_4547_0001;
const SECTOR: usize = 512;

/// Memory that direct I/O accepts.
#[repr(C, align(4096))]
pub struct Page(pub [u8; BLOCK]);

impl Page {
    /// One of zeroes.
    pub fn new() -> Box<Self> {
        Box::new(Self([0; BLOCK]))
    }
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing was ever written to it.
    Blank,
    /// The write of this counter, whole.
    Value(u64),
    /// Sectors of several writes, or anything else.
    Torn,
}

/// Fills a block: each sector bears the block's number, the counter and its own place.
pub fn fill(bytes: &mut [u8], number: u64, counter: u64) {
    for (place, sector) in (0_u64..).zip(bytes.chunks_mut(SECTOR)) {
        let mut mix = number ^ counter.rotate_left(17) ^ place.rotate_left(40) ^ MAGIC;
        for (index, word) in sector.chunks_mut(8).enumerate() {
            let value = match index {
                0 => MAGIC,
                1 => number,
                2 => counter,
                3 => place,
                _ => {
                    mix = mix.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ counter;
                    mix
                }
            };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
    }
}

/// Reads a block.
pub fn read(bytes: &[u8], number: u64) -> Content {
    if bytes.iter().all(|&byte| byte == 0) {
        return Content::Blank;
    }
    let word = |index: usize| {
        bytes
            .get(index * 8..index * 8 + 8)
            .and_then(|word| word.try_into().ok())
            .map(u64::from_le_bytes)
    };
    let Some(counter) = word(2) else {
        return Content::Torn;
    };
    let mut expected = vec![0; bytes.len()];
    fill(&mut expected, number, counter);
    if expected == bytes {
        Content::Value(counter)
    } else {
        Content::Torn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_tells_its_counter_and_a_foreign_sector_is_seen() {
        let mut bytes = vec![0; BLOCK];
        assert_eq!(read(&bytes, 7), Content::Blank);
        fill(&mut bytes, 7, 41);
        assert_eq!(read(&bytes, 7), Content::Value(41));
        assert_eq!(read(&bytes, 8), Content::Torn, "another block's place");
        let mut newer = vec![0; BLOCK];
        fill(&mut newer, 7, 42);
        for sector in 0..BLOCK / SECTOR {
            let mut mixed = bytes.clone();
            mixed[sector * SECTOR..(sector + 1) * SECTOR]
                .copy_from_slice(&newer[sector * SECTOR..(sector + 1) * SECTOR]);
            assert_eq!(read(&mixed, 7), Content::Torn, "sector {sector}");
        }
    }
}
