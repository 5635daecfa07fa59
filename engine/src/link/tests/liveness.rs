//! Peers that are there and are not: each is found within its deadline (failure cases 22, 23, 28, 34).

use super::raw::{Proxy, Raw};
use super::*;
use crate::wire::{Control, FarewellCode, Message};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(2);

fn assert_took(began: Instant, deadline: Duration) {
    let took = began.elapsed();
    // What comes at the end of the handshake counts, so it may seem to be a little less.
    let least = deadline.saturating_sub(Duration::from_millis(200));
    assert!(
        took >= least && took < deadline + SLACK,
        "{took:?}, the deadline is {deadline:?}"
    );
}

fn closed(seen: &Receiver<Seen>) -> CloseReason {
    let mut kept = Vec::new();
    loop {
        match seen.recv_timeout(PATIENCE).unwrap() {
            Seen::Closed(reason) => return reason,
            other => kept.push(other),
        }
    }
}

#[test]
fn a_peer_that_falls_silent_is_found_by_either_end() {
    let (address, accepted) = Raw::replica();
    let began = Instant::now();
    let client = Client::connect(&dial_to(address, 1, quick())).unwrap();
    let _mute = accepted.join().unwrap();
    assert_eq!(client.end(), CloseReason::Silent(quick().silence));
    assert_took(began, quick().silence);
    let error = client.session.request_usual(RequestId(1), &Request::Flush);
    assert_eq!(
        error,
        Err(SendError::Closed(CloseReason::Silent(quick().silence)))
    );

    let (tell, seen) = unbounded();
    let listener = listen(Arc::new(Tell(tell)), quick());
    let began = Instant::now();
    let _mute = Raw::primary(listener.address(), 1);
    assert_eq!(closed(&seen), CloseReason::Silent(quick().silence));
    assert_took(began, quick().silence);
}

/// Pings every 50 ms until it cannot; reads and answers if it is told to.
fn chatter(mut raw: Raw, answers: bool) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut writer = Raw::speaking(&raw);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let speaker = std::thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::SeqCst) && writer.try_say(&Message::Control(Control::Ping(number)))
            {
                number += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let mut answerer = Raw::speaking(&raw);
        while answers && let Some(word) = raw.hear_all() {
            if let Message::Control(Control::Ping(number)) = word {
                answerer.try_say(&Message::Control(Control::Pong(number)));
            }
        }
        if answers {
            stop.store(true, Ordering::SeqCst);
        }
        speaker.join().unwrap();
    })
}

#[test]
fn a_peer_that_sends_and_does_not_read_is_found_by_its_pings() {
    let (address, accepted) = Raw::replica();
    let began = Instant::now();
    let client = Client::connect(&dial_to(address, 1, quick())).unwrap();
    let chatter = chatter(accepted.join().unwrap(), false);
    assert_eq!(client.end(), CloseReason::PingUnanswered(quick().answer_within));
    assert_took(began, quick().answer_within);
    chatter.join().unwrap();
}

#[test]
fn a_request_that_stays_unanswered_ends_the_session_though_pings_go_on() {
    let (address, accepted) = Raw::replica();
    let client = Client::connect(&dial_to(address, 1, quick())).unwrap();
    let chatter = chatter(accepted.join().unwrap(), true);
    // Far beyond every other deadline, nothing happens.
    std::thread::sleep(quick().answer_within + quick().silence);
    assert_eq!(client.session.ended(), None);
    let (began, within) = (Instant::now(), Duration::from_millis(300));
    client
        .session
        .request(RequestId(1), &Request::Flush, PATIENCE)
        .unwrap();
    client
        .session
        .request(RequestId(2), &Request::Flush, within)
        .unwrap();
    assert_eq!(
        client.end(),
        CloseReason::Unanswered {
            id: RequestId(2),
            within
        }
    );
    assert_took(began, within);
    chatter.join().unwrap();
}

#[test]
fn a_peer_that_takes_no_more_bytes_is_found_by_the_stall() {
    let (address, accepted) = Raw::replica();
    let config = LinkConfig {
        answer_within: PATIENCE,
        ..quick()
    };
    let client = Client::connect(&dial_to(address, 1, config)).unwrap();
    let chatter = chatter(accepted.join().unwrap(), false);
    let began = Instant::now();
    for id in 0..40 {
        client.send(id, &write(0, &noise(id, MIB)));
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "no caller waits: {:?}",
        began.elapsed()
    );
    assert_eq!(client.end(), CloseReason::Stalled(quick().stall));
    assert_took(began, quick().stall);
    assert_eq!(
        client.session.status().queued_bytes,
        0,
        "what was queued is let go"
    );
    chatter.join().unwrap();
}

