//! Which version two programs speak, and what each of them is byte by byte.

use super::*;

#[test]
fn two_programs_agree_on_the_newest_common_version_or_on_none() {
    let range = |oldest, newest| VersionRange { oldest, newest };
    assert_eq!(range(1, 1).agree(range(1, 4)), Some(Version::V1));
    assert_eq!(range(1, 4).agree(range(1, 1)), Some(Version::V1));
    assert_eq!(range(1, 2).agree(range(1, 4)), Some(Version::V2));
    assert_eq!(range(1, 1).agree(range(2, 4)), None);
    assert_eq!(range(2, 4).agree(range(1, 1)), None);
    assert_eq!(
        range(1, 9).agree(range(1, 9)),
        None,
        "a version that this program does not know"
    );
    assert_eq!(
        VersionRange::OURS.agree(VersionRange::OURS),
        Some(Version::NEWEST)
    );
}

/// The bytes of version 1 as they are for good: a change here is a new version, not a correction.
#[test]
fn version_1_is_what_it_was() {
    let codec = Codec {
        version: Version::V1,
        data_crc: true,
    };
    let write = Request::Write {
        offset: 0x1122_3344_5566,
        data: Bytes(b"0123456789abcdef".to_vec()),
        tick: Tick::new(Epoch(5), 9),
        stamp: StampRule::Set,
    };
    let frame = codec
        .encode(&Message::Request(RequestId(0x0a0b), write))
        .unwrap()
        .to_bytes();
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "62686672",
            "05",
            "01",
            "0000",
            "0b0a000000000000",
            "11000000",
            "10000000",
            "42f3f43a",
            "9e11d342",
            "00000000",
            "c48fb976",
            "6655443322110000",
            "0900000005000000",
            "02",
            "30313233343536373839616263646566",
        )
    );
}

fn hex_of_open(version: Version, resumes: Option<Epoch>) -> String {
    let open = Open {
        identity: run(VersionRange::OURS).replica,
        epoch: Epoch(9),
        term: Epoch(8),
        attached_by: Incarnation::from_bytes([0xab; 16]),
        attempt: 2,
        role: Role::Rebuild,
        expects: Some(Incarnation::from_bytes([0xcd; 16])),
        resumes,
    };
    let codec = Codec {
        version,
        data_crc: true,
    };
    let frame = codec
        .encode_request::<Bytes>(RequestId(3), &Request::Open(open))
        .unwrap()
        .to_bytes();
    frame[HEADER_LEN..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The one message that differs, as it is in each version for good.
#[test]
fn an_open_is_what_it_was_in_each_version() {
    let first = concat!(
        "00000000000000000000000000000003",
        "00000000000000000000000000000004",
        "00000000000000000000000000000005",
        "09000000",
        "08000000",
        "abababababababababababababababab",
        "0200000000000000",
        "02",
        "01",
        "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
    );
    assert_eq!(hex_of_open(Version::V1, None), first);
    assert_eq!(
        hex_of_open(Version::V1, Some(Epoch(7))),
        first,
        "an older replica has it wait"
    );
    assert_eq!(hex_of_open(Version::V2, None), format!("{first}00"));
    assert_eq!(
        hex_of_open(Version::V2, Some(Epoch(7))),
        format!("{first}0107000000")
    );
}

#[test]
fn nobody_goes_on_for_a_term_that_is_not_before_the_own() {
    let meta = hex_of_open(Version::V2, Some(Epoch(7)));
    let mut meta: Vec<u8> = (0..meta.len() / 2)
        .map(|at| u8::from_str_radix(&meta[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let end = meta.len() - 4;
    meta[end] = 8;
    let outcome = read_canonically(PLAIN, &sealed(Kind::Open.number(), 3, &meta, &[], false));
    assert!(
        matches!(outcome, Err(ReadError::Wire(WireError::Value { .. }))),
        "{outcome:?}"
    );
}
