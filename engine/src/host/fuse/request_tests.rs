//! What the parser makes of sound, cut and random messages.

use proptest::prelude::*;

use super::*;

fn message(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((abi::IN_HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(abi::FILE.to_ne_bytes());
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

fn write_body(offset: u64, claimed: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0; abi::WRITE_IN];
    body[8..16].copy_from_slice(&offset.to_ne_bytes());
    body[16..20].copy_from_slice(&claimed.to_ne_bytes());
    body.extend(payload);
    body
}

#[test]
fn a_write_names_where_its_bytes_stand() {
    let bytes = message(abi::op::WRITE, 9, &write_body(4096, 512, &[7; 512]));
    let Ok((header, Operation::Write { offset, payload })) = parse(&bytes) else {
        panic!("not a write");
    };
    assert_eq!((header.unique, header.node, offset), (9, abi::FILE, 4096));
    assert_eq!(bytes[payload], [7; 512]);
}

#[test]
fn a_write_that_lies_about_its_length_is_answered_as_malformed() {
    for claimed in [511, 513, u32::MAX] {
        let bytes = message(abi::op::WRITE, 9, &write_body(0, claimed, &[7; 512]));
        assert_eq!(
            parse(&bytes),
            Err(Malformed::Body {
                unique: 9,
                opcode: abi::op::WRITE
            })
        );
    }
}

#[test]
fn a_resent_request_keeps_its_number_whole() {
    let unique = abi::UNIQUE_RESEND | 4;
    let Ok((header, Operation::Fsync)) = parse(&message(abi::op::FSYNC, unique, &[0; 16])) else {
        panic!("not an fsync");
    };
    assert!(header.is_resent());
    assert_eq!(header.unique, unique);
}

#[test]
fn the_second_flag_word_counts_only_if_it_is_announced() {
    let mut body = vec![0; 64];
    body[0..4].copy_from_slice(&7u32.to_ne_bytes());
    body[16..20].copy_from_slice(&(1u32 << 7).to_ne_bytes());
    let Ok((_, Operation::Init { flags, .. })) = parse(&message(abi::op::INIT, 2, &body)) else {
        panic!("not an init");
    };
    assert_eq!(flags, 0);
    body[12..16].copy_from_slice(&(abi::INIT_EXT as u32).to_ne_bytes());
    let Ok((_, Operation::Init { flags, .. })) = parse(&message(abi::op::INIT, 2, &body)) else {
        panic!("not an init");
    };
    assert_eq!(flags, abi::INIT_EXT | abi::HAS_RESEND);
}

#[test]
fn a_range_that_wraps_around_is_malformed() {
    let mut body = vec![0; 32];
    body[8..16].copy_from_slice(&u64::MAX.to_ne_bytes());
    body[16..24].copy_from_slice(&4096u64.to_ne_bytes());
    assert!(parse(&message(abi::op::FALLOCATE, 3, &body)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn random_bodies_under_a_sound_header_never_panic_and_stay_inside(
        opcode in 0u32..60,
        unique in any::<u64>(),
        extension in prop_oneof![9 => Just(0u16), 1 => any::<u16>()],
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = message(opcode, unique, &body);
        bytes[36..38].copy_from_slice(&extension.to_ne_bytes());
        match parse(&bytes) {
            Ok((header, operation)) => {
                prop_assert_eq!(header.unique, unique);
                match operation {
                    Operation::Write { payload: part, .. } | Operation::Lookup { name: part } => {
                        prop_assert!(bytes.get(part).is_some());
                    }
                    Operation::Read(range) | Operation::Fallocate { range, .. } => {
                        prop_assert!(range.offset.checked_add(range.len).is_some());
                    }
                    _ => {}
                }
            }
            Err(Malformed::Body { unique: answered, .. }) => prop_assert_eq!(answered, unique),
            Err(Malformed::Headless { .. }) => prop_assert!(false, "the header was sound"),
        }
    }

    #[test]
    fn a_cut_message_is_refused(cut in 0usize..591) {
        let bytes = message(abi::op::WRITE, 9, &write_body(0, 512, &[7; 512]));
        prop_assert!(parse(&bytes[..cut]).is_err());
    }
}
