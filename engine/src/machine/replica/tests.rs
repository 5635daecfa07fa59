//! The replica alone, step by step; what it does under faults is the simulation's to find.

use std::time::Duration;

use super::*;
use crate::format::{ReplicaIdentity, Superblock};
use crate::geometry::{ByteRange, Chunk};
use crate::ids::{BootId, ClusterId, Incarnation, ReplicaId, VolumeId};
use crate::machine::protocol::{Open, Opened, StampRule};

const IDENTITY: ReplicaIdentity = ReplicaIdentity {
    cluster: ClusterId::from_u128(1),
    volume: VolumeId::from_u128(2),
    replica: ReplicaId::from_u128(3),
};
const BOOT: BootId = BootId::from_u128(4);
const SESSION: SessionId = SessionId(1);

#[derive(Clone, Debug, PartialEq)]
struct Data(Vec<u8>);

impl Payload for Data {
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

struct Bench {
    replica: Replica<Data>,
    now: Time,
    out: Vec<Action<Data>>,
    next: u64,
}

impl Bench {
    fn load(boot: BootId, change: impl FnOnce(&mut MetaImage)) -> Self {
        let geometry = Geometry::new(16 << 20, 64 << 10, 4 << 20).unwrap();
        let mut image = MetaImage::fresh(Superblock::fresh(IDENTITY, geometry, BOOT));
        change(&mut image);
        let config = ReplicaConfig::new(boot, Incarnation::from_bytes([9; 16]));
        Self {
            replica: Replica::load(Time::ZERO, config, image),
            now: Time::ZERO,
            out: Vec::new(),
            next: 0,
        }
    }

    fn ask(&mut self, request: Request<Data>) {
        self.next += 1;
        let event = Event::Request {
            session: SESSION,
            id: RequestId(self.next),
            request,
        };
        self.replica.handle(self.now, event, &mut self.out);
    }

    fn open(&mut self, epoch: u32) {
        self.open_going_on(epoch, None);
    }

    fn open_going_on(&mut self, epoch: u32, resumes: Option<u32>) {
        let open = Open {
            identity: IDENTITY,
            epoch: Epoch(epoch),
            term: Epoch(epoch),
            attached_by: Incarnation::from_u128(u128::from(epoch)),
            attempt: 1,
            role: Role::Member,
            expects: None,
            resumes: resumes.map(Epoch),
        };
        self.ask(Request::Open(open));
    }

    /// Opens it, and how long others may still answer.
    fn wait_told(&mut self, epoch: u32, resumes: Option<u32>) -> Duration {
        self.settle();
        self.replies();
        self.open_going_on(epoch, resumes);
        self.settle();
        match self.replies()[..] {
            [Reply::Opened(opened)] => opened.wait,
            ref replies => panic!("not opened: {replies:?}"),
        }
    }

    /// One that was not closed in order, and had accepted this epoch.
    fn restarted_in(epoch: u32) -> Self {
        Self::load(BOOT, |image| {
            image.superblock.clean = false;
            image.superblock.epoch = Epoch(epoch);
            image.superblock.attached_by = Incarnation::from_u128(u128::from(epoch));
        })
    }

    fn write(&mut self, offset: u64, sequence: u32) {
        let request = Request::Write {
            offset,
            data: Data(vec![1; 4096]),
            tick: Tick::new(Epoch(1), sequence),
            stamp: StampRule::Raise,
        };
        self.ask(request);
    }

    /// Takes the disk operations that wait; the answers stay. The sync of what was found is done at once.
    fn disk(&mut self) -> Vec<(DiskId, DiskOp<Data>)> {
        let taken = self.all_of_the_disk();
        let is_first = |op: &DiskOp<Data>| matches!(op, DiskOp::CommitMeta(writes) if writes.is_empty());
        let Some(&(first, _)) = taken.iter().find(|(_, op)| is_first(op)) else {
            return taken;
        };
        self.done(first);
        let rest = taken.into_iter().filter(|&(id, _)| id != first);
        let mut rest: Vec<_> = rest.collect();
        rest.extend(self.all_of_the_disk());
        rest
    }

