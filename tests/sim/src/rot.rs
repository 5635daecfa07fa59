//! Sectors that change on a disk by themselves, and the verify that is to find them.
//!
//! They lie where the users do not read: what an ordinary read makes of rot is not promised.

use std::collections::BTreeMap;

use bulkhead_engine::geometry::{ByteRange, SECTOR};
use bulkhead_engine::machine::MemberState;
use bulkhead_engine::machine::primary::{Event, Repair, VerifyOutcome, VerifyReport};

use crate::plan::Ns;
use crate::world::{World, tell};

/// What happened to one sector.
#[derive(Clone, Copy, Debug)]
struct Rotten {
    node: usize,
    was: u64,
    /// When.
    at: Ns,
    /// The record's epoch then.
    epoch: u32,
    /// Whether it has happened to this sector more than once.
    again: bool,
}

/// What is known of rot.
#[derive(Debug, Default)]
pub struct Rot {
    sectors: BTreeMap<u32, Rotten>,
    verifies: u64,
    running: bool,
    /// The first verify that began once nothing rots any more: an earlier one may have passed over a place before it did.
    counts_from: Option<u64>,
    /// A verify has found nothing any more.
    pub(crate) gone: bool,
}

impl Rot {
    /// Whether there is nothing that has to be mended.
    pub(crate) fn is_mended(&self) -> bool {
        self.sectors.is_empty() || self.gone
    }
}

impl World {
    /// A sector of a node's replica changes.
    pub(crate) fn rot(&mut self, node: usize) {
        let sectors = self.geometry.size() / SECTOR;
        let sector = self.rng.below(sectors) as u32;
        let value = 1 << 60 | self.rng.below(1000);
        if self.tracked.binary_search(&sector).is_ok() {
            return;
        }
        let epoch = self.store.record.epoch.0;
        let Some(disk) = &mut self.nodes[node].disk else {
            return;
        };
        let was = disk.rot(sector, value);
        tell!(self, "node {node}: sector {sector} rots, it was {was}");
        let again = self.rot.sectors.contains_key(&sector);
        self.rot.sectors.insert(
            sector,
            Rotten {
                node,
                was,
                at: self.now,
                epoch,
                again,
            },
        );
    }

    /// From now on nothing rots any more.
    pub(crate) fn rot_is_over(&mut self) {
        self.rot.counts_from = Some(self.rot.verifies + 1);
    }

    /// Whoever serves the volume is asked to compare its members.
    pub(crate) fn verify(&mut self, node: usize, repair: Repair) {
        let Some(term) = self.nodes[node].host.as_ref().map(|host| host.term) else {
            return;
        };
        self.rot.verifies += 1;
        self.rot.running = true;
        let id = self.rot.verifies;
        self.step_primary(node, term, Event::Verify { id, repair });
    }

    /// With everything repaired, the rot is looked for until none is left.
    pub(crate) fn verify_again(&mut self, node: usize) {
        if self.rot.running {
            return;
        }
        let member = self.store.record.members().last().map(|member| member.id);
        let repair = member.map_or(Repair::Majority, Repair::From);
        self.verify(node, repair);
    }

    /// The primary of the verify is gone.
    pub(crate) fn verify_lost(&mut self) {
        self.rot.running = false;
    }

    /// A verify has ended: what it found must have a reason, and what it mended must be what the others held.
    pub(crate) fn verified(&mut self, node: usize, id: u64, report: &VerifyReport) {
        tell!(self, "node {node}: verify: {report:?}");
        if report.outcome != VerifyOutcome::Refused {
            self.rot.running = false;
        }
        let all = self
            .store
            .record
            .replicas
            .iter()
            .all(|replica| replica.state == MemberState::Member);
        let compared = report.members.len() == self.store.record.replicas.len();
        let counts = self.rot.counts_from.is_some_and(|first| id >= first);
        if report.outcome == VerifyOutcome::Complete && report.differing == 0 && all && compared && counts {
            self.rot.gone = true;
        }
        let mut wrong = None;
        for difference in &report.differences {
            let (first, end) = sectors_of(difference.range);
            let reasons: Vec<(u32, Rotten)> = self
                .rot
                .sectors
                .range(first..end)
                .map(|(&sector, &rotten)| (sector, rotten))
                .collect();
            if reasons.is_empty() && difference.unreadable.is_empty() {
                wrong = Some(format!(
                    "V1: verify finds a difference where there is none: {difference:?}"
                ));
            }
            let [(sector, rotten)] = reasons[..] else {
                continue;
            };
            // Nobody was brought up to date from the rotten replica since, as that raises the epoch; by a store that was restored the
            // same epoch may have come once more.
            let taken_back = self.restored.at.is_some_and(|at| at >= rotten.at);
            let same_epoch = rotten.epoch == self.store.record.epoch.0 && !taken_back;
            let undisturbed = !rotten.again && same_epoch;
            if undisturbed && difference.mended && report.members.len() > 2 {
                let now_is = self.content(rotten.node, sector);
                if now_is != rotten.was && now_is != 0 {
                    wrong = Some(format!(
                        "V2: verify has mended sector {sector} with {now_is}, which only node {} held; the others held {}",
                        rotten.node, rotten.was
                    ));
                }
            }
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }
}

fn sectors_of(range: ByteRange) -> (u32, u32) {
    ((range.offset / SECTOR) as u32, (range.end() / SECTOR) as u32)
}
