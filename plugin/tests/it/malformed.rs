//! 100,000 malformed requests against the real daemon: an error each, the daemon lives, its memory stays flat.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::node::Node;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const REQUESTS: u64 = 100_000;
const WORKERS: u64 = 4;
/// What a run may add to the daemon's memory, in KiB: allocators keep some of what they had.
const GROWTH: u64 = 16 << 10;

const ENDPOINTS: &[&str] = &[
    "VolumeDriver.Create",
    "VolumeDriver.Remove",
    "VolumeDriver.Mount",
    "VolumeDriver.Unmount",
    "VolumeDriver.Get",
    "VolumeDriver.List",
    "VolumeDriver.Path",
    "VolumeDriver.Capabilities",
];

/// One request: its bytes, and whether the connection is broken off behind them.
struct Request {
    bytes: Vec<u8>,
    broken_off: bool,
}

#[test]
fn a_hundred_thousand_malformed_requests() {
    let node = Node::bare();
    let docker = node.docker();
    let (socket, control) = (node.path("docker.sock"), node.path("control.sock"));
    let seed = std::env::var("BULKHEAD_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(2026);
    println!("seed {seed}");

    run(&socket, &control, seed, REQUESTS / 10);
    let (memory, threads, descriptors) = (node.memory(), node.threads(), node.descriptors());
    run(&socket, &control, seed + 1000, REQUESTS - REQUESTS / 10);

    assert_eq!(docker.activate()["Implements"][0], "VolumeDriver", "it lives");
    assert!(docker.list().is_empty(), "nothing came of it");
    assert!(
        node.memory() < memory + GROWTH,
        "{memory} KiB became {} KiB",
        node.memory()
    );
    assert!(
        crate::node::eventually(Duration::from_secs(15), || node.descriptors() <= descriptors + 2),
        "{descriptors} descriptors"
    );
    assert!(
        node.threads() <= threads + 4,
        "{threads} threads became {}",
        node.threads()
    );
    assert!(!node.log().contains("panic"), "{}", node.log());
    println!(
        "memory: {memory} KiB after {}, {} KiB after {REQUESTS}",
        REQUESTS / 10,
        node.memory()
    );
}

fn run(socket: &Path, control: &Path, seed: u64, count: u64) {
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed + worker);
                for _ in 0..count / WORKERS {
                    if rng.random_ratio(1, 20) {
                        to_the_command_lines_socket(control, &mut rng);
                    } else {
                        to_the_driver(socket, &mut rng);
                    }
                }
            });
        }
    });
}

fn to_the_driver(socket: &Path, rng: &mut StdRng) {
    let request = malformed(rng);
    let reply = send(socket, &request);
    let Some(reply) = crate::client::parse(&reply) else {
        // Closed without an answer: an error for whoever asked, and for Get the only one that is not a lie.
        let shown = String::from_utf8_lossy(&request.bytes[..request.bytes.len().min(200)]).into_owned();
        assert!(
            request.broken_off || shown.contains("VolumeDriver.Get"),
            "no answer to {shown}"
        );
        return;
    };
    assert!(
        reply.status >= 400 || !reply.error().is_empty(),
        "{:?}\n{reply:?}",
        String::from_utf8_lossy(&request.bytes)
    );
}

fn to_the_command_lines_socket(socket: &Path, rng: &mut StdRng) {
    let paths = [
        "/v1/volumes",
        "/v1/pools",
        "/v1/volumes/x%00",
        "/v1/nothing",
        "/",
        "/v1/volumes/%ff",
        "/v2/status",
    ];
    let path = paths.choose(rng).expect("a path");
    let body = garbage(rng);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&body);
    let reply = send(
        socket,
        &Request {
            bytes,
            broken_off: false,
        },
    );
    let reply = crate::client::parse(&reply).expect("an answer");
    assert!(
        reply.status >= 400 && !reply.body["error"]["message"].is_null(),
        "{path}: {reply:?}"
    );
}

