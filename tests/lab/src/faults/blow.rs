//! One fault: how it is dealt, and how it is undone.
//!
//! It owns the list of faults. It must never choose one that leaves no replica with the data, for that no design survives.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};

use crate::disk::Mood;
use crate::lab::Lab;
use crate::switch::address;

/// What can happen to a host, by index, or to all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Blow {
    /// kill -9 of the daemon; it is started again.
    Kill(usize),
    /// SIGSTOP of the daemon.
    Pause(usize),
    /// SIGSTOP of everything on the host.
    Freeze(usize),
    /// The founding story's cut: nothing gets out.
    CutOut(usize),
    /// Nothing gets in.
    CutIn(usize),
    /// Both ways.
    CutBoth(usize),
    /// Between two hosts only.
    CutPair(usize, usize),
    /// The host loses power, and its disk what was not synced.
    Power(usize),
    /// Every host loses power at the same moment.
    PowerAll,
    /// kill -9 of the host's member of the store.
    StoreKill(usize),
    /// SIGSTOP of every member of the store.
    StorePause,
    /// kill -9 of every member of the store.
    StoreKillAll,
    /// The file system of the pool is full.
    PoolFull(usize),
    /// The disk below the pool fails.
    Disk(usize, Mood),
}

impl Blow {
    /// The name under which it is counted.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill -9 of a daemon",
            Self::Pause(_) => "SIGSTOP of a daemon",
            Self::Freeze(_) => "SIGSTOP of a host",
            Self::CutOut(_) => "cut, outgoing",
            Self::CutIn(_) => "cut, incoming",
            Self::CutBoth(_) => "cut, both ways",
            Self::CutPair(..) => "cut between two nodes",
            Self::Power(_) => "power cut of a host",
            Self::PowerAll => "power cut of all hosts",
            Self::StoreKill(_) => "store member killed",
            Self::StorePause => "store paused",
            Self::StoreKillAll => "store killed",
            Self::PoolFull(_) => "disk full",
            Self::Disk(_, Mood::Slow(_) | Mood::Stuck) => "slow or stuck disk",
            Self::Disk(..) => "EIO from the disk",
        }
    }

    /// The host it hits, if it is one.
    pub fn host(self) -> Option<usize> {
        match self {
            Self::Kill(host)
            | Self::Pause(host)
            | Self::Freeze(host)
            | Self::CutOut(host)
            | Self::CutIn(host)
            | Self::CutBoth(host)
            | Self::CutPair(host, _)
            | Self::Power(host)
            | Self::StoreKill(host)
            | Self::PoolFull(host)
            | Self::Disk(host, _) => Some(host),
            Self::PowerAll | Self::StorePause | Self::StoreKillAll => None,
        }
    }

    /// Whether the volume has to be whole before: the fault may take a replica out for good.
    pub fn needs_whole(self) -> bool {
        matches!(self, Self::Disk(..) | Self::PoolFull(_) | Self::PowerAll)
    }

    /// Chooses one, and how long it lasts. `home` is where the workload runs: that is hit most, then the
    /// holders of replicas. Every other time it is of a kind that has not been `dealt`, while there is one.
    pub fn choose(
        rng: &mut StdRng,
        lab: &Lab,
        home: usize,
        holders: &[usize],
        dealt: impl Fn(&str) -> bool,
    ) -> (Self, Duration) {
        let holder = holders.choose(rng).copied().unwrap_or(home);
        let host = match rng.random_range(0..10) {
            0..4 => home,
            4..9 => holder,
            _ => rng.random_range(0..lab.members.len()),
        };
        let other = (0..lab.members.len())
            .filter(|&other| other != host)
            .choose(rng)
            .unwrap_or(host);
        let server = (0..lab.members.len())
            .filter(|&index| lab.members[index].store.is_some())
            .choose(rng)
            .unwrap_or(host);
        let moods = [
            Mood::Broken,
            Mood::Worn,
            Mood::NoSync,
            Mood::Stuck,
            Mood::Slow(Duration::from_millis(rng.random_range(5..100))),
        ];
        let mood = moods.choose(rng).copied().unwrap_or(Mood::Broken);
        // Kind, how often, and for how many seconds at most.
        let table = [
            (Self::Kill(host), 6, 10),
            (Self::Pause(host), 6, 60),
            (Self::Freeze(host), 3, 60),
            (Self::CutOut(host), 4, 40),
            (Self::CutIn(host), 3, 40),
            (Self::CutBoth(host), 4, 40),
            (Self::CutPair(host, other), 4, 40),
            (Self::Power(host), 4, 25),
            (Self::PowerAll, 1, 3),
            (Self::StoreKill(server), 4, 20),
            (Self::StorePause, 2, 30),
            (Self::StoreKillAll, 2, 30),
            (Self::PoolFull(holder), 3, 15),
            (Self::Disk(holder, mood), 5, 10),
        ];
        let fresh: Vec<_> = table
            .iter()
            .copied()
            .filter(|(blow, ..)| !dealt(blow.kind()))
            .collect();
        let table = if rng.random() && !fresh.is_empty() {
            fresh
        } else {
            table.to_vec()
        };
        let weights: u32 = table.iter().map(|(_, weight, _)| weight).sum();
        let mut at = rng.random_range(0..weights);
        let (blow, _, longest) = table
            .iter()
            .copied()
            .find(|(_, weight, _)| {
                let hit = at < *weight;
                at = at.saturating_sub(*weight);
                hit
            })
            .unwrap_or(table[0]);
        // Short ones are as likely as long ones: what a deadline of a few seconds decides lies there.
        let longest = f64::from(longest);
        let seconds = (rng.random_range(0.0..longest.ln())).exp();
        (blow, Duration::from_secs_f64(seconds))
    }

    /// Lets it happen.
    pub fn deal(self, lab: &mut Lab) -> Result<()> {
        match self {
            Self::Kill(host) => lab.members[host].node.bulkhead.kill(),
            Self::Pause(host) => lab.members[host].pause(true),
            Self::Freeze(host) => lab.members[host].pause_all(true),
            Self::CutOut(host) => lab.host(host).cut(),
            Self::CutIn(host) => lab.host(host).cut_incoming(),
            Self::CutBoth(host) => lab.host(host).cut_both(),
            Self::CutPair(host, other) => lab.host(host).cut_from(address(lab.members[other].number)),
            Self::Power(host) => lab.power_off(host),
            Self::PowerAll => lab.power_off_all(),
            Self::StoreKill(host) => lab.members[host].store.as_mut().context("no store there")?.kill(),
            Self::StorePause => lab.stores(|store| store.pause(true)),
            Self::StoreKillAll => lab.stores(|store| store.kill()),
            Self::PoolFull(host) => {
                let line = format!(
                    "mount=$({POOL_MOUNT}); fallocate -l $(df -B1 --output=avail $mount | tail -n 1) $mount/ballast || \
                     dd if=/dev/zero of=$mount/ballast bs=1M 2>/dev/null || :"
                );
                lab.host(host)
                    .sh(&line)
                    .within(Duration::from_secs(120))
                    .run()
                    .map(drop)
            }
            Self::Disk(host, mood) => lab.members[host].disk.as_ref().context("no such disk")?.set(mood),
        }
    }

    /// Undoes it. What then does not run on a host any more is started again by [`Lab::heal`].
    pub fn undo(self, lab: &mut Lab) -> Result<()> {
        match self {
            Self::Pause(host) => lab.members[host].pause(false),
            Self::Freeze(host) => lab.members[host].pause_all(false),
            Self::CutOut(host) | Self::CutIn(host) | Self::CutBoth(host) | Self::CutPair(host, _) => {
                lab.host(host).heal()
            }
            Self::StorePause => lab.stores(|store| store.pause(false)),
            Self::PoolFull(host) => {
                let line = format!("rm -f $({POOL_MOUNT})/ballast");
                lab.host(host).sh(&line).run().map(drop)
            }
            Self::Disk(host, mood) => {
                lab.members[host]
                    .disk
                    .as_ref()
                    .context("no such disk")?
                    .set(Mood::Well)?;
                if matches!(mood, Mood::Slow(_)) {
                    return Ok(());
                }
                // The pool's file system has given up; an operator puts the disk right and starts the machine anew.
                lab.power_off(host)?;
                lab.power_on(host)
            }
            Self::Kill(_) | Self::Power(_) | Self::PowerAll | Self::StoreKill(_) | Self::StoreKillAll => {
                lab.heal()
            }
        }
    }
}

/// Prints where a host's pool is mounted: the only XFS there. Loop devices would not tell while any host on the machine is
/// stopped that serves the file of one.
pub(super) const POOL_MOUNT: &str = "findmnt --noheadings --output TARGET --types xfs --first-only";

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::CutPair(host, other) => write!(f, ": n{} and n{}", host + 1, other + 1),
            Self::Disk(host, mood) => write!(f, ": n{}, {mood}", host + 1),
            _ => self.host().map_or(Ok(()), |host| write!(f, ": n{}", host + 1)),
        }
    }
}
