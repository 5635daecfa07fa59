//! Peers that shake hands as they should and then do what no peer may: each is told, and its session ends.

use super::raw::{CODEC, Raw};
use super::*;
use crate::wire::{Codec, Control, FarewellCode, Kind, Message, Version, WireError};
use std::io::Write;

fn request(id: u64, request: Request<Data>) -> Message<Data> {
    Message::Request(RequestId(id), request)
}

fn reply(id: u64, reply: Reply<Data>) -> Message<Data> {
    Message::Reply(RequestId(id), reply)
}

/// What a replica's end makes of these messages after the handshake; what it has handed up by then.
fn replica_says(messages: &[Message<Data>]) -> (CloseReason, usize, Option<Message<Data>>) {
    let (tell, seen) = unbounded();
    let listener = listen(Arc::new(Tell(tell)), patient());
    let mut raw = Raw::primary(listener.address(), 1);
    let Ok(Seen::Opened(_session)) = seen.recv_timeout(PATIENCE) else {
        panic!("not opened");
    };
    for message in messages {
        raw.say(message);
    }
    let mut handed_up = 0;
    loop {
        match seen.recv_timeout(PATIENCE).unwrap() {
            Seen::Request(..) => handed_up += 1,
            Seen::Closed(reason) => return (reason, handed_up, raw.hear()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_replica_serves_nobody_who_does_not_open_it() {
    let (reason, handed_up, told) = replica_says(&[request(1, Request::Flush)]);
    assert!(
        reason.to_string().contains("does not open the session"),
        "{reason}"
    );
    assert_eq!(handed_up, 0);
    assert!(
        matches!(&told, Some(Message::Control(Control::Farewell { code: FarewellCode::Violation, text })) if text.contains("does not open")),
        "{told:?}"
    );
    // The identity of the handshake is the one that counts (D7).
    let (reason, handed_up, _) = replica_says(&[request(1, open(identity(2)))]);
    assert!(reason.to_string().contains("another replica"), "{reason}");
    assert_eq!(handed_up, 0);
    let first = request(1, open(identity(1)));
    let (reason, handed_up, _) = replica_says(&[first, request(2, open(identity(2)))]);
    assert!(reason.to_string().contains("another replica"), "{reason}");
    assert_eq!(handed_up, 1);
}

#[test]
fn what_is_out_of_place_at_a_replica_ends_the_session() {
    let first = || request(1, open(identity(1)));
    let cases: [(Message<Data>, &str); 4] = [
        (reply(2, Reply::Done), "a primary does not answer"),
        (request(1, Request::Flush), "request 1 is in flight already"),
        (
            Message::Control(Control::Pong(77)),
            "answers ping 77, which was not sent",
        ),
        (
            Message::Control(Control::Farewell {
                code: FarewellCode::Other,
                text: "tired".to_owned(),
            }),
            "the peer closed the session: tired",
        ),
    ];
    for (message, words) in cases {
        let (reason, handed_up, _) = replica_says(&[first(), message]);
        assert!(reason.to_string().contains(words), "{reason}");
        assert_eq!(handed_up, 1);
    }
}

#[test]
fn frames_that_are_none_end_the_session() {
    let plain = Codec {
        version: Version::NEWEST,
        data_crc: false,
    };
    let mut unknown = CODEC.encode_control::<Data>(&Control::Ping(1)).unwrap().head;
    unknown[4] = 200;
    let seal = crc32c::crc32c(&unknown[..36]);
    unknown[36..].copy_from_slice(&seal.to_le_bytes());
    let unchecked = plain
        .encode_request(RequestId(1), &write(0, &[1; 512]))
        .unwrap()
        .to_bytes();
    let cases = [
        (
            b"something else than a frame, and long enough to be one".to_vec(),
            WireError::Magic(0x656d_6f73),
        ),
        (unknown, WireError::UnknownKind(200)),
        (unchecked, WireError::DataChecksumPresence(Kind::Write)),
    ];
    for (bytes, expected) in cases {
        let (tell, seen) = unbounded();
        let listener = listen(Arc::new(Tell(tell)), patient());
        let mut raw = Raw::primary(listener.address(), 1);
        raw.say(&request(1, open(identity(1))));
        raw.socket.write_all(&bytes).unwrap();
        loop {
            match seen.recv_timeout(PATIENCE).unwrap() {
                Seen::Closed(reason) => {
                    assert_eq!(reason, CloseReason::Wire(expected));
                    break;
                }
                Seen::Opened(session) => std::mem::forget(session),
                _ => {}
            }
        }
    }
}

/// What a primary's end makes of these answers to a read of 4 KiB (request 1) and a flush (request 2).
fn primary_says(answers: &[Message<Data>]) -> CloseReason {
    let (address, accepted) = Raw::replica();
    let client = Client::connect(&dial_to(address, 1, patient())).unwrap();
    let mut raw = accepted.join().unwrap();
    client.send(1, &read(0, 4096));
    client.send(2, &Request::Flush);
    for answer in answers {
        raw.say(answer);
    }
    client.end()
}

#[test]
fn what_was_not_asked_for_ends_the_session_of_a_primary() {
    let data = |len| Reply::Data(Data::copy_of(&vec![1; len]));
    let cases: [(Vec<Message<Data>>, &str); 7] = [
        (
            vec![reply(9, Reply::Done)],
            "answers request 9 (Done), which was not asked",
        ),
        (
            vec![reply(2, Reply::Done), reply(2, Reply::Done)],
            "request 2 (Done), which was not asked",
        ),
        (
            vec![reply(1, data(4097))],
            "answers request 1 with 4097 bytes, 4096 were asked for",
        ),
        (
            vec![reply(1, data(4095))],
            "answer to request 1 is not one to what was asked",
        ),
        (
            vec![reply(1, Reply::Done)],
            "answer to request 1 is not one to what was asked",
        ),
        (
            vec![reply(2, data(1))],
            "answers request 2 with 1 bytes, 0 were asked for",
        ),
        (vec![request(3, Request::Flush)], "a replica makes no requests"),
    ];
    for (answers, words) in cases {
        let reason = primary_says(&answers);
        assert!(reason.to_string().contains(words), "{reason}");
    }
}

#[test]
fn a_number_is_not_used_twice_while_it_is_in_flight() {
    let (address, accepted) = Raw::replica();
    let client = Client::connect(&dial_to(address, 1, patient())).unwrap();
    let mut raw = accepted.join().unwrap();
    client.send(1, &Request::Flush);
    let twice = client.session.request(RequestId(1), &Request::Flush, PATIENCE);
    assert_eq!(twice, Err(SendError::Twice(RequestId(1))));
    raw.say(&reply(1, Reply::NoSpace));
    assert!(matches!(client.reply(), (RequestId(1), Reply::NoSpace)));
    client.send(1, &Request::Flush);
}

#[test]
fn a_reply_is_sent_once_and_only_to_what_was_asked() {
    let (tell, seen) = unbounded();
    let listener = listen(Arc::new(Tell(tell)), patient());
    let client = Client::connect(&dial_to(listener.address(), 1, patient())).unwrap();
    let Ok(Seen::Opened(session)) = seen.recv_timeout(PATIENCE) else {
        panic!("not opened");
    };
    client.send(0, &open(identity(1)));
    assert!(matches!(
        seen.recv_timeout(PATIENCE),
        Ok(Seen::Request(RequestId(0), _))
    ));
    assert_eq!(
        session.reply(RequestId(5), &Reply::Done),
        Err(SendError::NotAsked(RequestId(5)))
    );
    session.reply(RequestId(0), &Reply::NoSpace).unwrap();
    assert_eq!(
        session.reply(RequestId(0), &Reply::Done),
        Err(SendError::NotAsked(RequestId(0)))
    );
    assert!(matches!(client.reply(), (RequestId(0), Reply::NoSpace)));
}
