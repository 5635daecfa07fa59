//! The server's side of the protocol over a socket in the place of `/dev/fuse`: every request gets exactly one answer
//! with its own number, whatever it holds.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use proptest::prelude::*;

use super::*;

const SIZE: u64 = 1 << 20;

/// Takes what it is given, and remembers nothing.
struct Memoryless;

impl BlockDevice for Memoryless {
    fn size(&self) -> u64 {
        SIZE
    }

    fn submit(&self, op: BlockOp, done: crate::io::Completion) {
        done(match op {
            BlockOp::Read(range) => Ok(Some(Data::whole(crate::io::AlignedBuf::zeroed(
                range.len as usize,
            )))),
            BlockOp::Write { offset, data } => {
                assert!(offset + data.len() as u64 <= SIZE && data.len() % 512 == 0);
                Ok(None)
            }
            BlockOp::Zero(range) => {
                assert!(range.end() <= SIZE && range.len > 0);
                Ok(None)
            }
            BlockOp::Flush => Ok(None),
        });
    }
}

/// Loses every request.
struct Lossy;

impl BlockDevice for Lossy {
    fn size(&self) -> u64 {
        SIZE
    }

    fn submit(&self, _op: BlockOp, _done: crate::io::Completion) {}
}

struct Fixture {
    kernel: File,
    server: Arc<Server>,
}

fn fixture(device: impl BlockDevice) -> Fixture {
    let pair = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    );
    let (kernel, server): (OwnedFd, OwnedFd) = pair.expect("a pair of sockets");
    let kernel = UnixDatagram::from(kernel);
    kernel
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    Fixture {
        kernel: File::from(OwnedFd::from(kernel)),
        server: Arc::new(Server {
            connection: Arc::new(File::from(server)),
            device: Arc::new(device),
            file_name: "file".into(),
            buffers: Buffers::new(2),
            negotiated: OnceLock::new(),
            max_background: 16,
        }),
    }
}

impl Fixture {
    fn message(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; abi::IN_HEADER];
        put32(&mut bytes, 0, (abi::IN_HEADER + body.len()) as u32);
        put32(&mut bytes, 4, opcode);
        put(&mut bytes, 8, unique);
        put(&mut bytes, 16, abi::FILE);
        bytes.extend(body);
        bytes
    }

    fn serve(&self, message: &[u8]) {
        let mut scratch = self.server.buffers.take().expect("a buffer");
        scratch.room().expect("nobody else's")[..message.len()].copy_from_slice(message);
        let mut asked = VecDeque::new();
        if let Some(scratch) = self.server.serve(scratch, message.len(), &mut asked) {
            self.server.buffers.give_back(scratch);
        }
        for (op, done) in asked {
            self.server.device.submit(op, done);
        }
    }

    /// The number and error of the next answer, and its body.
    fn answer(&self) -> Option<(u64, i32, Vec<u8>)> {
        let mut bytes = vec![0; 2 << 20];
        let len = (&self.kernel).read(&mut bytes).ok()?;
        let at = |from: usize, to: usize| bytes.get(from..to).and_then(|part| part.try_into().ok());
        assert_eq!(u32::from_ne_bytes(at(0, 4)?) as usize, len);
        let unique = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
        Some((unique, i32::from_ne_bytes(at(4, 8)?), bytes[16..len].to_vec()))
    }

    /// Whether nothing more was answered: a mark is sent and must come next.
    fn is_quiet(&self) -> bool {
        let connection = &*self.server.connection;
        let _ = { connection }.write(&[0; 3]);
        let mut bytes = [0; 64];
        (&self.kernel).read(&mut bytes).is_ok_and(|len| len == 3)
    }
}

#[test]
fn a_request_that_the_device_loses_is_answered_with_an_error() {
    let fixture = fixture(Lossy);
    fixture.serve(&Fixture::message(abi::op::FSYNC, 6, &[0; 16]));
    assert_eq!(fixture.answer(), Some((6, -libc::EIO, Vec::new())));
    assert!(fixture.is_quiet());
}

#[test]
fn the_kernel_negotiates_once() {
    let fixture = fixture(Memoryless);
    let mut body = [0; 64];
    put32(&mut body, 0, 7);
    put32(&mut body, 4, 45);
    put32(&mut body, 12, u32::MAX);
    put32(&mut body, 16, u32::MAX);
    fixture.serve(&Fixture::message(abi::op::INIT, 2, &body));
    let (_, error, answer) = fixture.answer().expect("an answer");
    assert_eq!((error, answer.len()), (0, 64));
    let agreed = fixture.server.negotiated.get().expect("negotiated");
    assert!(agreed.resends() && agreed.minor == abi::MINOR && agreed.max_write == 1 << 20);
    let json = serde_json::to_string(agreed).expect("serialisable");
    assert_eq!(
        &serde_json::from_str::<Negotiated>(&json).expect("readable"),
        agreed
    );
    fixture.serve(&Fixture::message(abi::op::INIT, 4, &body));
    assert!(
        fixture
            .answer()
            .is_some_and(|(unique, error, _)| unique == 4 && error != 0)
    );
}

#[test]
fn an_old_kernel_is_refused() {
    let fixture = fixture(Memoryless);
    let mut body = [0; 16];
    put32(&mut body, 0, 7);
    put32(&mut body, 4, 23);
    fixture.serve(&Fixture::message(abi::op::INIT, 2, &body));
    assert_eq!(fixture.answer(), Some((2, -libc::EPROTO, Vec::new())));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_request_gets_one_answer(
        requests in proptest::collection::vec(
            (0u32..50, proptest::collection::vec(any::<u8>(), 0..120), 0u64..SIZE * 2, 0u64..SIZE * 2), 1..40),
    ) {
        let fixture = fixture(Memoryless);
        for (number, (opcode, mut body, offset, len)) in requests.into_iter().enumerate() {
            // Half of them make sense in where they point to.
            if number % 2 == 0 && body.len() >= 32 {
                put(&mut body, 8, offset & !511);
                put(&mut body, 16, len & !511);
                put32(&mut body, 24, (len % 4) as u32);
            }
            let unique = number as u64 * 2 + 2;
            fixture.serve(&Fixture::message(opcode, unique, &body));
            if matches!(opcode, abi::op::FORGET | abi::op::BATCH_FORGET) {
                prop_assert!(fixture.is_quiet());
            } else {
                let (answered, error, body) = fixture.answer().expect("an answer");
                prop_assert_eq!(answered, unique);
                prop_assert!((-511..=0).contains(&error), "error {}", error);
                prop_assert!(error == 0 || body.is_empty());
            }
        }
        prop_assert!(fixture.is_quiet());
    }
}