fn send(socket: &Path, request: &Request) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("the daemon lives");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    let _ = stream.write_all(&request.bytes);
    if request.broken_off {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    reply
}

fn malformed(rng: &mut StdRng) -> Request {
    let endpoint = *ENDPOINTS.choose(rng).expect("an endpoint");
    match rng.random_range(0..10) {
        // Bodies that are no JSON, or not what is expected.
        0..=2 => whole(endpoint, &garbage(rng)),
        3 | 4 => whole(endpoint, wrong(rng, endpoint).to_string().as_bytes()),
        // Names and options that cannot be.
        5 => {
            let body = json!({"Name": bad_name(rng), "Opts": {}, "ID": "x"});
            let endpoint = *["VolumeDriver.Create", "VolumeDriver.Get", "VolumeDriver.Mount"]
                .choose(rng)
                .expect("one");
            whole(endpoint, body.to_string().as_bytes())
        }
        6 => {
            let body = json!({"Name": "v", "Opts": {text(rng, 12): text(rng, 12), "size": "ten"}});
            whole("VolumeDriver.Create", body.to_string().as_bytes())
        }
        // Endpoints and methods that are not.
        7 => {
            let endpoint = format!("Volume{}", rng.random::<u32>());
            whole(&endpoint, b"{}")
        }
        // Not HTTP at all.
        8 => {
            let mut bytes: Vec<u8> = (0..rng.random_range(1..300)).map(|_| rng.random()).collect();
            // Whatever it is, it ends its first line like no request does.
            bytes.extend_from_slice(b"\x00\r\n\r\n");
            Request {
                bytes,
                broken_off: true,
            }
        }
        // Broken off somewhere.
        _ => {
            let Request { mut bytes, .. } = whole(endpoint, br#"{"Name":"v","ID":"a","Opts":{"size":"1G"}}"#);
            bytes.truncate(rng.random_range(1..bytes.len()));
            Request {
                bytes,
                broken_off: true,
            }
        }
    }
}

fn whole(endpoint: &str, body: &[u8]) -> Request {
    let mut bytes = crate::client::head(endpoint, body.len()).into_bytes();
    bytes.extend_from_slice(body);
    Request {
        bytes,
        broken_off: false,
    }
}

/// A body that is no JSON object, whatever else it is.
fn garbage(rng: &mut StdRng) -> Vec<u8> {
    match rng.random_range(0..6) {
        0 => Vec::new(),
        1 => (0..rng.random_range(1..400))
            .map(|_| rng.random_range(0x80..=0xff))
            .collect(),
        2 => vec![b'['; rng.random_range(1..2000)],
        3 => br#"{"Name":"v","#.to_vec(),
        4 => b"null".to_vec(),
        _ => vec![b' '; rng.random_range(1..4000)],
    }
}

/// JSON of the wrong form for this endpoint.
fn wrong(rng: &mut StdRng, endpoint: &str) -> Value {
    let value = match rng.random_range(0..4) {
        0 => json!(rng.random::<i64>()),
        1 => json!([text(rng, 5)]),
        2 => json!({ text(rng, 5): null }),
        _ => Value::Null,
    };
    match endpoint {
        // These need an object, and no more.
        "VolumeDriver.List" | "VolumeDriver.Capabilities" => json!([value]),
        _ => json!({ "Name": value, "Opts": 3, "ID": 4 }),
    }
}

fn bad_name(rng: &mut StdRng) -> String {
    match rng.random_range(0..4) {
        0 => format!("../{}", text(rng, 10)),
        1 => format!("{}/", text(rng, 10)),
        2 => "x".repeat(rng.random_range(129..3000)),
        _ => format!("name={},{}", text(rng, 5), text(rng, 5)),
    }
}

fn text(rng: &mut StdRng, most: usize) -> String {
    (0..rng.random_range(0..=most))
        .map(|_| rng.random_range(' '..='\u{2fff}'))
        .collect()
}
