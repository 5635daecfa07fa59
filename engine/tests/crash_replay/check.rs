//! The replay: cuts the power, opens what is left, and holds it against the rules.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_engine::disk::{BlockFile, ReplicaFiles};
use bulkhead_engine::format::{MetaImage, MetaLayout};
use bulkhead_engine::geometry::{ByteRange, Chunk, Region};
use bulkhead_engine::ids::{Epoch, Tick};
use bulkhead_engine::io::BlockOp;
use bulkhead_engine::machine::FaultSet;
use bulkhead_engine::node::{Node, Volume};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::oracle::{History, Write, value_in};
use crate::support::alone::{Place, identity};
use crate::support::cut::{CutFile, Replay, SECTOR};
use crate::support::recording::{Event, Which};
use crate::workload::{Recording, Start, USED_SECTORS, config, geometry, node, submit, used_sectors};

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The metadata can be read after any cut (D6: a torn write is no damage).
    MetadataIsSound,
    /// D1: a region's bit is on disk before the first write to it begins.
    IntentBeforeWrite,
    /// D5: the epoch is on disk from the moment on at which the volume serves.
    EpochIsDurable,
    /// D3: what the durable tick covers is on disk.
    DurableIsOnDisk,
    /// D2 to D4: content newer than the durable tick lies in a set region, or its chunk has a later stamp.
    UnsettledIsKnown,
    /// P1: an acknowledged flush survives; no sector is older than it, or holds what nobody wrote.
    FlushedSurvives,
    /// D4: what was suspect or unsettled at a power cut stays known as such, whatever cuts the recovery short.
    UnsettledStaysKnown,
    /// D4, section 6: what was suspect or unsettled bears the new epoch's stamp after the replica was opened again.
    SuspectIsRestamped,
    /// The replica opens, serves and closes after any cut.
    Opens,
}

/// What was found, and how much there was to look at.
#[derive(Default)]
pub struct Outcome {
    pub cuts: usize,
    pub violations: BTreeMap<Rule, Vec<String>>,
    /// Sectors for which a flushed write set the lower bound.
    pub must_have_survived: usize,
    /// Sectors with content newer than the durable tick, known by a set bit, and by a stamp.
    pub known_by_intent: usize,
    pub known_by_stamp: usize,
    /// Sectors with a write that the durable tick covered.
    pub covered_by_durable: usize,
    /// Chunks that an earlier power cut had left suspect or unsettled.
    pub unsettled_before: usize,
    /// Sectors whose newest acknowledged write is not there: it was not flushed, and may go.
    pub lost_unflushed: usize,
}

impl Outcome {
    pub fn count(&self, rule: Rule) -> usize {
        self.violations.get(&rule).map_or(0, Vec::len)
    }

    fn violated(&mut self, rule: Rule, how: String) {
        self.violations.entry(rule).or_default().push(how);
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cuts; sectors: {} had to survive, {} known by intent, {} by stamp, {} covered by the durable tick, \
             {} lost an unflushed write; {} chunks unsettled from before",
            self.cuts,
            self.must_have_survived,
            self.known_by_intent,
            self.known_by_stamp,
            self.covered_by_durable,
            self.lost_unflushed,
            self.unsettled_before
        )?;
        for (rule, found) in &self.violations {
            write!(
                f,
                "\n{rule:?}: {} violations, the first: {}",
                found.len(),
                found[0]
            )?;
        }
        Ok(())
    }
}

/// Plays the recording, cutting the power at `cuts` random places of it. Gives also what one of them has left.
pub fn replay(recording: &Recording, cuts: usize, seed: u64) -> (Outcome, Start) {
    let mut rng = StdRng::seed_from_u64(seed);
    let events = &recording.events;
    let mut times = vec![0u32; events.len() + 1];
    for _ in 0..cuts {
        times[rng.random_range(0..=events.len())] += 1;
    }
    let goes_on_at = rng.random_range(events.len() / 2..=events.len());
    times[goes_on_at] += 1;
    // The epoch has to be durable from here on, and soon is by the next checkpoint in any case.
    times[recording.serving + 1] += 20;

    let start = &recording.start;
    let before = |sector: u64| {
        let at = sector as usize * SECTOR;
        value_in(sector, &start.data[at..at + SECTOR]).expect("the run before was sound")
    };
    let next = Start {
        generation: start.generation + 1,
        ..start.clone()
    };
    let (place, node) = node(next.boot(), FaultSet::NONE);
    let mut checker = Checker {
        recording,
        histories: recording.asked.histories(used_sectors(), before),
        unsettled_before: unsettled(&MetaImage::decode(&start.meta).expect("sound")),
        place,
        node,
        epoch: next.epoch(),
        outcome: Outcome::default(),
    };
    checker.outcome.unsettled_before = checker.unsettled_before.len();
    let mut replay = Replay::new(start.data.clone(), start.meta.clone());
    let mut left = next;
    for (at, times) in times.into_iter().enumerate() {
        for _ in 0..times {
            let (data, meta) = replay.cut(&mut rng);
            if at == goes_on_at {
                left = Start {
                    data: data.bytes(),
                    meta: meta.bytes(),
                    ..left
                };
            }
            checker.cut(at, data, meta);
        }
        if let Some(event) = events.get(at) {
            checker.intent_before_write(at, event, &replay);
            replay.step(event);
        }
    }
    (checker.outcome, left)
}

