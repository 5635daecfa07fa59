//! The decoder asks for no more memory than the bounds of a frame say, whatever it is given.

use bulkhead_engine::wire::{
    Codec, FrameReader, HEADER_LEN, Kind, MAGIC, MAX_DATA, MAX_META, Version, read_greeting,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// Counts what the current thread holds.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.get() + layout.size();
        HELD.set(held);
        PEAK.set(PEAK.get().max(held));
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most memory that `run` held at a time.
fn peak_of(run: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    run();
    PEAK.get() - before
}

fn head(kind: u8, meta_len: u32, data_len: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4] = kind;
    bytes[16..20].copy_from_slice(&meta_len.to_le_bytes());
    bytes[20..24].copy_from_slice(&data_len.to_le_bytes());
    let seal = crc32c::crc32c(&bytes[..36]);
    bytes[36..40].copy_from_slice(&seal.to_le_bytes());
    bytes
}

#[test]
fn wire_decoder_keeps_to_its_bounds_whatever_a_head_promises() {
    let codec = Codec {
        version: Version::NEWEST,
        data_crc: false,
    };
    // A list is held twice: as bytes and decoded.
    let most = MAX_DATA + 3 * MAX_META;
    let lengths = [
        0,
        1,
        511,
        4096,
        100 << 10,
        (100 << 10) + 1,
        1 << 20,
        (1 << 20) + 1,
        1 << 30,
        u32::MAX,
    ];
    let mut largest = 0;
    for number in 0..=255 {
        for meta_len in lengths {
            for data_len in lengths {
                let mut bytes = head(number, meta_len, data_len);
                // Some of what is promised comes, the rest never does.
                bytes.extend_from_slice(&[0; 600]);
                let peak = peak_of(|| {
                    let _ = FrameReader::new(bytes.as_slice(), codec).message();
                });
                assert!(
                    peak <= most,
                    "type {number}, {meta_len} and {data_len} bytes: {peak}"
                );
                largest = largest.max(peak);
            }
        }
    }
    assert!(largest >= MAX_DATA, "the counting counts: {largest}");
}

#[test]
fn wire_list_of_the_largest_size_keeps_to_the_bound() {
    let codec = Codec {
        version: Version::NEWEST,
        data_crc: false,
    };
    for count in [8192u32, 8193, u32::MAX] {
        let mut meta = count.to_le_bytes().to_vec();
        meta.resize(MAX_META.min(4 + count as usize * 12), 0);
        let mut bytes = head(Kind::Stamp.number(), meta.len() as u32, 0);
        bytes[24..28].copy_from_slice(&crc32c::crc32c(&meta).to_le_bytes());
        let seal = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&seal.to_le_bytes());
        bytes.extend_from_slice(&meta);
        let mut decoded = None;
        let peak = peak_of(|| decoded = Some(FrameReader::new(bytes.as_slice(), codec).message().is_ok()));
        assert_eq!(decoded, Some(count == 8192));
        assert!(peak <= 3 * MAX_META, "{count} entries: {peak}");
    }
}

#[test]
fn wire_handshake_keeps_to_its_bound() {
    for len in [0u16, 100, 1024, 1025, u16::MAX] {
        let mut bytes = b"bulkhead".to_vec();
        bytes.extend_from_slice(&[1, 0, 1, 0, 1, 0]);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&[0; 70_000]);
        let peak = peak_of(|| {
            let _ = read_greeting(&mut bytes.as_slice());
        });
        assert!(peak <= 2048, "{len}: {peak}");
    }
}
