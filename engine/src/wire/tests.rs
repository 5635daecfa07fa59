//! What the wire's words keep when they become bytes, and what is made of bytes that are no words.

use super::*;
use crate::format::{FailCause, ReplicaIdentity};
use crate::geometry::{ByteRange, Chunk};
use crate::ids::{ClusterId, Epoch, Incarnation, NodeId, ReplicaId, Tick, VolumeId};
use crate::io::{ALIGN, Data};
use crate::machine::Payload;
use crate::machine::protocol::{
    Inspected, MAX_DIGESTS, Open, Opened, Refusal, Reply, Request, RequestId, Role, StampRule,
};
use proptest::prelude::*;
use std::io::{self, IoSliceMut, Read};
use std::time::Duration;

mod versions;

/// A payload that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bytes(Vec<u8>);

impl Payload for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn digest(&self) -> u128 {
        crate::machine::payload::digest(&self.0)
    }

    fn digests(&self, block: u32) -> Vec<u128> {
        crate::machine::payload::digests(&self.0, block)
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The same message with its payload in a form that can be compared.
fn comparable(message: Message<Data>) -> Message<Bytes> {
    let bytes = |data: Data| Bytes(data.to_vec());
    match message {
        Message::Request(
            id,
            Request::Write {
                offset,
                data,
                tick,
                stamp,
            },
        ) => Message::Request(
            id,
            Request::Write {
                offset,
                data: bytes(data),
                tick,
                stamp,
            },
        ),
        Message::Reply(id, Reply::Data(data)) => Message::Reply(id, Reply::Data(bytes(data))),
        Message::Reply(id, Reply::Chunk { content, stamp }) => Message::Reply(
            id,
            Reply::Chunk {
                content: content.map(bytes),
                stamp,
            },
        ),
        other => {
            // No payload is left in it, so the frame says all there is to say.
            let frame = PLAIN.encode(&other).unwrap();
            let mut reader = frame.head.as_slice();
            let header = Header::decode(reader.first_chunk().unwrap()).unwrap();
            reader = &reader[HEADER_LEN..];
            PLAIN.decode(&header, reader, None).unwrap()
        }
    }
}

const PLAIN: Codec = Codec {
    version: Version::NEWEST,
    data_crc: false,
};

/// A stream that gives a few bytes at a time, as a network does.
struct Trickle<'a> {
    bytes: &'a [u8],
    portions: Vec<usize>,
    at: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let portion = self.portions[self.at % self.portions.len()];
        self.at += 1;
        let count = portion.min(target.len()).min(self.bytes.len());
        target[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes = &self.bytes[count..];
        Ok(count)
    }

    fn read_vectored(&mut self, targets: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut portion = self.portions[self.at % self.portions.len()];
        self.at += 1;
        let mut total = 0;
        for target in targets {
            let count = portion.min(target.len()).min(self.bytes.len());
            target[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes = &self.bytes[count..];
            (portion, total) = (portion - count, total + count);
        }
        Ok(total)
    }
}

fn tick() -> impl Strategy<Value = Tick> {
    prop_oneof![
        any::<u64>().prop_map(Tick::from_bits),
        Just(Tick::SUSPECT),
        Just(Tick::ZERO)
    ]
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<[u8; 16]>().prop_map(Incarnation::from_bytes)
}

fn identity() -> impl Strategy<Value = ReplicaIdentity> {
    any::<[[u8; 16]; 3]>().prop_map(|[cluster, volume, replica]| ReplicaIdentity {
        cluster: ClusterId::from_bytes(cluster),
        volume: VolumeId::from_bytes(volume),
        replica: ReplicaId::from_bytes(replica),
    })
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Member), Just(Role::Rebuild)]
}

fn rule() -> impl Strategy<Value = StampRule> {
    prop_oneof![Just(StampRule::Raise), Just(StampRule::Set)]
}

fn cause() -> impl Strategy<Value = FailCause> {
    prop_oneof![
        Just(FailCause::Write),
        Just(FailCause::Sync),
        Just(FailCause::Read),
        Just(FailCause::Checksum)
    ]
}

fn range(max: u64) -> impl Strategy<Value = ByteRange> {
    (any::<u64>(), 0..=max).prop_map(|(offset, len)| ByteRange::new(offset.min(u64::MAX - len), len))
}

