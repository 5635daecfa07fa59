//! What is sent arrives: whole, in order, from many at once, again after a break, over another transport.

use super::raw::Proxy;
use super::*;
use crate::wire::{FarewellCode, WireError};
use proptest::prelude::*;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;

#[test]
fn large_transfers_from_several_threads_arrive_byte_for_byte() {
    let size = 48 * MIB;
    let (node, _ends) = memory_node(size, patient());
    let client = Client::open(node.address(), 1, patient());
    let content = noise(1, size);
    let threads = 3;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (client, content) = (&client, &content);
            scope.spawn(move || {
                // Pieces of every size, also off pages and in one byte, from one shared buffer.
                let (first, last) = (thread * size / threads, (thread + 1) * size / threads);
                let lens = [MIB, 1, 4096, 511, 65_536, 999_999, 13];
                let (mut at, mut turn) = (first, 0);
                while at < last {
                    let len = lens[turn % lens.len()].min(last - at);
                    let id = 1 + (at as u64);
                    while let Err(error) =
                        client
                            .session
                            .request(RequestId(id), &write(at, &content[at..at + len]), PATIENCE)
                    {
                        assert!(matches!(error, SendError::Full { .. }), "{error}");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    (at, turn) = (at + len, turn + 1);
                }
            });
        }
    });
    eventually("all writes are answered", || {
        client.session.status().in_flight == 0
    });
    while client.seen.try_recv().is_ok() {}
    for at in (0..size).step_by(MIB) {
        let Reply::Data(data) = client.ask(at as u64, &read(at, MIB)) else {
            panic!("no data");
        };
        assert!(*data == content[at..at + MIB], "the MiB at {at} differs");
    }
    let status = client.session.status();
    assert_eq!((status.queued_bytes, status.in_flight), (0, 0));
    eventually("a ping is measured", || {
        client.session.status().round_trip.is_some()
    });
}

