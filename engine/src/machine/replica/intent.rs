//! Write intent in memory: which regions' bits are set, since when, and what hits them (D1, D3).
//!
//! Decides which bits may be cleared; never writes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::format::{Intent, MetaLayout};
use crate::geometry::Region;
use crate::machine::time::Time;

/// A region whose bit is set, or is about to be.
#[derive(Debug)]
struct Active {
    /// The commit that makes the bit durable.
    set_by: u64,
    /// The checkpoint round during which a write last hit it.
    hit_round: u64,
    last_hit: Time,
    in_flight: u32,
}

/// The bits, and what is known of every region that has one.
#[derive(Debug)]
pub(super) struct Regions {
    bits: Intent,
    active: BTreeMap<u32, Active>,
}

impl Regions {
    /// As found on disk: every bit there is durable, and no write has hit its region yet.
    pub(super) fn loaded(bits: Intent, now: Time) -> Self {
        let found = |region: Region| {
            let active = Active {
                set_by: 0,
                hit_round: 0,
                last_hit: now,
                in_flight: 0,
            };
            (region.0, active)
        };
        let active = bits.iter_set().map(found).collect();
        Self { bits, active }
    }

    pub(super) fn bits(&self) -> &Intent {
        &self.bits
    }

    pub(super) fn set_count(&self) -> usize {
        self.active.len()
    }

    /// Notes a write that has come. Gives the commit that it has to wait for, and pushes the sectors that this commit
    /// is to write beyond what it writes already.
    pub(super) fn enter(&mut self, regions: Range<u32>, next_commit: u64, sectors: &mut Vec<u32>) -> u64 {
        let mut wait_for = 0;
        for region in regions {
            let bits = &mut self.bits;
            let active = self.active.entry(region).or_insert_with(|| {
                bits.set(Region(region), true);
                sectors.push(MetaLayout::intent_sector_of(Region(region)));
                Active {
                    set_by: next_commit,
                    hit_round: 0,
                    last_hit: Time::ZERO,
                    in_flight: 0,
                }
            });
            active.in_flight += 1;
            wait_for = wait_for.max(active.set_by);
        }
        wait_for
    }

    /// Notes that a write is given to the disk now, in this checkpoint round.
    pub(super) fn hit(&mut self, regions: Range<u32>, round: u64, now: Time) {
        for region in regions {
            if let Some(active) = self.active.get_mut(&region) {
                active.hit_round = round;
                active.last_hit = now;
            }
        }
    }

    /// Notes that a write has ended, or was dropped before the disk saw it (then it is no hit).
    pub(super) fn leave(&mut self, regions: Range<u32>, round: Option<u64>) {
        for region in regions {
            if let Some(active) = self.active.get_mut(&region) {
                active.in_flight = active.in_flight.saturating_sub(1);
                if let Some(round) = round {
                    active.hit_round = active.hit_round.max(round);
                }
            }
        }
    }

    /// Clears the bits that this checkpoint round may clear: those whose region no write has hit since the round's sync
    /// began, and of these the ones idle for long, and beyond `keep` the least recently used. Gives the sectors to write.
    pub(super) fn clear(&mut self, rule: ClearRule, now: Time) -> Vec<u32> {
        let may =
            |active: &Active| rule.under_writes || (active.hit_round < rule.round && active.in_flight == 0);
        let mut by_use: Vec<(Time, u32)> = self
            .active
            .iter()
            .filter(|(_, active)| may(active))
            .map(|(&region, active)| (active.last_hit, region))
            .collect();
        by_use.sort_unstable();
        let excess = self.active.len().saturating_sub(rule.keep);
        let mut sectors = Vec::new();
        for (at, &(last_hit, region)) in by_use.iter().enumerate() {
            if at >= excess && now.since(last_hit) < rule.idle {
                break;
            }
            self.active.remove(&region);
            self.bits.set(Region(region), false);
            sectors.push(MetaLayout::intent_sector_of(Region(region)));
        }
        sectors.dedup();
        sectors
    }
}

/// Which bits a checkpoint clears.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClearRule {
    /// The round that is being completed.
    pub(super) round: u64,
    /// How long a region has to be idle.
    pub(super) idle: Duration,
    /// How many regions may stay set whatever their use.
    pub(super) keep: usize,
    /// Deliberate fault.
    pub(super) under_writes: bool,
}
