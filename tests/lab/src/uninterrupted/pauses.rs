//! Which pause belongs to which kill.
//!
//! It owns the attribution: a write that was under way when a daemon was killed, or began right after, waited for that kill.
//! It must never leave a gap out: what belongs to no kill is told too.

use std::time::Duration;

use super::probe::{Gap, Notes};

/// A write that begins so soon after a kill met it; between reading a request and the kill lies a scheduler.
const SOON: Duration = Duration::from_millis(300);

/// Whose daemon was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The one that serves the volumes.
    Primary,
    /// One that holds a replica.
    Replica,
}

/// A kill, or whatever else ended a daemon.
#[derive(Debug, Clone, Copy)]
pub struct Kill {
    /// When, since 1970.
    pub at: Duration,
    /// Whose daemon.
    pub whose: Whose,
}

/// What the probes felt.
#[derive(Debug, Default, Clone)]
pub struct Pauses {
    /// For each kill of the primary's daemon the longest write that met it; zero if none was noted.
    pub primary: Vec<Duration>,
    /// The same for kills of a replica's daemon.
    pub replica: Vec<Duration>,
    /// Gaps that met no kill.
    pub other: Vec<Gap>,
}

impl Pauses {
    /// Gives each gap of the probes to the first kill that it met.
    pub fn attribute<'a>(kills: &[Kill], probes: impl IntoIterator<Item = &'a Notes>) -> Self {
        let mut longest = vec![Duration::ZERO; kills.len()];
        let mut pauses = Self::default();
        // A kill in the middle of a pause has none of its own.
        let mut shared = vec![false; kills.len()];
        for gap in probes.into_iter().flat_map(|notes| &notes.gaps) {
            let mut met = kills
                .iter()
                .enumerate()
                .filter(|(_, kill)| gap.begin <= kill.at + SOON && gap.end() >= kill.at);
            match met.next() {
                Some((first, _)) => {
                    longest[first] = longest[first].max(gap.length);
                    met.for_each(|(index, _)| shared[index] = true);
                }
                None => pauses.other.push(*gap),
            }
        }
        for ((kill, length), shared) in kills.iter().zip(longest).zip(shared) {
            if shared && length.is_zero() {
                continue;
            }
            match kill.whose {
                Whose::Primary => pauses.primary.push(length),
                Whose::Replica => pauses.replica.push(length),
            }
        }
        pauses
    }
}

/// The middle of some durations; zero if there are none.
pub fn median(all: &[Duration]) -> Duration {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The greatest of some durations; zero if there are none.
pub fn longest(all: &[Duration]) -> Duration {
    all.iter().max().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gap_goes_to_the_kill_that_it_met() {
        let ms = Duration::from_millis;
        let gap = |begin, length| Gap {
            begin: ms(begin),
            length: ms(length),
        };
        let kill = |at, whose| Kill { at: ms(at), whose };
        let kills = [
            kill(1000, Whose::Primary),
            kill(5000, Whose::Replica),
            kill(9000, Whose::Primary),
            kill(9500, Whose::Primary),
            kill(20_000, Whose::Primary),
        ];
        let one = Notes {
            gaps: vec![gap(990, 700), gap(3000, 150), gap(9001, 1500)],
            ..Notes::default()
        };
        let two = Notes {
            gaps: vec![gap(1100, 900), gap(5001, 200)],
            ..Notes::default()
        };
        let pauses = Pauses::attribute(&kills, [&one, &two]);
        // The kill at 9500 fell into the pause of the one before; the last one was not felt.
        assert_eq!(pauses.primary, [ms(900), ms(1500), ms(0)]);
        assert_eq!(pauses.replica, [ms(200)]);
        assert_eq!(pauses.other, [gap(3000, 150)]);
        assert_eq!(median(&pauses.primary), ms(900));
        assert_eq!(longest(&pauses.primary), ms(1500));
        assert_eq!((median(&[]), longest(&[])), (ms(0), ms(0)));
    }
}