#[test]
fn requests_arrive_in_the_order_of_sending_also_when_they_queue() {
    let (tell, seen) = unbounded();
    let listener = listen(Arc::new(Tell(tell)), patient());
    let client = Client::connect(&dial_to(listener.address(), 1, patient())).unwrap();
    let Ok(Seen::Opened(session)) = seen.recv_timeout(PATIENCE) else {
        panic!("not opened");
    };
    client.send(0, &open(identity(1)));
    let data = noise(3, 200_000);
    // Nothing is answered, so at last the socket takes nothing more, and they queue.
    let mut last = 0;
    while client.session.status().queued_bytes < 8 * MIB {
        last += 1;
        let len = last as usize * 1000 % data.len() + 1;
        client.send(
            last,
            &if last % 3 == 0 {
                Request::Flush
            } else {
                write(0, &data[..len])
            },
        );
    }
    for expected in 0..=last {
        match seen.recv_timeout(PATIENCE).unwrap() {
            Seen::Request(id, request) => {
                assert_eq!(id.0, expected);
                if let Request::Write { data: got, .. } = &request {
                    assert!(**got == data[..got.len()]);
                }
                session
                    .reply(id, &if id.0 == 0 { Reply::Unreadable } else { Reply::Done })
                    .unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_session_comes_back_when_asked_for_and_only_then() {
    let (node, ends) = memory_node(MIB, quick());
    let address = node.address();
    let (tell, seen) = unbounded();
    let connector = Connector::start(dial_to(address, 1, quick()), || 7, Arc::new(Tell(tell))).unwrap();
    let up = || loop {
        connector.connect();
        match seen.recv_timeout(PATIENCE).unwrap() {
            Seen::Up(session) => return session,
            Seen::Failed(error) => assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}"),
            other => panic!("{other:?}"),
        }
    };
    let first = up();
    first.close();
    assert!(matches!(
        seen.recv_timeout(PATIENCE),
        Ok(Seen::Down(CloseReason::Asked))
    ));
    let told = ends.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(
            told,
            CloseReason::Farewell {
                code: FarewellCode::Asked,
                ..
            }
        ),
        "{told}"
    );
    assert!(
        seen.recv_timeout(Duration::from_millis(300)).is_err(),
        "it was not asked for"
    );
    let second = up();
    assert!(second.id() > first.id());
    // The node goes away and comes back at the same address.
    drop(node);
    second.close();
    assert!(matches!(seen.recv_timeout(PATIENCE), Ok(Seen::Down(_))));
    connector.connect();
    assert!(matches!(
        seen.recv_timeout(PATIENCE),
        Ok(Seen::Failed(ConnectError::Unreachable { .. }))
    ));
    let (closed, _ends) = unbounded();
    let gate = Arc::new(MemoryNode {
        size: MIB,
        gate: Arc::new(|_: &Request<Data>| {}),
        closed,
        slow: None,
    });
    let _node = listen_at(address, gate, quick(), Arc::new(Plain));
    let third = up();
    third.request_usual(RequestId(1), &open(identity(1))).unwrap();
    assert!(matches!(
        seen.recv_timeout(PATIENCE),
        Ok(Seen::Reply(RequestId(1), Reply::Opened(_)))
    ));
}

#[test]
fn attempts_pause_longer_and_longer_and_stop_with_the_connector() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (tell, seen) = unbounded();
    let config = LinkConfig {
        pause: (Duration::from_millis(40), Duration::from_millis(160)),
        ..quick()
    };
    let connector = Connector::start(dial_to(nobody, 1, config), || 0, Arc::new(Tell(tell))).unwrap();
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let asked = Instant::now();
        connector.connect();
        assert!(matches!(seen.recv_timeout(PATIENCE), Ok(Seen::Failed(_))));
        pauses.push(asked.elapsed());
    }
    for (pause, least) in pauses.iter().zip([0, 40, 80, 160, 160]) {
        assert!(*pause >= Duration::from_millis(least), "{pauses:?}");
    }
    connector.connect();
    drop(connector);
    // The channel closes when the connector's thread is gone.
    assert!(matches!(
        seen.recv_timeout(PATIENCE),
        Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    ));
}

proptest! {
    #[test]
    fn a_pause_is_within_its_bounds_whatever_the_jitter(failures in 0u32..200, jitter in any::<u32>()) {
        let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(shortest, longest);
        for _ in 0..failures {
            backoff.failed();
        }
        let pause = backoff.pause(jitter);
        if failures == 0 {
            prop_assert_eq!(pause, Duration::ZERO);
        } else {
            prop_assert!(pause >= shortest / 2 && pause <= longest, "{:?}", pause);
            prop_assert!(failures < 6 || pause >= longest / 2);
        }
        backoff.held();
        prop_assert_eq!(backoff.pause(jitter), Duration::ZERO);
    }
}

#[test]
fn dropping_an_end_ends_the_session_and_its_threads() {
    let (tell, seen) = unbounded();
    let listener = listen(Arc::new(Tell(tell)), patient());
    let client = Client::connect(&dial_to(listener.address(), 1, patient())).unwrap();
    let Ok(Seen::Opened(session)) = seen.recv_timeout(PATIENCE) else {
        panic!("not opened");
    };
    assert_eq!(listener.counts(), (0, 1));
    drop(client);
    let Ok(Seen::Closed(reason)) = seen.recv_timeout(PATIENCE) else {
        panic!("not closed");
    };
    assert!(
        matches!(
            reason,
            CloseReason::Farewell {
                code: FarewellCode::Asked,
                ..
            }
        ),
        "{reason}"
    );
    assert!(session.wait_ended(PATIENCE));
    assert!(matches!(
        session.reply(RequestId(0), &Reply::Done),
        Err(SendError::Closed(_))
    ));
    eventually("the seat is free", || listener.counts() == (0, 0));
}

