//! What a peer can make this end hold, and for how long anybody waits for it: bounded, for each session by itself.

use super::raw::Raw;
use super::*;
use crate::wire::{Control, Message};
use parking_lot::Condvar;
use std::net::Shutdown;

/// A gate that is shut until it is opened.
#[derive(Default)]
struct Latch(Mutex<bool>, Condvar);

impl Latch {
    fn wait(&self) {
        let mut open = self.0.lock();
        while !*open {
            assert!(!self.1.wait_for(&mut open, PATIENCE).timed_out(), "never opened");
        }
    }

    fn open(&self) {
        *self.0.lock() = true;
        self.1.notify_all();
    }
}

#[test]
fn a_slow_replica_fills_no_memory_and_holds_up_no_caller() {
    let config = LinkConfig {
        queue_bytes: 4 * MIB,
        held_bytes: LinkConfig::MIN_HELD,
        ..patient()
    };
    let (tell, seen) = unbounded();
    let listener = listen(Arc::new(Tell(tell)), config.clone());
    let client = Client::connect(&dial_to(listener.address(), 1, config.clone())).unwrap();
    let Ok(Seen::Opened(session)) = seen.recv_timeout(PATIENCE) else {
        panic!("not opened");
    };
    client.send(0, &open(identity(1)));
    let content = noise(1, MIB);
    let request = write(0, &content);
    // Nothing is answered: first the replica stops reading, then the kernel is full, then the queue.
    let (mut sent, mut longest, mut full) = (0, Duration::ZERO, 0);
    let until = Instant::now() + PATIENCE;
    while full < 20 {
        assert!(Instant::now() < until, "never full; {sent} sent");
        let began = Instant::now();
        let outcome = client.session.request(RequestId(sent + 1), &request, PATIENCE);
        longest = longest.max(began.elapsed());
        match outcome {
            Ok(()) => (sent, full) = (sent + 1, 0),
            Err(SendError::Full { queued, in_flight }) => {
                full += 1;
                assert!(
                    queued > 3 * MIB && in_flight as u64 == sent + 1,
                    "{queued}, {in_flight}"
                );
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(
        longest < Duration::from_millis(500),
        "a caller waited {longest:?}"
    );
    assert!(client.session.status().queued_peak <= config.queue_bytes);
    let status = session.status();
    assert!(status.held_peak <= config.held_bytes, "{status:?}");
    assert!(
        status.held_peak > config.held_bytes / 2,
        "the bound was not reached: {status:?}"
    );
    // It goes on as soon as the replica does.
    let mut answered = 0;
    while answered <= sent {
        if let Seen::Request(id, request) = seen.recv_timeout(PATIENCE).unwrap() {
            if let Request::Write { data, .. } = &request {
                assert!(**data == content);
            }
            drop(request);
            session.reply(id, &Reply::NoSpace).unwrap();
            answered += 1;
        }
    }
    eventually("all is answered", || client.session.status().in_flight == 0);
    let status = session.status();
    assert!(status.held_peak <= config.held_bytes, "{status:?}");
    eventually("all is given back", || session.status().held_bytes == 0);
}

#[test]
fn a_primary_that_takes_no_answers_fills_no_memory_and_is_left() {
    let config = LinkConfig {
        held_bytes: LinkConfig::MIN_HELD,
        silence: PATIENCE,
        answer_within: PATIENCE,
        ..quick()
    };
    let (tell, seen) = unbounded();
    let listener = listen(Arc::new(Tell(tell)), config.clone());
    let mut raw = Raw::primary(listener.address(), 1);
    let Ok(Seen::Opened(session)) = seen.recv_timeout(PATIENCE) else {
        panic!("not opened");
    };
    raw.say(&Message::Request(RequestId(0), open(identity(1))));
    for id in 1..200 {
        raw.say(&Message::Request(RequestId(id), read(0, MIB)));
    }
    let data = Data::copy_of(&noise(2, MIB));
    let mut handed_up = 0;
    let reason = loop {
        match seen.recv_timeout(PATIENCE).unwrap() {
            Seen::Request(id, _) => {
                handed_up += 1;
                match session.reply(id, &Reply::Data(data.clone())) {
                    Ok(()) | Err(SendError::Closed(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            Seen::Closed(reason) => break reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason, CloseReason::Stalled(config.stall));
    let status = session.status();
    assert!(
        handed_up < 100,
        "more was read than could be answered: {handed_up}"
    );
    assert!(status.held_peak <= config.held_bytes, "{status:?}");
    assert!(status.queued_peak <= config.held_bytes, "{status:?}");
}

#[test]
fn requests_in_flight_are_bounded() {
    let (address, accepted) = Raw::replica();
    let config = LinkConfig {
        max_in_flight: 3,
        ..patient()
    };
    let client = Client::connect(&dial_to(address, 1, config)).unwrap();
    let mut raw = accepted.join().unwrap();
    for id in 0..3 {
        client.send(id, &Request::Flush);
    }
    let error = client
        .session
        .request(RequestId(3), &Request::Flush, PATIENCE)
        .unwrap_err();
    assert!(matches!(error, SendError::Full { in_flight: 3, .. }), "{error:?}");
    raw.say(&Message::Reply(RequestId(1), Reply::Done));
    client.reply();
    client.send(3, &Request::Flush);
}

#[test]
fn a_flood_of_pings_is_not_queued() {
    let (tell, seen) = unbounded();
    let config = LinkConfig {
        silence: PATIENCE,
        answer_within: PATIENCE,
        ..quick()
    };
    let listener = listen(Arc::new(Tell(tell)), config.clone());
    let mut raw = Raw::primary(listener.address(), 1);
    let Ok(Seen::Opened(session)) = seen.recv_timeout(PATIENCE) else {
        panic!("not opened");
    };
    let until = Instant::now() + PATIENCE;
    let mut number = 0;
    while raw.try_say(&Message::Control(Control::Ping(number))) {
        assert!(Instant::now() < until, "{number} pings");
        number += 1;
    }
    let Ok(Seen::Closed(reason)) = seen.recv_timeout(PATIENCE) else {
        panic!("not closed");
    };
    assert_eq!(reason, CloseReason::Stalled(config.stall));
    assert!(session.status().queued_peak < 4096, "{:?}", session.status());
    let _ = raw.socket.shutdown(Shutdown::Both);
}

#[test]
fn a_hundred_sessions_at_once_and_one_stuck_volume_holds_up_none() {
    let latch = Arc::new(Latch::default());
    let (closed, ends) = unbounded();
    let waiting = Arc::clone(&latch);
    let node = MemoryNode {
        size: MIB,
        gate: Arc::new(move |request: &Request<Data>| {
            if matches!(request, Request::Write { .. }) {
                waiting.wait();
            }
        }),
        closed,
        slow: Some(identity(0)),
    };
    let listener = listen(Arc::new(node), patient());
    let address = listener.address();
    let stuck = Client::open(address, 0, patient());
    for id in 1..=20 {
        stuck.send(id, &write(0, &[1; 65_536]));
    }
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..100)
            .map(|number| {
                scope.spawn(move || {
                    let client = Client::open(address, number, patient());
                    let seed = number as u64;
                    for turn in 0..10 {
                        let content = noise(seed << 8 | turn, 20_000 + turn as usize * 512);
                        assert!(matches!(
                            client.ask(1000 + turn, &write(4096, &content)),
                            Reply::Done
                        ));
                        let Reply::Data(data) = client.ask(2000 + turn, &read(4096, content.len())) else {
                            panic!("no data");
                        };
                        assert!(*data == content, "volume {number}");
                    }
                    client
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(listener.counts(), (0, 100));
    assert_eq!(
        stuck.session.status().in_flight,
        20,
        "the stuck volume is stuck still"
    );
    latch.open();
    for _ in 1..=20 {
        assert!(matches!(stuck.reply().1, Reply::Done));
    }
    let sessions: Vec<_> = clients.iter().map(|client| Arc::clone(&client.session)).collect();
    for session in &sessions {
        session.close();
    }
    drop((clients, stuck));
    for session in &sessions {
        assert!(session.wait_ended(PATIENCE));
    }
    for _ in 0..100 {
        ends.recv_timeout(PATIENCE).unwrap();
    }
    eventually("no session is left", || listener.counts() == (0, 0));
}
