//! Who is let in, and what those are told who are not (failure cases 24 to 26).

use super::*;
use crate::wire::{
    Decline, DeclineCode, Greeting, GreetingError, MAX_GREETING_BODY, Version, Welcome, read_greeting,
};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

fn refused(dial: &Dial) -> (DeclineCode, String) {
    match Client::connect(dial).err().unwrap() {
        ConnectError::Declined { code, text, .. } => (code, text),
        other => panic!("{other}"),
    }
}

fn tell_all() -> (Listener, Receiver<Seen>) {
    let (tell, seen) = unbounded();
    (listen(Arc::new(Tell(tell)), patient()), seen)
}

#[test]
fn a_hello_for_somebody_else_is_declined_in_words() {
    let (listener, seen) = tell_all();
    let good = dial_to(listener.address(), 1, patient());

    let mut other_cluster = good.clone();
    other_cluster.replica.cluster = ClusterId::from_u128(77);
    let (code, text) = refused(&other_cluster);
    assert_eq!(code, DeclineCode::Cluster);
    assert!(text.contains(&ClusterId::from_u128(77).to_string()), "{text}");

    let mut other_node = good.clone();
    other_node.to = NodeId::from_u128(3);
    let (code, text) = refused(&other_node);
    assert_eq!(code, DeclineCode::Node);
    assert!(text.contains("the address was given to another node"), "{text}");

    let mut other_replica = good.clone();
    other_replica.replica = identity(404);
    let (code, text) = refused(&other_replica);
    assert_eq!(code, DeclineCode::Replica);
    assert_eq!(text, format!("no replica {} on this node", identity(404).replica));

    let mut newer = good.clone();
    newer.local.versions = VersionRange { oldest: 3, newest: 5 };
    let (code, text) = refused(&newer);
    assert_eq!(code, DeclineCode::Version);
    assert!(
        text.contains("speaks protocol versions 1 to 2, the node that connects versions 3 to 5"),
        "{text}"
    );
    assert!(text.ends_with("upgrade this node"), "{text}");

    assert!(seen.is_empty(), "none of them became a session");
    assert_eq!(listener.counts().1, 0);
    let mut wider = good;
    wider.local.versions = VersionRange { oldest: 1, newest: 5 };
    let client = Client::connect(&wider).unwrap();
    assert_eq!(client.session.peer().node, NodeId::from_u128(2));
    assert_eq!(client.session.peer().run, NodeRun(2 << 8));
    let Ok(Seen::Opened(session)) = seen.recv_timeout(PATIENCE) else {
        panic!("not opened");
    };
    assert_eq!(
        (session.peer().node, session.peer().replica),
        (NodeId::from_u128(1), identity(1))
    );
}

#[test]
fn checksums_are_used_if_either_end_wants_them() {
    for (ours, theirs, used) in [(false, false, false), (true, false, true), (false, true, true)] {
        let (tell, seen) = unbounded();
        let mut node = local(2);
        node.data_crc = theirs;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let gate = Arc::new(Tell(tell));
        let listener = Listener::bind(any, node, patient(), Arc::new(Plain), Arc::default(), gate).unwrap();
        let mut dial = dial_to(listener.address(), 1, patient());
        dial.local.data_crc = ours;
        let client = Client::connect(&dial).unwrap();
        assert_eq!(client.session.peer().codec.data_crc, used);
        let Ok(Seen::Opened(session)) = seen.recv_timeout(PATIENCE) else {
            panic!("not opened");
        };
        assert_eq!(session.peer().codec.data_crc, used);
        client.send(0, &open(identity(1)));
        client.send(1, &write(0, &[7; 4096]));
        assert!(matches!(
            seen.recv_timeout(PATIENCE),
            Ok(Seen::Request(RequestId(0), _))
        ));
        assert!(matches!(
            seen.recv_timeout(PATIENCE),
            Ok(Seen::Request(RequestId(1), _))
        ));
    }
}

/// Answers the first connection with these bytes.
fn answering(answer: impl FnOnce(Hello) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let Greeting::Hello(hello) = read_greeting(&mut socket).unwrap() else {
            panic!("no hello");
        };
        socket.write_all(&answer(hello)).unwrap();
        let _ = socket.read(&mut [0; 1]);
    });
    address
}

fn welcome(hello: &Hello) -> Welcome {
    Welcome {
        versions: VersionRange::OURS,
        version: 1,
        data_crc: true,
        cluster: hello.replica.cluster,
        node: hello.to,
        run: NodeRun(4),
    }
}

