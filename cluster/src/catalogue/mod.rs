//! A node's own copy of the records, kept by one watch however many readers there are: it answers at once, also while
//! the store is away, and says as of when the answer is true. Never writes to the store, and nothing that decides who
//! may do what reads it: decisions are made by compare-and-swap on the store itself.

mod changed;
mod contents;
mod file;
mod promised;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bulkhead_engine::ids::VolumeId;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::changed::Changed;
pub use self::contents::Contents;

use self::changed::Feeds;
use crate::schema::VOLUMES;
use crate::store::{Event, Revision, Store, Update, Watcher};
use crate::volumes::Volume;

/// The copy on disk is at most this much behind; longer if writing it takes long.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// As of when a catalogue is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// When it was last known to be what the store holds; `None` if it never was.
    pub as_of: Option<SystemTime>,
    /// Since when the store cannot be watched, and why; `None` while it can.
    pub away: Option<(SystemTime, String)>,
    /// Whether all of it is from a run of the daemon before.
    pub from_disk: bool,
}

impl Freshness {
    /// What to add to an answer that may be out of date; `None` if it is not.
    pub fn warning(&self) -> Option<String> {
        let (since, reason) = self.away.as_ref()?;
        let since = crate::store::ago(*since);
        Some(match self.as_of {
            Some(as_of) => format!(
                "the store cannot be reached since {since}; this is what was known at {}: {reason}",
                humantime::format_rfc3339_seconds(as_of)
            ),
            None => {
                format!("the store cannot be reached since {since}, and nothing was known before: {reason}")
            }
        })
    }
}

/// A node's own copy of the records.
#[derive(Debug)]
pub struct Catalogue {
    shared: Arc<Shared>,
    revision: watch::Receiver<Revision>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    feeds: Feeds,
}

#[derive(Debug)]
struct State {
    contents: Contents,
    freshness: Freshness,
    /// The revision up to which the watch has told everything.
    told: Revision,
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Catalogue {
    /// Begins to follow a store. With a file, what it held at the last run is there at once, and it is kept up to
    /// date; a file that cannot be read is passed over, because the store has it all.
    pub async fn start(store: Arc<dyn Store>, file: Option<PathBuf>) -> Self {
        let loaded = match &file {
            Some(path) => load(path.clone()).await,
            None => None,
        };
        let (contents, as_of) = match loaded {
            Some((contents, as_of)) => (contents, Some(as_of)),
            None => (Contents::default(), None),
        };
        let (revision, revision_seen) = watch::channel(Revision(0));
        let freshness = Freshness {
            from_disk: as_of.is_some(),
            as_of,
            away: None,
        };
        let shared = Arc::new(Shared {
            state: RwLock::new(State {
                contents,
                freshness,
                told: Revision(0),
            }),
            feeds: Feeds::default(),
        });
        let follower = Follower {
            shared: Arc::clone(&shared),
            revision,
            file,
            unsaved: false,
            save_at: Instant::now() + SAVE_EVERY,
        };
        let task = tokio::spawn(follower.run(Watcher::new(store, "")));
        Self {
            shared,
            revision: revision_seen,
            task,
        }
    }

    /// Looks something up. All that `look` sees is of one moment. It must be quick: changes wait meanwhile.
    /// It may look something up itself: who waits to change it keeps nobody out who reads already, else both would wait for
    /// ever.
    pub fn read<T>(&self, look: impl FnOnce(&Contents) -> T) -> T {
        look(&self.shared.state.read_recursive().contents)
    }

    /// As of when what it holds is true.
    pub fn freshness(&self) -> Freshness {
        self.shared.state.read_recursive().freshness.clone()
    }

    /// Takes a record that this node has just written or read, so that who has made a change finds it here at once. Who
    /// follows the changes is told only of what is new: else an errand that changes nothing would call itself again.
    pub fn note(&self, volume: &Volume) {
        let is_news = {
            let mut state = self.shared.state.write();
            let told = state.told;
            state.contents.note(volume, told)
        };
        if is_news {
            self.shared.feeds.tell([volume.id]);
        }
    }

    /// Tells which volumes have changed from now on, beginning with all that there are.
    pub fn changed(&self) -> Changed {
        let changed = self.shared.feeds.subscribe();
        let all: Vec<VolumeId> = self.read(|contents| contents.volumes().map(|volume| volume.id).collect());
        self.shared.feeds.tell(all);
        changed
    }

    /// Waits until all that the store holds has been read once. Whether it came so far in time.
    pub async fn filled(&self, limit: Duration) -> bool {
        self.caught_up(Revision(1), limit).await
    }

    /// Tells of every change: the revision up to which it has come.
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }

    /// Waits until it holds what was written at a revision, so that who has just made a volume finds it. Whether it
    /// came so far in time.
    pub async fn caught_up(&self, revision: Revision, limit: Duration) -> bool {
        let mut seen = self.revision.clone();
        let arrived = seen.wait_for(|seen| *seen >= revision);
        matches!(tokio::time::timeout(limit, arrived).await, Ok(Ok(_)))
    }
}

async fn load(path: PathBuf) -> Option<(Contents, SystemTime)> {
    let shown = path.display().to_string();
    match tokio::task::spawn_blocking(move || file::load(&path)).await {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(error)) => {
            tracing::warn!(file = shown, %error, "the catalogue of the last run cannot be used");
            None
        }
        Err(_) => None,
    }
}

/// The last change of each key, in their order. A burst changes a record several times, and only its end is of use.
fn latest(events: &[Event]) -> Vec<&Event> {
    let mut later = HashSet::new();
    let mut latest: Vec<&Event> = events
        .iter()
        .rev()
        .filter(|event| later.insert(event.key()))
        .collect();
    latest.reverse();
    latest
}

/// The task that keeps it.
struct Follower {
    shared: Arc<Shared>,
    revision: watch::Sender<Revision>,
    file: Option<PathBuf>,
    unsaved: bool,
    save_at: Instant,
}

impl Follower {
    async fn run(mut self, mut watcher: Watcher) {
        let mut first = true;
        loop {
            let save = self.unsaved && self.file.is_some();
            tokio::select! {
                update = watcher.next() => self.take(update, &mut first),
                () = tokio::time::sleep_until(self.save_at.into()), if save => self.save().await,
            }
        }
    }

    fn take(&mut self, update: Update, first: &mut bool) {
        let now = SystemTime::now();
        let mut state = self.shared.state.write();
        let state = &mut *state;
        let told = match update {
            Update::Changed { events, revision } => {
                if std::mem::take(first) {
                    // The first one holds all there is; what the disk remembered and is not in it has gone.
                    let noted = if state.freshness.from_disk {
                        Vec::new()
                    } else {
                        state.contents.newer_than(revision)
                    };
                    state.contents = Contents::default();
                    for volume in &noted {
                        state.contents.note(volume, revision);
                    }
                }
                self.unsaved = true;
                if revision < state.told {
                    tracing::warn!(%revision, before = %state.told, "the store's revision has gone back: it was restored from an older copy, or has forgotten what was deleted");
                    state.contents.go_back(latest(&events));
                } else {
                    for event in latest(&events) {
                        state.contents.apply(event);
                    }
                }
                state.told = revision;
                let volumes = events
                    .iter()
                    .filter_map(|event| event.key().strip_prefix(VOLUMES)?.parse().ok());
                self.shared.feeds.tell(volumes);
                revision
            }
            Update::Current(revision) => {
                state.told = state.told.max(revision);
                revision
            }
            Update::Away { since, error } => {
                state.freshness.away = Some((since, error.to_string()));
                return;
            }
        };
        state.freshness = Freshness {
            as_of: Some(now),
            away: None,
            from_disk: false,
        };
        self.revision
            .send_if_modified(|revision| std::mem::replace(revision, told) != told);
    }

    async fn save(&mut self) {
        let Some(path) = self.file.clone() else { return };
        let begin = Instant::now();
        let (lines, as_of) = {
            let state = self.shared.state.read_recursive();
            (
                state.contents.lines(),
                state.freshness.as_of.unwrap_or_else(SystemTime::now),
            )
        };
        let shown = path.display().to_string();
        match tokio::task::spawn_blocking(move || file::save(&path, &lines, as_of)).await {
            Ok(Ok(())) => self.unsaved = false,
            Ok(Err(error)) => tracing::warn!(file = shown, %error, "the catalogue cannot be saved"),
            Err(_) => {}
        }
        // In a storm of changes a large one takes long to write; most of the time must be left for other things.
        self.save_at = Instant::now() + SAVE_EVERY.max(begin.elapsed() * 20);
    }
}

#[cfg(test)]
mod tests;