fn entries() -> impl Strategy<Value = Vec<(Chunk, Tick)>> {
    prop_oneof![
        9 => proptest::collection::vec((any::<u32>().prop_map(Chunk), tick()), 0..50),
        1 => Just((0..MAX_LIST as u32).map(|n| (Chunk(n), Tick::from_bits(u64::from(n) << 20))).collect::<Vec<_>>()),
    ]
}

fn digests() -> impl Strategy<Value = Vec<u128>> {
    prop_oneof![
        9 => proptest::collection::vec(any::<u128>(), 0..50),
        1 => Just((0..MAX_DIGESTS as u128).collect::<Vec<_>>()),
    ]
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 1..6000),
        1 => any::<u8>().prop_map(|byte| vec![byte; MAX_DATA]),
    ]
    .prop_map(Bytes)
}

fn request() -> impl Strategy<Value = Request<Bytes>> {
    let open = (
        identity(),
        any::<u32>(),
        any::<u32>(),
        incarnation(),
        any::<u64>(),
        role(),
        proptest::option::of(incarnation()),
        proptest::option::of(any::<u32>()),
    );
    prop_oneof![
        open.prop_map(
            |(identity, epoch, term, attached_by, attempt, role, expects, resumes)| Request::Open(Open {
                identity,
                epoch: Epoch(epoch),
                term: Epoch(term),
                attached_by,
                attempt,
                role,
                expects,
                resumes: resumes.filter(|&resumes| resumes < term).map(Epoch),
            })
        ),
        (any::<u32>(), role()).prop_map(|(epoch, role)| Request::Raise {
            epoch: Epoch(epoch),
            role
        }),
        range(MAX_DATA as u64).prop_map(Request::Read),
        range(MAX_DATA as u64).prop_map(Request::Copy),
        (any::<u64>(), payload(), tick(), rule()).prop_map(|(offset, data, tick, stamp)| Request::Write {
            offset,
            data,
            tick,
            stamp
        }),
        (range(u64::MAX), tick(), rule()).prop_map(|(range, tick, stamp)| Request::Zero {
            range,
            tick,
            stamp
        }),
        Just(Request::Flush),
        tick().prop_map(|settled| Request::Ping { settled }),
        (tick(), any::<u32>(), any::<u32>()).prop_map(|(after, from, limit)| Request::Changed {
            after,
            from: Chunk(from),
            limit
        }),
        entries().prop_map(Request::Stamp),
        (tick(), tick()).prop_map(|(after, tick)| Request::Restamp { after, tick }),
        any::<bool>().prop_map(|whole| Request::Checkpoint { whole }),
        tick().prop_map(|settled| Request::Release { settled }),
        cause().prop_map(Request::Fail),
        range(MAX_DATA as u64).prop_map(Request::Hash),
        (range(MAX_DATA as u64), 9..=20u32).prop_map(|(range, power)| Request::Digests {
            range,
            block: 1 << power
        }),
        identity().prop_map(Request::Inspect),
    ]
}

fn reply() -> impl Strategy<Value = Reply<Bytes>> {
    let opened = (
        incarnation(),
        tick(),
        tick(),
        any::<bool>(),
        any::<bool>(),
        any::<u64>(),
    );
    let inspected = (
        (incarnation(), any::<u32>(), tick(), tick()),
        (
            any::<bool>(),
            any::<bool>(),
            proptest::option::of(cause()),
            any::<u32>(),
            any::<u32>(),
        ),
    );
    prop_oneof![
        any::<u128>().prop_map(Reply::Hashed),
        (digests(), tick()).prop_map(|(blocks, stamp)| Reply::Digests { blocks, stamp }),
        inspected.prop_map(
            |((incarnation, epoch, durable, settled), (whole, clean, failed, unsettled, suspect))| {
                Reply::Inspected(Inspected {
                    incarnation,
                    epoch: Epoch(epoch),
                    durable,
                    settled,
                    whole,
                    clean,
                    failed,
                    unsettled,
                    suspect,
                })
            }
        ),
        opened.prop_map(
            |(incarnation, durable, settled, whole, clean, wait)| Reply::Opened(Opened {
                incarnation,
                durable,
                settled,
                whole,
                clean,
                wait: Duration::from_nanos(wait),
            })
        ),
        Just(Reply::Done),
        payload().prop_map(Reply::Data),
        (proptest::option::of(payload()), tick())
            .prop_map(|(content, stamp)| Reply::Chunk { content, stamp }),
        (entries(), proptest::option::of(any::<u32>())).prop_map(|(chunks, next)| Reply::Changed {
            chunks,
            next: next.map(Chunk)
        }),
        Just(Reply::NoSpace),
        Just(Reply::Unreadable),
        cause().prop_map(Reply::Failed),
        any::<u32>().prop_map(|epoch| Reply::Refused(Refusal::Epoch(Epoch(epoch)))),
        Just(Reply::Refused(Refusal::Session)),
        Just(Reply::Refused(Refusal::Identity)),
        incarnation().prop_map(|incarnation| Reply::Refused(Refusal::Incarnation(incarnation))),
        Just(Reply::Refused(Refusal::Malformed)),
    ]
}

