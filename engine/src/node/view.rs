//! How an open volume looks to people.

use super::changes::standing;
use super::clock;
use super::drive::To;
use super::status::{PeerView, Reach, VerifyStatus, VolumeState, VolumeStatus};
use super::volume::{Life, Volume};
use crate::machine::MemberState;

impl Volume {
    /// What there is to know of it now.
    pub fn status(&self) -> VolumeStatus {
        let state = match *self.life.lock() {
            Life::Opening => VolumeState::Opening,
            Life::Serving => VolumeState::Serving,
            Life::Ended(reason) => VolumeState::Ended(reason.to_string()),
        };
        let node = self.node.config.node;
        let core = self.core.lock();
        let primary = &core.primary;
        let record = primary.record();
        let here = record
            .replicas
            .iter()
            .find(|replica| replica.node == node)
            .map(|replica| replica.id);
        let mut replicas: Vec<PeerView> = Vec::with_capacity(record.replicas.len());
        for replica in &record.replicas {
            let peer = primary.status().find(|peer| peer.replica == replica.id);
            let session = match core.way(replica.id) {
                Some(To::There(way)) => way.status(),
                _ => None,
            };
            let connected = peer.is_some_and(|peer| peer.connected);
            let rebuild = peer.and_then(|peer| peer.rebuild);
            replicas.push(PeerView {
                replica: replica.id,
                node: replica.node,
                local: replica.node == node,
                standing: standing(replica.state),
                left_at: match replica.state {
                    MemberState::Stale(tick) => Some(tick),
                    MemberState::Member | MemberState::Rebuilding => None,
                },
                reach: if connected { Reach::Up } else { Reach::Down },
                trouble: if connected { None } else { core.trouble(replica.id) },
                unanswered: session.map_or(0, |session| session.in_flight),
                queued_bytes: session.map_or(0, |session| session.queued_bytes),
                round_trip: session.and_then(|session| session.round_trip),
                rebuild: rebuild.map(|progress| {
                    core.changes
                        .rebuild(replica.id, progress, self.geometry.chunk_size())
                }),
            });
        }
        let now = clock::now();
        let verify = primary.verify_progress().map(|at| VerifyStatus {
            compared: at.compared,
            size: at.size,
            differing: at.differing,
            took: now.since(at.since),
        });
        let (epoch, tick, settled) = (primary.epoch(), primary.tick(), primary.settled());
        drop(core);
        VolumeStatus {
            volume: self.id(),
            state,
            epoch,
            tick,
            settled,
            size: self.geometry.size(),
            local: here.and_then(|replica| self.node.replica(replica)),
            replicas,
            verify,
            served: self.counters().read(),
            in_flight: self.permits.operations(),
        }
    }
}
