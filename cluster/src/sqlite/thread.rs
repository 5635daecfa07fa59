//! The thread that owns the SQLite connection: takes steps one after the other, ends leases in between, and tells
//! watches of new revisions. A step that was not begun before its deadline is never begun.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use tokio::sync::{oneshot, watch};

use super::db::{Db, Fault};
use super::watch::Log;
use crate::store::{Access, StoreError};

/// Steps that may wait: more than that, and the disk is so slow that waiting helps nobody.
const QUEUE: usize = 1024;
/// How long the thread sleeps at most; it wakes by a step or a lease's end before.
const IDLE: Duration = Duration::from_secs(3600);

type Step = Box<dyn FnOnce(&mut Db) + Send>;

/// Hands steps to the thread. The thread ends, and the file is free, when the last clone is gone.
#[derive(Clone)]
pub(super) struct Worker {
    steps: SyncSender<Step>,
    deadline: Duration,
    name: Arc<str>,
    access: Arc<Access>,
}

impl Worker {
    pub(super) async fn start(
        path: &Path,
        deadline: Duration,
        access: Arc<Access>,
    ) -> Result<(Self, Log), StoreError> {
        let (steps, inbox) = sync_channel::<Step>(QUEUE);
        let (ready, opened) = oneshot::channel();
        let path = path.to_owned();
        let name: Arc<str> = format!("sqlite {}", path.display()).into();
        let failed = |reason: String| StoreError::Failed {
            store: name.to_string(),
            reason,
        };
        thread::Builder::new()
            .name("bulkhead-store".to_owned())
            .spawn(move || match Db::open(&path) {
                Ok(mut db) => {
                    let (news, receiver) = watch::channel(db.revision);
                    if ready.send(Ok(receiver)).is_ok() {
                        run(&mut db, &inbox, &news);
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            })
            .map_err(|error| failed(format!("its thread cannot be started: {error}")))?;
        let news = opened
            .await
            .map_err(|_| failed("its thread died at the start".to_owned()))??;
        let worker = Self {
            steps,
            deadline,
            name,
            access,
        };
        Ok((worker, Log::new(news)))
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// A step that changes nothing on disk: not answered in time means that it does not matter.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        call: &'static str,
        step: impl FnOnce(&mut Db) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self.run(step).await {
            Ok(answer) => answer.map_err(|fault| self.refusal(fault)),
            Err(Lost::NotBegun(reason)) => Err(self.failed(&reason)),
            Err(Lost::NoAnswer) => Err(StoreError::Timeout {
                store: self.name.to_string(),
                call,
                within: self.deadline,
                since: self.access.failed("no answer in time"),
            }),
        }
    }

    /// A step that changes something: a lost answer leaves its outcome unknown.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        call: &'static str,
        step: impl FnOnce(&mut Db) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reason = match self.run(step).await {
            Ok(Err(Fault::Sql(error))) if undecided(&error) => error.to_string(),
            Ok(answer) => return answer.map_err(|fault| self.refusal(fault)),
            Err(Lost::NotBegun(reason)) => return Err(self.failed(&reason)),
            Err(Lost::NoAnswer) => format!("no answer to a {call} within {:?}", self.deadline),
        };
        self.access.failed(&reason);
        Err(StoreError::OutcomeUnknown {
            store: self.name.to_string(),
            reason,
        })
    }

    /// Runs a step on the thread, unless its time is over before it is begun.
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut Db) -> Result<T, Fault> + Send + 'static,
    ) -> Result<Result<T, Fault>, Lost> {
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + self.deadline;
        let step: Step = Box::new(move |db| {
            if Instant::now() < until && !answer.is_closed() {
                // The caller may have gone away meanwhile; nobody waits for that answer then.
                let _ = answer.send(db.guarded(step));
            }
        });
        self.steps.try_send(step).map_err(|error| {
            Lost::NotBegun(match error {
                TrySendError::Full(_) => "too many requests wait for its disk".to_owned(),
                TrySendError::Disconnected(_) => "its thread has ended; restart the daemon".to_owned(),
            })
        })?;
        let answer = tokio::time::timeout_at(until.into(), answered)
            .await
            .map_err(|_| Lost::NoAnswer)?
            .map_err(|_| Lost::NoAnswer)?;
        if matches!(answer, Ok(_) | Err(Fault::Refused(_))) {
            self.access.answered();
        }
        Ok(answer)
    }

    fn refusal(&self, fault: Fault) -> StoreError {
        match fault {
            Fault::Refused(error) => error,
            Fault::Sql(error) => self.failed(&error.to_string()),
            Fault::Broken(reason) => self.failed(&reason),
        }
    }

    fn failed(&self, reason: &str) -> StoreError {
        self.access.failed(reason);
        StoreError::Failed {
            store: self.name.to_string(),
            reason: reason.to_owned(),
        }
    }
}

/// Why a step gave no answer.
enum Lost {
    /// It was never begun.
    NotBegun(String),
    /// It may have been done.
    NoAnswer,
}

/// Whether SQLite itself cannot say if a commit is on disk.
pub(super) fn undecided(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt)
    )
}

fn run(db: &mut Db, inbox: &Receiver<Step>, news: &watch::Sender<u64>) {
    loop {
        let now = Instant::now();
        let sleep = db
            .next_expiry()
            .map_or(IDLE, |at| at.saturating_duration_since(now).min(IDLE));
        match inbox.recv_timeout(sleep) {
            Ok(step) => step(db),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if db.next_expiry().is_some_and(|at| at <= Instant::now())
            && let Err(fault) = db.guarded(Db::expire)
        {
            tracing::warn!(?fault, "the store could not end a lease; trying again");
            thread::sleep(Duration::from_millis(200)); // the lease stays over: this must not spin
        }
        news.send_if_modified(|revision| std::mem::replace(revision, db.revision) != db.revision);
    }
}