struct Checker<'a> {
    recording: &'a Recording,
    histories: Vec<History>,
    /// What the cut before this run had left suspect or unsettled.
    unsettled_before: Vec<Chunk>,
    /// The machine after the reboot, and the epoch then.
    place: Arc<Place>,
    node: Arc<Node>,
    epoch: Epoch,
    outcome: Outcome,
}

impl Checker<'_> {
    fn intent_before_write(&mut self, at: usize, event: &Event, replay: &Replay) {
        let Event::WriteBegun {
            file: Which::Data,
            offset,
            bytes,
            ..
        } = event
        else {
            return;
        };
        let range = ByteRange::new(*offset, bytes.len() as u64);
        for region in geometry().regions_of(range) {
            let sector = MetaLayout::intent_sector_of(Region(region));
            let in_sector = region as usize % bulkhead_engine::format::REGIONS_PER_SECTOR;
            // Payload starts at byte 12 of a sector: docs/on-disk-format.md.
            let byte = replay.synced_meta(MetaLayout::intent_offset(sector) as usize + 12 + in_sector / 8);
            if byte & (1 << (in_sector % 8)) == 0 {
                let how = format!("event {at}: a write to region {region}, whose bit is not on disk");
                self.outcome.violated(Rule::IntentBeforeWrite, how);
            }
        }
    }

    fn cut(&mut self, at: usize, data: Arc<CutFile>, meta: Arc<CutFile>) {
        self.outcome.cuts += 1;
        let files: (Arc<dyn BlockFile>, Arc<dyn BlockFile>) = (data.clone(), meta.clone());
        let files = match ReplicaFiles::load(files.0, files.1, &identity(), "memory".as_ref()) {
            Ok(files) => files,
            Err(error) => {
                self.outcome
                    .violated(Rule::MetadataIsSound, format!("cut at {at}: {error}"));
                return;
            }
        };
        let image = files.image.clone();
        if at > self.recording.serving && image.superblock.epoch < self.recording.start.epoch() {
            let how = format!("cut at {at}: epoch {} on disk", image.superblock.epoch);
            self.outcome.violated(Rule::EpochIsDurable, how);
        }
        for &chunk in &self.unsettled_before {
            let known_by_bit =
                !image.superblock.clean && image.intent.is_set(geometry().region_of_chunk(chunk));
            let stamp = image.stamps.get(chunk);
            let restamped = stamp >= Tick::first_of(self.recording.start.epoch());
            if !known_by_bit && !restamped && stamp <= image.superblock.durable {
                let how = format!("cut at {at}: {chunk:?} was unsettled before, and bears {stamp} now");
                self.outcome.violated(Rule::UnsettledStaysKnown, how);
                break;
            }
        }
        let content = match self.reopen(files, &meta, &image) {
            Ok(content) => content,
            Err(how) => {
                self.outcome.violated(Rule::Opens, format!("cut at {at}: {how}"));
                // What is left of it is not to be found by the next one.
                let until = Instant::now() + Duration::from_secs(10);
                self.node.close_replica(identity().replica, until).unwrap();
                return;
            }
        };
        self.content(at, &image, &content);
    }

    /// Opens the replica as after a reboot, reads what was written to, closes it; and looks at the stamps afterwards.
    fn reopen(
        &mut self,
        files: ReplicaFiles,
        meta: &Arc<CutFile>,
        image: &MetaImage,
    ) -> Result<Vec<(u64, Vec<u8>)>, String> {
        let epoch = self.epoch;
        self.place.give(files);
        let volume = Volume::open(&self.node, config(epoch)).map_err(|error| error.to_string())?;
        let mut content = Vec::new();
        for region in 0..geometry().regions() {
            let offset = u64::from(region) * geometry().region_size();
            let range = ByteRange::new(offset, USED_SECTORS * SECTOR as u64);
            let data = submit(&volume, BlockOp::Read(range)).map_err(|error| error.to_string())?;
            content.push((
                offset / SECTOR as u64,
                data.ok_or("a read without data")?.to_vec(),
            ));
        }
        volume
            .close(Instant::now() + Duration::from_secs(10))
            .map_err(|error| error.to_string())?;

        let mut bytes = vec![0; meta.len().unwrap() as usize];
        meta.read_at(&mut bytes, 0).unwrap();
        let after = MetaImage::decode(&bytes).map_err(|error| error.to_string())?;
        if !after.superblock.clean || after.superblock.epoch != epoch {
            return Err(format!("not closed cleanly in its epoch: {:?}", after.superblock));
        }
        if !after.superblock.whole {
            return Err("not whole, though its only member converged".into());
        }
        for chunk in unsettled(image) {
            if after.stamps.get(chunk) < Tick::first_of(epoch) {
                let stamp = after.stamps.get(chunk);
                let how = format!("{chunk:?} was unsettled, and bears stamp {stamp} after the reopening");
                self.outcome.violated(Rule::SuspectIsRestamped, how);
                break;
            }
        }
        Ok(content)
    }

    fn content(&mut self, at: usize, image: &MetaImage, content: &[(u64, Vec<u8>)]) {
        let flushed_up_to = self.recording.asked.flushed_up_to(at);
        for history in &self.histories {
            let found = Found {
                at,
                history,
                submitted: history.writes.partition_point(|write| write.submitted < at),
                value: value_in(history.sector, bytes_of(content, history.sector)),
            };
            found.survives(flushed_up_to, &mut self.outcome);
            found.is_on_disk(image, &mut self.outcome);
            found.is_known(flushed_up_to, image, &mut self.outcome);
        }
    }
}