#[test]
fn a_node_that_answers_as_somebody_else_is_not_believed() {
    let other = answering(|hello| {
        let node = NodeId::from_u128(66);
        Greeting::Welcome(Welcome {
            node,
            ..welcome(&hello)
        })
        .encode()
    });
    let error = Client::connect(&dial_to(other, 1, patient())).err().unwrap();
    assert!(matches!(error, ConnectError::OtherNode { .. }), "{error}");

    let cluster = answering(|hello| {
        let cluster = ClusterId::from_u128(66);
        Greeting::Welcome(Welcome {
            cluster,
            ..welcome(&hello)
        })
        .encode()
    });
    let error = Client::connect(&dial_to(cluster, 1, patient())).err().unwrap();
    assert!(matches!(error, ConnectError::OtherNode { .. }), "{error}");

    for (version, data_crc) in [(Version::NEWEST.number() + 1, true), (0, true), (1, false)] {
        let bad = answering(move |hello| {
            Greeting::Welcome(Welcome {
                version,
                data_crc,
                ..welcome(&hello)
            })
            .encode()
        });
        let error = Client::connect(&dial_to(bad, 1, patient())).err().unwrap();
        assert!(matches!(error, ConnectError::Unexpected { .. }), "{error}");
    }

    let echo = answering(|hello| Greeting::Hello(hello).encode());
    let error = Client::connect(&dial_to(echo, 1, patient())).err().unwrap();
    assert!(matches!(error, ConnectError::Unexpected { .. }), "{error}");

    let rude = answering(|_| {
        Greeting::Decline(Decline {
            versions: VersionRange::OURS,
            code: DeclineCode::Unknown(999),
            text: "line\nbreak \u{1b}[31m".to_owned(),
        })
        .encode()
    });
    let (code, text) = refused(&dial_to(rude, 1, patient()));
    assert_eq!(
        (code, text.as_str()),
        (DeclineCode::Unknown(999), "line break  [31m")
    );

    let web = answering(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let error = Client::connect(&dial_to(web, 1, patient())).err().unwrap();
    assert!(
        matches!(error, ConnectError::Greeting(GreetingError::Magic)),
        "{error}"
    );

    let long = answering(|hello| {
        let mut bytes = Greeting::Welcome(welcome(&hello)).encode();
        bytes[14..16].copy_from_slice(&(MAX_GREETING_BODY as u16 + 1).to_le_bytes());
        bytes
    });
    let error = Client::connect(&dial_to(long, 1, patient())).err().unwrap();
    assert!(
        matches!(error, ConnectError::Greeting(GreetingError::TooLong(_))),
        "{error}"
    );
}

#[test]
fn a_node_that_never_answers_is_given_up_by_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dial = dial_to(listener.local_addr().unwrap(), 1, quick());
    let began = Instant::now();
    let error = Client::connect(&dial).err().unwrap();
    assert!(
        matches!(error, ConnectError::Greeting(GreetingError::Io(_))),
        "{error}"
    );
    let took = began.elapsed();
    assert!(
        took >= quick().handshake_within && took < quick().handshake_within * 3,
        "{took:?}"
    );

    // One byte at a time does not stretch it.
    let drip = std::thread::spawn(move || {
        let _given_up = listener.accept().unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        for byte in Greeting::Decline(Decline {
            versions: VersionRange::OURS,
            code: DeclineCode::Busy,
            text: "x".repeat(200),
        })
        .encode()
        {
            std::thread::sleep(Duration::from_millis(50));
            if socket.write_all(&[byte]).is_err() {
                break;
            }
        }
    });
    let began = Instant::now();
    let error = Client::connect(&dial).err().unwrap();
    let took = began.elapsed();
    assert!(
        matches!(error, ConnectError::Greeting(GreetingError::Io(_))),
        "{error}"
    );
    assert!(
        took >= quick().handshake_within && took < quick().handshake_within * 3,
        "{took:?}"
    );
    drip.join().unwrap();
}

#[test]
fn garbage_and_silence_at_the_door_keep_nobody_out() {
    let config = LinkConfig {
        max_handshakes: 8,
        ..quick()
    };
    let (node, _ends) = memory_node(MIB, config);
    let mut strangers = Vec::new();
    for number in 0..120 {
        let mut socket = TcpStream::connect(node.address()).unwrap();
        let hello = Greeting::Hello(Hello {
            versions: VersionRange::OURS,
            data_crc: true,
            from: NodeId::from_u128(1),
            run: NodeRun(1),
            to: NodeId::from_u128(2),
            replica: identity(1),
        })
        .encode();
        let words = match number % 6 {
            0 => Vec::new(),
            1 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            2 => noise(number, 3000),
            3 => hello[..30].to_vec(),
            4 => [b"bulkhead".as_slice(), &noise(number, 200)].concat(),
            _ => vec![0xff; 100_000],
        };
        // Some are thrown out while they still speak.
        let _ = socket.write_all(&words);
        strangers.push(socket);
        assert!(node.counts().0 <= 8, "the number of handshakes is bounded");
    }
    let began = Instant::now();
    let client = Client::open(node.address(), 1, patient());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "a node got in after {:?}",
        began.elapsed()
    );
    assert!(matches!(client.ask(1, &write(0, &[1; 512])), Reply::Done));
    // Those who said nothing are gone after the deadline.
    eventually("no handshake is under way", || node.counts() == (0, 1));
}

#[test]
fn a_full_house_says_so() {
    let config = LinkConfig {
        max_sessions: 2,
        ..patient()
    };
    let (node, _ends) = memory_node(MIB, config);
    let first = Client::open(node.address(), 1, patient());
    let _second = Client::open(node.address(), 2, patient());
    let (code, text) = refused(&dial_to(node.address(), 3, patient()));
    assert_eq!(code, DeclineCode::Busy);
    assert!(text.contains("has its 2 sessions already"), "{text}");
    drop(first);
    eventually("there is a place again", || node.counts().1 == 1);
    Client::open(node.address(), 3, patient());
}

#[test]
fn a_configuration_that_cannot_be_names_all_that_is_wrong() {
    let config = LinkConfig {
        silence: Duration::from_millis(1),
        held_bytes: 5,
        max_sessions: 0,
        ..LinkConfig::default()
    };
    let text = config.check().unwrap_err().to_string();
    for word in [
        "silence is 1ms, it must be from",
        "twice ping_every",
        "held_bytes is 5",
        "max_sessions",
    ] {
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(LinkConfig::default().check(), Ok(()));
    assert_eq!(quick().check(), Ok(()));
}
