//! Threads for what may take long: syncs and checkpoint writes. Shared by all volumes of a node.
//!
//! Each volume has a lane with a bound of its own, and threads are added while jobs wait, so a volume on a disk that
//! hangs holds up no other. Never drops a job.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long a thread without work waits for some before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// Room for a volume's machines, which run on these threads, and no more: it may be locked into memory.
pub(super) const STACK: usize = 512 << 10;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Threads {
    tasks: VecDeque<Job>,
    idle: usize,
    alive: usize,
}

#[derive(Default)]
struct Shared {
    threads: Mutex<Threads>,
    work: Condvar,
}

/// The threads.
#[derive(Clone, Default)]
pub(super) struct Executor {
    shared: Arc<Shared>,
}

impl Executor {
    /// A queue of its own that keeps at most `limit` threads busy.
    pub(super) fn lane(&self, limit: usize) -> Lane {
        Lane {
            inner: Arc::new(LaneInner {
                executor: self.clone(),
                limit: limit.max(1),
                state: Mutex::default(),
            }),
        }
    }

    fn spawn(&self, task: Job) {
        let mut threads = self.shared.threads.lock();
        threads.tasks.push_back(task);
        if threads.idle >= threads.tasks.len() {
            self.shared.work.notify_one();
            return;
        }
        threads.alive += 1;
        drop(threads);
        let shared = self.shared.clone();
        let started = thread::Builder::new()
            .name("bulkhead-disk".into())
            .stack_size(STACK)
            .spawn(move || work(&shared));
        if let Err(error) = started {
            let mut threads = self.shared.threads.lock();
            threads.alive -= 1;
            if threads.alive > 0 {
                // One that is busy now takes it later.
                return;
            }
            tracing::error!(%error, "cannot start a thread for disk work; doing it on the caller's");
            if let Some(task) = threads.tasks.pop_front() {
                drop(threads);
                task();
            }
        }
    }
}

fn work(shared: &Shared) {
    let mut threads = shared.threads.lock();
    loop {
        if let Some(task) = threads.tasks.pop_front() {
            drop(threads);
            task();
            threads = shared.threads.lock();
            continue;
        }
        threads.idle += 1;
        let timed_out = shared.work.wait_for(&mut threads, IDLE).timed_out();
        threads.idle -= 1;
        if timed_out && threads.tasks.is_empty() {
            threads.alive -= 1;
            return;
        }
    }
}

#[derive(Default)]
struct LaneState {
    jobs: VecDeque<Job>,
    running: usize,
}

struct LaneInner {
    executor: Executor,
    limit: usize,
    state: Mutex<LaneState>,
}

/// One volume's share of the threads.
#[derive(Clone)]
pub(super) struct Lane {
    inner: Arc<LaneInner>,
}

impl Lane {
    /// Runs a job as soon as a thread of this lane is free; jobs start in the order in which they were given.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.inner.state.lock();
        state.jobs.push_back(Box::new(job));
        if state.running < self.inner.limit {
            state.running += 1;
            drop(state);
            let inner = self.inner.clone();
            self.inner.executor.spawn(Box::new(move || inner.drain()));
        }
    }
}

impl LaneInner {
    fn drain(&self) {
        loop {
            let job = {
                let mut state = self.state.lock();
                let Some(job) = state.jobs.pop_front() else {
                    state.running -= 1;
                    return;
                };
                job
            };
            // A panic is a bug of ours; it must not take the lane's thread, and with it every later sync, along.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a disk job panicked; its request fails by its deadline");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::Executor;

    #[test]
    fn a_lane_that_hangs_holds_up_no_other() {
        let executor = Executor::default();
        let (stuck, free) = (executor.lane(2), executor.lane(2));
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(parking_lot::Mutex::new(held));
        for _ in 0..10 {
            let held = held.clone();
            stuck.run(move || {
                let _ = held.lock().recv();
            });
        }
        let (done, seen) = mpsc::channel();
        for job in 0..100 {
            let done = done.clone();
            free.run(move || done.send(job).unwrap());
        }
        let mut jobs: Vec<i32> = (0..100)
            .map(|_| seen.recv_timeout(Duration::from_secs(10)).unwrap())
            .collect();
        jobs.sort_unstable();
        assert_eq!(jobs, (0..100).collect::<Vec<_>>());
        drop(release);
    }

    #[test]
    fn a_panic_costs_one_job_only() {
        let lane = Executor::default().lane(1);
        let ran = Arc::new(AtomicUsize::new(0));
        let (done, seen) = mpsc::channel();
        lane.run(|| panic!("deliberate"));
        let count = ran.clone();
        lane.run(move || {
            count.fetch_add(1, Ordering::SeqCst);
            done.send(()).unwrap();
        });
        seen.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    }
}