#[test]
fn data_that_was_changed_on_the_way_is_never_handed_up() {
    let (node, ends) = memory_node(MIB, patient());
    let proxy = Proxy::before(node.address());
    let client = Client::open(proxy.address, 1, patient());
    // Anywhere beyond what has been said so far: inside of the next write.
    proxy.to_replica.flip_at.store(300_000, Ordering::SeqCst);
    client.send(1, &write(0, &noise(5, MIB)));
    let reason = ends.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(reason, CloseReason::Wire(WireError::DataChecksum(_))),
        "{reason}"
    );
    let told = client.end();
    assert!(
        matches!(
            told,
            CloseReason::Farewell {
                code: FarewellCode::Violation,
                ..
            } | CloseReason::Broken { .. }
                | CloseReason::Ended
        ),
        "{told}"
    );
}

/// Stands for TLS: another transport with state of its own in each direction.
struct Scrambled;

struct ScrambledHalf<H>(H, u8);

impl Transport for Scrambled {
    fn dress(&self, socket: TcpStream, side: Side, deadline: Instant) -> io::Result<Stream> {
        let plain = Plain.dress(socket, side, deadline)?;
        let (in_key, out_key) = if side == Side::Listener { (3, 5) } else { (5, 3) };
        Ok(Stream {
            read: Box::new(ScrambledHalf(plain.read, in_key)),
            write: Box::new(ScrambledHalf(plain.write, out_key)),
            control: plain.control,
        })
    }
}

fn scramble(bytes: &mut [u8], key: &mut u8) {
    for byte in bytes {
        *byte ^= *key;
        *key = key.wrapping_mul(5).wrapping_add(17);
    }
}

impl Read for ScrambledHalf<Box<dyn ReadHalf>> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(target)?;
        scramble(&mut target[..count], &mut self.1);
        Ok(count)
    }

    fn read_vectored(&mut self, targets: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match targets.iter_mut().find(|target| !target.is_empty()) {
            Some(target) => self.read(target),
            None => Ok(0),
        }
    }
}

impl ReadHalf for ScrambledHalf<Box<dyn ReadHalf>> {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_timeout(timeout)
    }
}

impl WriteHalf for ScrambledHalf<Box<dyn WriteHalf>> {
    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(first) = slices.iter().find(|slice| !slice.is_empty()) else {
            return Ok(0);
        };
        let mut bytes = first[..first.len().min(10_000)].to_vec();
        let mut key = self.1;
        scramble(&mut bytes, &mut key);
        let count = self.0.try_write(&[IoSlice::new(&bytes)])?;
        scramble(&mut bytes[..count], &mut self.1);
        Ok(count)
    }
}

#[test]
fn another_transport_takes_the_place_of_plain_tcp() {
    let (closed, _ends) = unbounded();
    let gate = Arc::new(MemoryNode {
        size: 4 * MIB,
        gate: Arc::new(|_: &Request<Data>| {}),
        closed,
        slow: None,
    });
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let node = listen_at(any, gate, patient(), Arc::new(Scrambled));
    let mut dial = dial_to(node.address(), 1, patient());
    dial.transport = Arc::new(Scrambled);
    let client = Client::connect(&dial).unwrap();
    assert!(matches!(client.ask(0, &open(identity(1))), Reply::Opened(_)));
    let content = noise(8, MIB);
    for turn in 0..4 {
        client.send(turn + 1, &write(turn as usize * MIB, &content));
    }
    for _ in 0..4 {
        assert!(matches!(client.reply().1, Reply::Done));
    }
    let Reply::Data(data) = client.ask(9, &read(2 * MIB, MIB)) else {
        panic!("no data");
    };
    assert!(*data == content);
    dial.transport = Arc::new(Plain);
    dial.config = quick();
    assert!(
        Client::connect(&dial).is_err(),
        "plain words are not understood there"
    );
}
