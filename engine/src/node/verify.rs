//! Comparing the members of an open volume: asked for here, done by the machine. Decides nothing.

use crossbeam_channel::{Receiver, Sender};

use super::drive::Core;
use super::volume::Volume;
use crate::machine::primary::{Event, Repair, VerifyOutcome, VerifyReport};

/// Who waits for comparisons, by their numbers.
#[derive(Default)]
pub(super) struct Verifies {
    count: u64,
    waiting: Vec<(u64, Sender<VerifyReport>)>,
}

impl Verifies {
    /// A comparison has ended.
    pub(super) fn ended(&mut self, id: u64, report: VerifyReport) {
        if let Some(at) = self.waiting.iter().position(|(known, _)| *known == id) {
            let (_, sender) = self.waiting.swap_remove(at);
            // Nobody waits any more if this fails.
            let _ = sender.send(report);
        }
    }

    /// None of them will end: the volume is given up. Their receivers are told by the end of the channel.
    pub(super) fn give_up(&mut self) {
        self.waiting.clear();
    }
}

/// A comparison under way. Dropping it does not stop it.
pub struct Verification {
    report: Receiver<VerifyReport>,
}

impl Verification {
    /// Where the report comes, once. If the volume is given up meanwhile the channel ends without one; it counts as
    /// [`VerifyOutcome::Interrupted`].
    pub const fn report(&self) -> &Receiver<VerifyReport> {
        &self.report
    }

    /// Waits for the report. It ends at the latest with the volume.
    pub fn wait(self) -> VerifyReport {
        self.report.recv().unwrap_or(VerifyReport {
            outcome: VerifyOutcome::Interrupted,
            members: Vec::new(),
            compared: 0,
            differing: 0,
            mended: 0,
            differences: Vec::new(),
        })
    }
}

impl Volume {
    /// Compares the members, chunk by chunk, while the volume is used, and mends what differs if it is to. One at a time;
    /// another one is refused by its report.
    pub fn verify(&self, repair: Repair) -> Verification {
        let (sender, report) = crossbeam_channel::bounded(1);
        if let Some(this) = self.myself.upgrade() {
            let id = {
                let mut core = self.core.lock();
                let Core {
                    verifies, abandoned, ..
                } = &mut *core;
                verifies.count += 1;
                if !*abandoned {
                    verifies.waiting.push((verifies.count, sender));
                }
                verifies.count
            };
            this.post(Event::Verify { id, repair });
        }
        Verification { report }
    }

    /// Ends the comparison that is under way, when the piece that it is at is done.
    pub fn stop_verify(&self) {
        if let Some(this) = self.myself.upgrade() {
            this.post(Event::StopVerify);
        }
    }
}