    fn all_of_the_disk(&mut self) -> Vec<(DiskId, DiskOp<Data>)> {
        let (disk, rest) = std::mem::take(&mut self.out)
            .into_iter()
            .partition(|action| matches!(action, Action::Disk { .. }));
        self.out = rest;
        let op = |action| match action {
            Action::Disk { id, op } => Some((id, op)),
            _ => None,
        };
        Vec::into_iter(disk).filter_map(op).collect()
    }

    fn replies(&mut self) -> Vec<Reply<Data>> {
        let reply = |action| match action {
            Action::Respond { reply, .. } => Some(reply),
            _ => None,
        };
        std::mem::take(&mut self.out)
            .into_iter()
            .filter_map(reply)
            .collect()
    }

    fn done(&mut self, id: DiskId) {
        let result = Ok(DiskDone::Done);
        self.replica
            .handle(self.now, Event::Disk { id, result }, &mut self.out);
    }

    fn fails(&mut self, id: DiskId) {
        let result = Err(DiskError::Io);
        self.replica
            .handle(self.now, Event::Disk { id, result }, &mut self.out);
    }

    /// Does everything that the disk is asked until nothing is left.
    fn settle(&mut self) {
        loop {
            let disk = self.disk();
            if disk.is_empty() {
                return;
            }
            for (id, _) in disk {
                self.done(id);
            }
        }
    }

