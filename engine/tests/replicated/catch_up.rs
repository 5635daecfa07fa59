//! What a replica that was away is sent until it is in sync again: what was written, not the chunks in which it lies.

use bulkhead_engine::machine::MemberState;

use crate::cluster::{Cluster, SIZE, replica_id, soon, wait_until};
use crate::work::{PAGE, read, write};

/// Pages that are written while the replica is away.
const WRITTEN: u64 = 400;

/// How a replica is away.
#[derive(Clone, Copy, Debug)]
enum Away {
    CutOff,
    /// Of what was hot when its process was killed nothing is known: all of it is compared.
    Killed,
}

fn catches_up(away: Away) {
    let cluster = Cluster::new(2);
    let store = cluster.volume(1, &[0, 1]);
    let volume = cluster.open(1, 0, &store).unwrap();
    let pages = SIZE / PAGE;
    // Nothing of it is hole, and no two pages are the same.
    for page in 0..pages {
        write(&volume, page, 1_000_000 + page).unwrap();
    }
    volume.flush().unwrap();
    let state = || store.state_of(replica_id(1, 1));
    match away {
        Away::CutOff => cluster.isolate(1),
        Away::Killed => cluster.kill(1),
    }
    write(&volume, 0, 7).unwrap();
    wait_until("it is removed", || state() != MemberState::Member);
    // 4 KiB each, far apart: most of them in a chunk of their own.
    let written: Vec<u64> = (0..WRITTEN).map(|at| at * 2_654_435_761 % pages).collect();
    for &page in &written {
        write(&volume, page, 2_000_000 + page).unwrap();
    }
    volume.flush().unwrap();

    let before = cluster.wire(0, 1).sent();
    match away {
        Away::CutOff => cluster.mend_all(),
        Away::Killed => cluster.start(1),
    }
    wait_until("it is a member again", || state() == MemberState::Member);
    let sent = cluster.wire(0, 1).sent() - before;
    let bytes = WRITTEN * PAGE;
    println!(
        "{away:?}: {sent} bytes sent to catch up with {bytes} bytes written: {:.2} times as many",
        sent as f64 / bytes as f64
    );
    assert!(
        sent >= bytes && sent <= 2 * bytes,
        "{away:?}: {sent} bytes were sent for {bytes} bytes written"
    );
    for &page in &written {
        assert!(read(&volume, page).unwrap() >= 2_000_000);
    }
    volume.close(soon()).unwrap();
    cluster.assert_identical(1, &[0, 1]);
}

#[test]
fn catching_up_moves_what_was_written() {
    catches_up(Away::CutOff);
}

#[test]
fn catching_up_after_a_crash_moves_what_was_written() {
    catches_up(Away::Killed);
}
