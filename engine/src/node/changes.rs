//! What has changed about a volume's replicas since the last look, for people; and how fast rebuilds are. Decides nothing.

use std::collections::VecDeque;
use std::time::Duration;

use super::status::{RebuildStatus, Standing, VolumeEvent};
use crate::ids::ReplicaId;
use crate::io::Data;
use crate::machine::primary::{Phase, RebuildProgress};
use crate::machine::{MemberState, Primary, Time};

/// Over how long the speed of a rebuild is measured.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two measurements.
const STEP: Duration = Duration::from_millis(500);

/// A replica as it was seen last.
struct Seen {
    replica: ReplicaId,
    standing: Standing,
    connected: bool,
    /// Chunks of its rebuild that had been copied by these times.
    copied: VecDeque<(Time, u64)>,
}

/// The replicas as they were seen last.
#[derive(Default)]
pub(super) struct Changes {
    seen: Vec<Seen>,
}

pub(super) const fn standing(state: MemberState) -> Standing {
    match state {
        MemberState::Member => Standing::Member,
        MemberState::Stale(_) => Standing::Stale,
        MemberState::Rebuilding => Standing::Rebuilding,
    }
}

impl Changes {
    /// Tells what is other than it was.
    pub(super) fn look(
        &mut self,
        now: Time,
        primary: &Primary<Data>,
        trouble: impl Fn(ReplicaId) -> Option<String>,
        mut tell: impl FnMut(VolumeEvent),
    ) {
        let record = primary.record();
        self.seen.retain(|seen| record.replica(seen.replica).is_some());
        for peer in primary.status() {
            let replica = peer.replica;
            let Some(standing) = record.replica(replica).map(|found| standing(found.state)) else {
                continue;
            };
            let at = match self.seen.iter().position(|seen| seen.replica == replica) {
                Some(at) => at,
                None => {
                    self.seen.push(Seen {
                        replica,
                        standing,
                        connected: false,
                        copied: VecDeque::new(),
                    });
                    self.seen.len() - 1
                }
            };
            let Some(seen) = self.seen.get_mut(at) else {
                continue;
            };
            if seen.standing != standing {
                seen.standing = standing;
                let epoch = record.epoch;
                tell(VolumeEvent::Standing {
                    replica,
                    standing,
                    epoch,
                });
            }
            // Who is let go because the volume is detached or over is not lost.
            let over = matches!(primary.phase(), Phase::Releasing | Phase::Ended);
            if seen.connected != peer.connected && !over {
                seen.connected = peer.connected;
                tell(if peer.connected {
                    VolumeEvent::Reached { replica }
                } else {
                    let reason = trouble(replica).unwrap_or_else(|| "it did not answer in time".to_owned());
                    VolumeEvent::Lost { replica, reason }
                });
            }
            seen.measure(now, peer.rebuild);
        }
    }

    /// How far and how fast a rebuild is.
    pub(super) fn rebuild(
        &self,
        replica: ReplicaId,
        progress: RebuildProgress,
        chunk_size: u64,
    ) -> RebuildStatus {
        let seen = self.seen.iter().find(|seen| seen.replica == replica);
        let speed = seen.map_or(0.0, Seen::speed) * chunk_size as f64;
        let (copied, total) = (progress.copied * chunk_size, progress.total * chunk_size);
        let left = total.saturating_sub(copied) as f64;
        RebuildStatus {
            copied,
            total,
            percent: if total == 0 {
                0.0
            } else {
                copied as f64 * 100.0 / total as f64
            },
            speed: speed as u64,
            remaining: (speed >= 1.0).then(|| Duration::from_secs_f64((left / speed).min(1e9))),
        }
    }
}

impl Seen {
    fn measure(&mut self, now: Time, progress: Option<RebuildProgress>) {
        let Some(progress) = progress else {
            self.copied.clear();
            return;
        };
        match self.copied.back() {
            // A new rebuild.
            Some(&(_, last)) if progress.copied < last => self.copied.clear(),
            Some(&(since, _)) if now.since(since) < STEP => return,
            _ => {}
        }
        self.copied.push_back((now, progress.copied));
        while self
            .copied
            .front()
            .is_some_and(|&(since, _)| now.since(since) > WINDOW)
        {
            self.copied.pop_front();
        }
    }

    /// Chunks in a second.
    fn speed(&self) -> f64 {
        let (Some(&(from, before)), Some(&(to, after))) = (self.copied.front(), self.copied.back()) else {
            return 0.0;
        };
        let took = to.since(from).as_secs_f64();
        if took > 0.0 {
            (after - before) as f64 / took
        } else {
            0.0
        }
    }
}