fn message() -> impl Strategy<Value = Message<Bytes>> {
    let code = prop_oneof![
        Just(FarewellCode::Asked),
        Just(FarewellCode::Violation),
        Just(FarewellCode::Late),
        Just(FarewellCode::Other)
    ];
    prop_oneof![
        10 => (any::<u64>(), request()).prop_map(|(id, request)| Message::Request(RequestId(id), request)),
        10 => (any::<u64>(), reply()).prop_map(|(id, reply)| Message::Reply(RequestId(id), reply)),
        1 => any::<u64>().prop_map(|number| Message::Control(Control::Ping(number))),
        1 => any::<u64>().prop_map(|number| Message::Control(Control::Pong(number))),
        1 => (code, "[a-zA-Zäöü ]{0,100}").prop_map(|(code, text)| Message::Control(Control::Farewell { code, text })),
    ]
}

fn codec() -> impl Strategy<Value = Codec> {
    let version = prop_oneof![Just(Version::V1), Just(Version::V2)];
    (version, any::<bool>()).prop_map(|(version, data_crc)| Codec { version, data_crc })
}

/// What a version has no words for is not told.
fn as_told_in(version: Version, message: &Message<Bytes>) -> Message<Bytes> {
    match message {
        Message::Request(id, Request::Open(open)) if version == Version::V1 => {
            let open = Open {
                resumes: None,
                ..*open
            };
            Message::Request(*id, Request::Open(open))
        }
        other => other.clone(),
    }
}

/// A frame with right checksums around whatever is inside.
fn sealed(number: u8, id: u64, meta: &[u8], data: &[u8], data_crc: bool) -> Vec<u8> {
    let crc = (data_crc && !data.is_empty()).then(|| crc32c::crc32c(data));
    let mut bytes = vec![0; HEADER_LEN];
    bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4] = number;
    bytes[5] = u8::from(crc.is_some());
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    bytes[16..20].copy_from_slice(&(meta.len() as u32).to_le_bytes());
    bytes[20..24].copy_from_slice(&(data.len() as u32).to_le_bytes());
    bytes[24..28].copy_from_slice(&crc32c::crc32c(meta).to_le_bytes());
    bytes[28..32].copy_from_slice(&crc.unwrap_or(0).to_le_bytes());
    let seal = crc32c::crc32c(&bytes[..36]);
    bytes[36..40].copy_from_slice(&seal.to_le_bytes());
    bytes.extend_from_slice(meta);
    bytes.extend_from_slice(data);
    bytes
}

/// Reads all messages; whatever was read must be the bytes that it is written as, so that no two streams of bytes mean
/// the same and nothing was made up.
fn read_canonically(codec: Codec, bytes: &[u8]) -> Result<usize, ReadError> {
    let mut reader = FrameReader::new(bytes, codec);
    let (mut count, mut at) = (0, 0);
    while let Some(message) = reader.message()? {
        let again = codec.encode(&message).unwrap().to_bytes();
        assert_eq!(&bytes[at..at + again.len()], again, "{message:?}");
        (count, at) = (count + 1, at + again.len());
    }
    Ok(count)
}