/// What a sector was found to hold after a cut.
struct Found<'a> {
    at: usize,
    history: &'a History,
    /// Writes that were submitted before the cut: the ones that count.
    submitted: usize,
    value: Option<u64>,
}

impl Found<'_> {
    fn writes(&self) -> &[Write] {
        &self.history.writes[..self.submitted]
    }

    /// After how many writes the sector may have had this value, the least and the most, if at least `from` are to have
    /// taken effect. They differ for zeroes only.
    fn places(&self, from: usize) -> Option<(usize, usize)> {
        let value = self.value?;
        let holds = |place: &usize| value == self.history.value_after(*place);
        let oldest = (from..=self.submitted).find(holds)?;
        let newest = (from..=self.submitted).rev().find(holds)?;
        Some((oldest, newest))
    }

    /// So many writes a flush has made durable.
    fn flushed(&self, flushed_up_to: usize) -> usize {
        count_up_to_last(self.writes(), |write| write.acked < flushed_up_to)
    }

    fn survives(&self, flushed_up_to: usize, outcome: &mut Outcome) {
        let flushed = self.flushed(flushed_up_to);
        outcome.must_have_survived += usize::from(flushed > 0);
        let acked = count_up_to_last(self.writes(), |write| write.acked < self.at);
        match self.places(flushed) {
            Some((_, newest)) => outcome.lost_unflushed += usize::from(newest < acked),
            None => outcome.violated(
                Rule::FlushedSurvives,
                format!("{self}: {flushed} writes were flushed of {:?}", self.history),
            ),
        }
    }

    fn is_on_disk(&self, image: &MetaImage, outcome: &mut Outcome) {
        let durable = image.superblock.durable;
        let is_covered = |write: &Write| write.acked < self.at && write.tick_after <= durable;
        let covered = count_up_to_last(self.writes(), is_covered);
        outcome.covered_by_durable += usize::from(covered > 0);
        if self.places(covered).is_none() {
            let how = format!(
                "{self}: durable tick {durable} covers {covered} writes of {:?}",
                self.history
            );
            outcome.violated(Rule::DurableIsOnDisk, how);
        }
    }

    fn is_known(&self, flushed_up_to: usize, image: &MetaImage, outcome: &mut Outcome) {
        let durable = image.superblock.durable;
        let oldest = self
            .places(self.flushed(flushed_up_to))
            .map_or(0, |(oldest, _)| oldest);
        let Some(write) = oldest
            .checked_sub(1)
            .map(|last| self.history.writes[last])
            .filter(|write| write.tick_before > durable)
        else {
            return;
        };
        let range = ByteRange::new(self.history.sector * SECTOR as u64, SECTOR as u64);
        let chunk = Chunk(geometry().chunks_of(range).start);
        let set = image.intent.is_set(geometry().region_of_chunk(chunk));
        let stamped = image.stamps.get(chunk) > durable;
        outcome.known_by_intent += usize::from(set);
        outcome.known_by_stamp += usize::from(stamped);
        if !set && !stamped {
            let how = format!("{self}: {write:?} is newer than the durable tick {durable}, and unknown");
            outcome.violated(Rule::UnsettledIsKnown, how);
        }
    }
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at, value, history, ..
        } = self;
        write!(f, "cut at {at}, sector {} holds {value:?}", history.sector)
    }
}

/// How many writes there are up to the last one of a kind.
fn count_up_to_last(writes: &[Write], is_of_kind: impl Fn(&Write) -> bool) -> usize {
    writes.iter().rposition(is_of_kind).map_or(0, |last| last + 1)
}

/// Chunks that the metadata calls suspect or later than the durable tick.
fn unsettled(image: &MetaImage) -> Vec<Chunk> {
    if image.superblock.clean {
        return Vec::new();
    }
    let geometry = geometry();
    let suspect = image
        .intent
        .iter_set()
        .flat_map(|region| geometry.chunks_of_region(region))
        .map(Chunk);
    let later = image
        .stamps
        .iter()
        .filter(|&(_, tick)| tick > image.superblock.durable);
    suspect.chain(later.map(|(chunk, _)| chunk)).collect()
}

fn bytes_of(content: &[(u64, Vec<u8>)], sector: u64) -> &[u8] {
    let region = content.partition_point(|(first, _)| *first <= sector) - 1;
    let (first, bytes) = &content[region];
    let start = (sector - first) as usize * SECTOR;
    &bytes[start..start + SECTOR]
}