    fn wait(&mut self, by: Duration) {
        self.now = self.now + by;
        self.replica.handle(self.now, Event::Timer, &mut self.out);
    }
}

#[test]
fn what_was_found_is_synced_before_the_other_slot_is_written() {
    let mut bench = Bench::load(BOOT, |image| image.superblock.clean = false);
    bench.open(1);
    let first = bench.all_of_the_disk();
    let [(id, DiskOp::CommitMeta(writes))] = &first[..] else {
        panic!("D11: {first:?}");
    };
    assert!(writes.is_empty(), "D11: nothing but a sync");
    bench.done(*id);
    let second = bench.all_of_the_disk();
    assert!(
        matches!(&second[..], [(_, DiskOp::CommitMeta(writes))] if !writes.is_empty()),
        "D5: {second:?}"
    );
}

#[test]
fn a_cold_region_waits_for_its_bit_and_a_warm_one_does_not() {
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(1);
    bench.settle();
    bench.replies();
    bench.write(0, 1);
    bench.write(4096, 1);
    let first = bench.disk();
    let [(commit, DiskOp::CommitMeta(_))] = &first[..] else {
        panic!("D1: one commit for both writes, and nothing else: {first:?}");
    };
    bench.done(*commit);
    assert!(matches!(
        bench.disk()[..],
        [(_, DiskOp::Write { .. }), (_, DiskOp::Write { .. })]
    ));
    bench.write(8192, 1);
    assert!(matches!(bench.disk()[..], [(_, DiskOp::Write { .. })]));
}

#[test]
fn a_digest_is_given_for_each_block_with_the_stamp_of_the_chunk() {
    let stamp = Tick::new(Epoch(1), 3);
    let mut bench = Bench::load(BOOT, |image| image.stamps.set(Chunk(1), stamp));
    bench.open(1);
    bench.settle();
    bench.replies();
    let ask = |bench: &mut Bench, block: u32, len: u64, found: DiskDone<Data>| {
        let range = ByteRange::new(64 << 10, len);
        bench.ask(Request::Digests { range, block });
        for (id, op) in bench.disk() {
            assert_eq!(op, DiskOp::ReadOrHole(range));
            let event = Event::Disk {
                id,
                result: Ok(found.clone()),
            };
            bench.replica.handle(bench.now, event, &mut bench.out);
        }
        bench.replies()
    };
    let mut bytes = vec![0; 9728];
    bytes[5000] = 1;
    let wanted = [0, crate::machine::payload::digest(&bytes[4096..8192]), 0];
    let blocks = wanted.to_vec();
    let found = DiskDone::Data(Data(bytes));
    assert_eq!(
        ask(&mut bench, 4096, 9728, found),
        [Reply::Digests { blocks, stamp }]
    );
    let blocks = vec![0; 16];
    let hole = ask(&mut bench, 4096, 64 << 10, DiskDone::Hole);
    assert_eq!(hole, [Reply::Digests { blocks, stamp }]);
    for block in [0, 256, 1000] {
        let refused = ask(&mut bench, block, 4096, DiskDone::Hole);
        assert_eq!(refused, [Reply::Refused(Refusal::Malformed)]);
    }
}

#[test]
fn the_durable_tick_is_the_one_noted_before_the_sync() {
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(1);
    bench.settle();
    bench.write(0, 1);
    bench.settle();
    let settled = Tick::new(Epoch(1), 1);
    bench.ask(Request::Ping { settled });
    bench.wait(Duration::from_secs(6));
    let sync = bench.disk();
    assert!(matches!(sync[..], [(_, DiskOp::SyncData)]));
    let newer = Tick::new(Epoch(1), 2);
    bench.ask(Request::Ping { settled: newer });
    for (id, _) in sync {
        bench.done(id);
    }
    bench.settle();
    assert_eq!(bench.replica.superblock().durable, settled, "D3");
    assert_eq!(bench.replica.superblock().settled, newer);
}

#[test]
fn a_bit_stays_while_its_region_is_written_and_goes_when_it_is_idle() {
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(1);
    bench.settle();
    bench.write(0, 1);
    bench.settle();
    for _ in 0..5 {
        bench.wait(Duration::from_secs(6));
        bench.write(0, 1);
        bench.settle();
        assert_eq!(bench.replica.set_regions(), 1);
    }
    for _ in 0..3 {
        bench.wait(Duration::from_secs(6));
        bench.settle();
    }
    assert_eq!(bench.replica.set_regions(), 0);
}

#[test]
fn a_failed_sync_is_final() {
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(1);
    bench.settle();
    bench.replies();
    bench.ask(Request::Flush);
    let sync = bench.disk()[0].0;
    bench.fails(sync);
    let disk = bench.disk();
    assert!(
        matches!(disk[..], [(_, DiskOp::CommitMeta(_))]),
        "the failure is noted: {disk:?}"
    );
    assert!(bench.replies().contains(&Reply::Failed(FailCause::Sync)));
    bench.done(disk[0].0);
    bench.ask(Request::Flush);
    bench.open(2);
    assert!(bench.disk().is_empty(), "D6: a failed sync is never tried again");
    let replies = bench.replies();
    assert_eq!(
        replies,
        [Reply::Failed(FailCause::Sync), Reply::Failed(FailCause::Sync)]
    );
}

#[test]
fn what_was_unclean_is_suspect_and_under_another_boot_not_whole() {
    let unclean = |image: &mut MetaImage| {
        image.superblock.clean = false;
        image.intent.set(crate::geometry::Region(1), true);
    };
    let changed = |bench: &mut Bench| {
        bench.open(2);
        bench.settle();
        let opened: Vec<Opened> = bench
            .replies()
            .into_iter()
            .filter_map(|reply| match reply {
                Reply::Opened(opened) => Some(opened),
                _ => None,
            })
            .collect();
        bench.ask(Request::Changed {
            after: Tick::first_of(Epoch(9)),
            from: crate::geometry::Chunk(0),
            limit: 1000,
        });
        let suspects = match &bench.replies()[..] {
            [Reply::Changed { chunks, next: None }] => chunks.len(),
            other => panic!("{other:?}"),
        };
        (opened[0].whole, suspects)
    };
    let mut killed = Bench::load(BOOT, unclean);
    assert_eq!(changed(&mut killed), (true, 64), "D4");
    let mut lost_power = Bench::load(BootId::from_u128(5), unclean);
    assert_eq!(changed(&mut lost_power), (false, 64));
    let mut clean = Bench::load(BootId::from_u128(5), |_| {});
    assert_eq!(changed(&mut clean), (true, 0));
}

#[test]
fn a_new_session_waits_until_older_writes_have_left_the_disk() {
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(1);
    bench.settle();
    bench.write(0, 1);
    let commit = bench.disk()[0].0;
    bench.done(commit);
    let write = bench.disk()[0].0;
    bench.replies();
    bench.open(2);
    assert!(bench.disk().is_empty() && bench.replies().is_empty());
    bench.done(write);
    bench.settle();
    let replies = bench.replies();
    assert!(
        replies
            .iter()
            .any(|reply| matches!(reply, Reply::Opened(opened) if opened.wait > Duration::ZERO)),
        "{replies:?}"
    );
}

#[test]
fn an_older_epoch_is_refused() {
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(5);
    bench.settle();
    bench.replies();
    bench.open(4);
    assert_eq!(bench.replies(), [Reply::Refused(Refusal::Epoch(Epoch(5)))], "D5");
    let range = ByteRange::new(0, 4096);
    bench.replica.handle(
        bench.now,
        Event::Request {
            session: SessionId(7),
            id: RequestId(1),
            request: Request::Read(range),
        },
        &mut bench.out,
    );
    assert_eq!(bench.replies(), [Reply::Refused(Refusal::Session)]);
}

/// Seed 3086717: the count of the other's attempts stood before it, so that it was put off instead of refused.
#[test]
fn an_epoch_given_out_twice_is_refused_at_the_first_attempt() {
    let mut bench = Bench::load(BOOT, |_| {});
    let open = |attached_by, attempt| {
        Request::Open(Open {
            identity: IDENTITY,
            epoch: Epoch(5),
            term: Epoch(5),
            attached_by: Incarnation::from_u128(attached_by),
            attempt,
            role: Role::Member,
            expects: None,
            resumes: None,
        })
    };
    bench.ask(open(1, 3));
    bench.settle();
    bench.replies();
    bench.ask(open(2, 1));
    assert_eq!(bench.replies(), [Reply::Refused(Refusal::Epoch(Epoch(5)))], "T3");
    bench.ask(open(1, 2));
    assert_eq!(bench.replies(), [Reply::Refused(Refusal::Session)], "D8");
}

/// Seeds 60287 and 353212: a release that a slow disk finished under the next primary called clean what that one wrote.
#[test]
fn a_release_that_a_newer_session_has_overtaken_does_not_make_it_clean() {
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(1);
    bench.settle();
    let settled = Tick::new(Epoch(1), 1);
    bench.ask(Request::Release { settled });
    let sync = bench.disk();
    assert!(matches!(sync[..], [(_, DiskOp::SyncData)]));
    bench.open(2);
    bench.settle();
    bench.write(0, 1);
    for (id, _) in sync {
        bench.done(id);
    }
    bench.settle();
    assert!(!bench.replica.superblock().clean, "D10");
    assert_eq!(bench.replica.set_regions(), 1);
}

#[test]
fn who_goes_on_for_one_that_has_ended_does_not_wait_for_its_lease() {
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(3);
    assert_eq!(bench.wait_told(5, None), Duration::from_secs(4), "T1");
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(2);
    bench.settle();
    bench.open(3);
    assert_eq!(
        bench.wait_told(5, Some(4)),
        Duration::ZERO,
        "T5: 2 and 3 are over"
    );
    assert_eq!(
        bench.wait_told(6, None),
        Duration::from_secs(4),
        "T1: the lease of the one that went on counts as any other"
    );
}

#[test]
fn the_lease_of_a_later_term_is_waited_for_whoever_goes_on_for_whom() {
    let mut bench = Bench::load(BOOT, |_| {});
    bench.open(2);
    bench.settle();
    bench.open(4);
    assert_eq!(
        bench.wait_told(6, Some(3)),
        Duration::from_secs(4),
        "T5: 4 may still answer"
    );
    assert_eq!(
        bench.wait_told(7, Some(6)),
        Duration::ZERO,
        "T5: who has served since has waited for it"
    );
}

#[test]
fn what_was_granted_before_a_restart_is_over_only_if_it_cannot_be_of_a_later_term() {
    assert_eq!(
        Bench::restarted_in(4).wait_told(5, None),
        Duration::from_secs(4),
        "T1"
    );
    assert_eq!(Bench::restarted_in(4).wait_told(5, Some(4)), Duration::ZERO, "T5");
    assert_eq!(
        Bench::restarted_in(4).wait_told(5, Some(3)),
        Duration::from_secs(4),
        "T5: it was last served by one that came after the one that is gone on for"
    );
    let own = Bench::restarted_in(5).wait_told(5, Some(4));
    assert_eq!(
        own,
        Duration::ZERO,
        "T5: it was opened by this very primary before it was restarted"
    );
    assert_eq!(
        Bench::restarted_in(5).wait_told(5, None),
        Duration::from_secs(4),
        "T1: by this one, but others may have come just before"
    );
}