fn run(versions: VersionRange) -> Hello {
    Hello {
        versions,
        data_crc: true,
        from: NodeId::from_u128(1),
        run: NodeRun(7),
        to: NodeId::from_u128(2),
        replica: ReplicaIdentity {
            cluster: ClusterId::from_u128(3),
            volume: VolumeId::from_u128(4),
            replica: ReplicaId::from_u128(5),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_message_comes_back_however_the_stream_is_cut(
        messages in proptest::collection::vec(message(), 1..6),
        codec in codec(),
        portions in proptest::collection::vec(prop_oneof![1usize..80, 1000usize..100_000], 1..8),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            bytes.extend(codec.encode(message).unwrap().to_bytes());
        }
        let mut reader = FrameReader::new(Trickle { bytes: &bytes, portions, at: 0 }, codec);
        for message in &messages {
            let read = reader.message().unwrap().unwrap();
            if let Message::Request(_, Request::Write { data, .. }) = &read {
                prop_assert_eq!(data.as_ptr() as usize % ALIGN, 0, "data is where direct I/O can take it");
            }
            prop_assert_eq!(&comparable(read), &as_told_in(codec.version, message));
        }
        prop_assert!(reader.message().unwrap().is_none());
    }

    #[test]
    fn a_stream_that_ends_early_is_told_from_one_that_ends(message in message(), codec in codec(), cut in any::<prop::sample::Index>()) {
        let bytes = codec.encode(&message).unwrap().to_bytes();
        let cut = cut.index(bytes.len());
        let outcome = FrameReader::new(&bytes[..cut], codec).message();
        if cut == 0 {
            prop_assert!(matches!(outcome, Ok(None)));
        } else {
            prop_assert!(matches!(outcome, Err(ReadError::CutOff)), "{:?}", outcome);
        }
    }

    #[test]
    fn a_flipped_bit_is_never_taken_for_a_message(message in message(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let codec = Codec { version: Version::NEWEST, data_crc: true };
        let mut bytes = codec.encode(&message).unwrap().to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let outcome = FrameReader::new(bytes.as_slice(), codec).message();
        prop_assert!(matches!(outcome, Err(ReadError::Wire(_))), "byte {} bit {}: {:?}", at, bit, outcome);
    }

    #[test]
    fn a_hello_comes_back(
        ids in any::<[[u8; 16]; 2]>(), replica in identity(), run in any::<u128>(), data_crc in any::<bool>(),
        oldest in 1u16..9, more in 0u16..9, text in "\\PC{0,200}", code in 1u16..12,
    ) {
        let versions = VersionRange { oldest, newest: oldest + more };
        let [from, node] = ids.map(NodeId::from_bytes);
        let greetings = [
            Greeting::Hello(Hello { versions, data_crc, from, run: NodeRun(run), to: node, replica }),
            Greeting::Welcome(Welcome { versions, version: oldest, data_crc, cluster: replica.cluster, node, run: NodeRun(run) }),
        ];
        for greeting in greetings {
            let mut bytes = greeting.encode();
            bytes.extend_from_slice(b"what follows");
            let mut rest = bytes.as_slice();
            prop_assert_eq!(read_greeting(&mut rest).unwrap(), greeting);
            prop_assert_eq!(rest, b"what follows", "nothing is read ahead of the first frame");
        }
        let decline = Greeting::Decline(Decline { versions, code: DeclineCode::Unknown(code), text });
        let Greeting::Decline(read) = read_greeting(&mut decline.encode().as_slice()).unwrap() else {
            return Err(TestCaseError::fail("not a decline"));
        };
        prop_assert!(read.text.len() <= MAX_TEXT && !read.text.chars().any(char::is_control));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn arbitrary_bytes_are_answered_with_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), codec in codec()) {
        let count = read_canonically(codec, &bytes);
        prop_assert!(bytes.is_empty() || count.is_err());
        let _ = read_greeting(&mut bytes.as_slice());
    }

    #[test]
    fn arbitrary_bytes_under_right_checksums_are_a_message_or_an_error(
        number in prop_oneof![4 => prop::sample::select(Kind::ALL).prop_map(Kind::number), 1 => any::<u8>()],
        id in any::<u64>(),
        meta in proptest::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..120),
        data in proptest::collection::vec(any::<u8>(), 0..40),
        codec in codec(),
    ) {
        let bytes = sealed(number, id, &meta, &data, codec.data_crc);
        match read_canonically(codec, &bytes) {
            Ok(count) => prop_assert_eq!(count, 1),
            Err(error) => prop_assert!(matches!(error, ReadError::Wire(_)), "{}", error),
        }
    }

    #[test]
    fn a_damaged_handshake_is_never_taken_for_another(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = Greeting::Hello(run(VersionRange::OURS)).encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(read_greeting(&mut bytes.as_slice()).is_err());
    }
}

