//! A short form of `make test-uninterrupted`: one node, a few kills, and nobody but a stop-watch notices.

use std::time::Duration;

use bulkhead_lab::uninterrupted::{self, Campaign};
use bulkhead_lab::{StoreKind, node};

#[test]
fn killing_the_daemon_is_a_pause_and_no_error() {
    let _alone = node::alone().unwrap();
    let campaign = Campaign {
        every: 4.0..8.0,
        ..Campaign::new(Duration::from_secs(30), 1, StoreKind::Etcd, 6)
    };
    let reckoning = uninterrupted::run(&campaign).unwrap();
    assert!(reckoning.kills() >= 3, "only {} kills", reckoning.kills());
}