#[test]
fn cuts_one_way_and_both_ways_are_found_at_both_ends() {
    for (to_replica, to_primary) in [(true, false), (false, true), (true, true)] {
        let (node, ends) = memory_node(MIB, quick());
        let proxy = Proxy::before(node.address());
        let client = Client::open(proxy.address, 1, quick());
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(client.session.ended(), None);
        let began = Instant::now();
        proxy.to_replica.cut.store(to_replica, Ordering::SeqCst);
        proxy.to_primary.cut.store(to_primary, Ordering::SeqCst);
        let late = |reason: &CloseReason| {
            matches!(
                reason,
                CloseReason::Silent(_)
                    | CloseReason::PingUnanswered(_)
                    | CloseReason::Farewell {
                        code: FarewellCode::Late,
                        ..
                    }
            )
        };
        let at_primary = client.end();
        let at_replica = ends.recv_timeout(PATIENCE).unwrap();
        assert!(
            late(&at_primary) && late(&at_replica),
            "{at_primary}; {at_replica}"
        );
        assert!(began.elapsed() < quick().silence + SLACK, "{:?}", began.elapsed());
    }
}

/// A node whose replicas take `pause` for a flush.
fn slow_to_flush(pause: Duration, config: LinkConfig) -> (Listener, Receiver<CloseReason>) {
    let (closed, ends) = unbounded();
    let gate = Arc::new(move |request: &Request<Data>| {
        if matches!(request, Request::Flush) {
            std::thread::sleep(pause);
        }
    });
    let node = MemoryNode {
        size: MIB,
        gate,
        closed,
        slow: None,
    };
    (listen(Arc::new(node), config), ends)
}

#[test]
fn an_end_that_is_busy_is_not_taken_for_a_dead_one_nor_its_peer() {
    let config = LinkConfig {
        silence: Duration::from_millis(600),
        ..quick()
    };
    let config = LinkConfig {
        answer_within: Duration::from_secs(10),
        ..config
    };
    let (node, ends) = slow_to_flush(Duration::from_millis(1800), config.clone());
    let client = Client::open(node.address(), 1, config);
    for id in 1..=2 {
        assert!(matches!(client.ask(id, &Request::Flush), Reply::Done));
    }
    assert_eq!(client.session.ended(), None);
    assert!(ends.is_empty());
}

#[test]
fn a_stuck_replica_is_left_and_its_end_told_while_the_request_is_still_at_work() {
    let stuck = Duration::from_secs(6);
    let (node, ends) = slow_to_flush(stuck, quick());
    let client = Client::open(node.address(), 1, quick());
    let began = Instant::now();
    client
        .session
        .request(RequestId(1), &Request::Flush, Duration::from_secs(1))
        .unwrap();
    let reason = client.end();
    assert!(
        matches!(reason, CloseReason::Unanswered { id: RequestId(1), .. }),
        "{reason}"
    );
    // Its reader is stuck and cannot see that the primary has gone; what it writes shows it.
    let reason = ends.recv_timeout(PATIENCE).unwrap();
    assert!(
        began.elapsed() < stuck,
        "told after {:?}: {reason}",
        began.elapsed()
    );
}

/// A process that ends with its handle.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const CHILD: &str = "BULKHEAD_LINK_TEST_NODE";

/// Not a test of its own: the node of the test below, in a process that can be stopped.
#[test]
fn a_node_in_a_process_of_its_own() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let (node, ends) = memory_node(MIB, quick());
    println!("\nlistening on {}", node.address());
    while let Ok(reason) = ends.recv_timeout(3 * PATIENCE) {
        println!("\nended: {reason}");
    }
}

#[test]
fn a_stopped_process_is_found_and_finds_itself_left_when_it_goes_on() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "link::tests::liveness::a_node_in_a_process_of_its_own",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Process(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut line_after = |start: &str| {
        lines
            .find_map(|line| line.strip_prefix(start).map(str::to_owned))
            .unwrap()
    };
    let address: SocketAddr = line_after("listening on ").parse().unwrap();
    let client = Client::open(address, 1, quick());
    assert!(matches!(client.ask(1, &write(0, &[1; 4096])), Reply::Done));
    let pid = Pid::from_raw(child.0.id().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    // Its kernel still acknowledges: for TCP the peer is in the best of health.
    client.send(2, &write(0, &[2; 4096]));
    assert_eq!(client.end(), CloseReason::Silent(quick().silence));
    assert_took(began, quick().silence);
    kill(pid, Signal::SIGCONT).unwrap();
    let reason = line_after("ended: ");
    assert!(
        reason.contains("nothing was heard")
            || reason.contains("connection broke")
            || reason.contains("without a word"),
        "{reason}"
    );
}