#[test]
fn a_list_or_a_read_beyond_its_bound_is_not_even_sent() {
    let long = vec![(Chunk(0), Tick::ZERO); MAX_LIST + 1];
    let error = PLAIN.encode::<Bytes>(&Message::Request(RequestId(1), Request::Stamp(long)));
    assert!(matches!(
        error,
        Err(WireError::TooLong {
            kind: Kind::Stamp,
            ..
        })
    ));
    let range = ByteRange::new(0, MAX_DATA as u64 + 1);
    let error = PLAIN.encode::<Bytes>(&Message::Request(RequestId(1), Request::Read(range)));
    assert!(matches!(error, Err(WireError::TooLong { kind: Kind::Read, .. })));
    for (data, expected) in [(MAX_DATA + 1, "bytes of data"), (0, "none")] {
        let message = Message::Reply(RequestId(1), Reply::Data(Bytes(vec![0; data])));
        match PLAIN.encode(&message) {
            Err(WireError::TooLong { what, .. }) => assert_eq!(what, expected),
            Err(WireError::NoData(_)) => assert_eq!("none", expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn digests_that_would_be_too_many_are_neither_asked_for_nor_given() {
    let ask = |len: u64, block: u32| {
        let range = ByteRange::new(0, len);
        let request = Request::Digests { range, block };
        PLAIN.encode::<Bytes>(&Message::Request(RequestId(1), request))
    };
    assert!(ask(MAX_DATA as u64, 512).is_ok(), "as many as can be");
    for (len, block) in [(4096, 0), (4096, 256), (4096, 1000), (MAX_DATA as u64 + 1, 4096)] {
        assert!(ask(len, block).is_err(), "{len} bytes in blocks of {block}");
        let mut meta = [0; 20];
        meta[8..16].copy_from_slice(&len.to_le_bytes());
        meta[16..20].copy_from_slice(&block.to_le_bytes());
        let outcome = read_canonically(PLAIN, &sealed(Kind::Digests.number(), 1, &meta, &[], false));
        assert!(outcome.is_err(), "{len} bytes in blocks of {block}: {outcome:?}");
    }
    let blocks = vec![7; MAX_DIGESTS as usize + 1];
    let reply = Reply::Digests {
        blocks,
        stamp: Tick::ZERO,
    };
    let error = PLAIN.encode::<Bytes>(&Message::Reply(RequestId(1), reply));
    assert!(matches!(error, Err(WireError::TooLong { what: "digests", .. })));
}

#[test]
fn a_head_that_promises_too_much_is_refused_before_anything_is_read() {
    for (kind, meta, data) in [
        (Kind::Write, 17, MAX_DATA as u32 + 1),
        (Kind::Done, u32::MAX, 0),
        (Kind::Done, 0, 1),
    ] {
        let mut bytes = sealed(kind.number(), 1, &[], &[], false);
        bytes[16..20].copy_from_slice(&u32::to_le_bytes(meta));
        bytes[20..24].copy_from_slice(&u32::to_le_bytes(data));
        let seal = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&seal.to_le_bytes());
        let outcome = FrameReader::new(bytes.as_slice(), PLAIN).head();
        assert!(
            matches!(outcome, Err(ReadError::Wire(WireError::TooLong { .. }))),
            "{outcome:?}"
        );
    }
    let list = [u32::MAX.to_le_bytes().as_slice(), &[0; 60]].concat();
    let outcome = read_canonically(PLAIN, &sealed(Kind::Stamp.number(), 1, &list, &[], false));
    assert!(matches!(
        outcome,
        Err(ReadError::Wire(WireError::TooLong { what: "entries", .. }))
    ));
}

#[test]
fn a_newer_handshake_that_has_grown_at_its_end_is_understood() {
    let hello = run(VersionRange {
        oldest: 1,
        newest: 12,
    });
    let mut bytes = Greeting::Hello(hello).encode();
    bytes.extend_from_slice(&[9; 40]);
    let body = (bytes.len() - 20) as u16;
    bytes[14..16].copy_from_slice(&body.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[20..]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(
        read_greeting(&mut bytes.as_slice()).unwrap(),
        Greeting::Hello(hello)
    );
}
