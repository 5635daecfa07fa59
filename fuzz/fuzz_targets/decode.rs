//! The decoder of frames and of the handshake on whatever bytes the fuzzer thinks of, once as they are and once under
//! right checksums, because behind those most of it lies. It must not panic, and what it accepts must be the bytes
//! that it is written as. The same property is a proptest in engine/src/wire/tests.rs.
#![no_main]

use bulkhead_engine::wire::{Codec, FrameReader, HEADER_LEN, MAGIC, Version, read_greeting};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = read_greeting(&mut &*bytes);
    let kinds = [Version::V1, Version::V2].map(|version| [false, true].map(|data_crc| Codec { version, data_crc }));
    for codec in kinds.concat() {
        read_all(codec, bytes);
        if let Some(frame) = sealed(bytes, codec.data_crc) {
            read_all(codec, &frame);
        }
    }
});

fn read_all(codec: Codec, bytes: &[u8]) {
    let mut reader = FrameReader::new(bytes, codec);
    let mut at = 0;
    while let Ok(Some(message)) = reader.message() {
        let again = codec.encode(&message).expect("what was decoded can be encoded").to_bytes();
        assert_eq!(bytes[at..at + again.len()], again);
        at += again.len();
    }
}

/// Type, length of the metadata, then metadata and data: a frame with right checksums.
fn sealed(bytes: &[u8], data_crc: bool) -> Option<Vec<u8>> {
    let (&[kind, meta_len], rest) = bytes.split_first_chunk()?;
    let (meta, data) = rest.split_at_checked(usize::from(meta_len))?;
    let crc = (data_crc && !data.is_empty()).then(|| crc32c::crc32c(data));
    let mut frame = vec![0; HEADER_LEN];
    frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    frame[4] = kind;
    frame[5] = u8::from(crc.is_some());
    frame[16..20].copy_from_slice(&(meta.len() as u32).to_le_bytes());
    frame[20..24].copy_from_slice(&(data.len() as u32).to_le_bytes());
    frame[24..28].copy_from_slice(&crc32c::crc32c(meta).to_le_bytes());
    frame[28..32].copy_from_slice(&crc.unwrap_or(0).to_le_bytes());
    let seal = crc32c::crc32c(&frame[..36]);
    frame[36..40].copy_from_slice(&seal.to_le_bytes());
    frame.extend_from_slice(meta);
    frame.extend_from_slice(data);
    Some(frame)
}
