//! What is written to a volume, and what it has to hold then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_engine::geometry::ByteRange;
use bulkhead_engine::io::{BlockDevice, BlockOp, Data, IoError};
use bulkhead_engine::node::Volume;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::cluster::SIZE;

pub const PAGE: u64 = 4096;
const PAGES: u64 = SIZE / PAGE;

pub fn submit(volume: &Volume, op: BlockOp) -> Result<Option<Data>, IoError> {
    let (sender, done) = mpsc::channel();
    volume.submit(op, Box::new(move |result| drop(sender.send(result))));
    done.recv_timeout(Duration::from_secs(90))
        .expect("every request is answered in bounded time")
}

pub fn write(volume: &Volume, page: u64, value: u64) -> Result<(), IoError> {
    let data = Data::copy_of(&value.to_le_bytes().repeat(PAGE as usize / 8));
    let offset = page * PAGE;
    submit(volume, BlockOp::Write { offset, data }).map(drop)
}

pub fn read(volume: &Volume, page: u64) -> Result<u64, IoError> {
    let data = submit(volume, BlockOp::Read(ByteRange::new(page * PAGE, PAGE)))?.unwrap();
    let value = u64::from_le_bytes(data[..8].try_into().unwrap());
    assert!(
        data.chunks_exact(8).all(|word| word == value.to_le_bytes()),
        "page {page} is torn"
    );
    Ok(value)
}

/// What one page may hold: the last value that was acknowledged, up to the newest one submitted.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    acked: u64,
    submitted: u64,
}

/// Threads that write to pages of their own until they are stopped or an operation fails.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub acked: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<(Vec<Window>, Option<IoError>)>>,
}

/// What a load has left: what every page has to hold.
pub struct Written {
    windows: Vec<Vec<Window>>,
    pub failed: bool,
}

impl Load {
    /// Writes at random, with a pause after each write.
    pub fn start(volume: &Arc<Volume>, threads: u64, base: u64, pause: Duration) -> Self {
        let (stop, acked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let run = |thread: u64| {
            let (volume, stop, acked) = (volume.clone(), stop.clone(), acked.clone());
            thread::spawn(move || {
                let mut rng = SmallRng::seed_from_u64(base + thread);
                let mut windows = vec![Window::default(); (PAGES / threads) as usize];
                let mut value = base;
                while !stop.load(Ordering::SeqCst) {
                    value += 1;
                    let outcome = match rng.random_range(0..100) {
                        0..5 => submit(&volume, BlockOp::Flush).map(drop),
                        kind => {
                            let at = rng.random_range(0..windows.len());
                            let page = at as u64 * threads + thread;
                            if kind < 15 {
                                let (window, found) = (windows[at], read(&volume, page));
                                // What was there before is not this load's.
                                if let (Ok(found), true) = (found, window.submitted > 0) {
                                    assert!(
                                        found >= window.acked && found <= window.submitted,
                                        "page {page} holds {found}, {window:?}"
                                    );
                                }
                                found.map(drop)
                            } else {
                                windows[at].submitted = value;
                                let done = write(&volume, page, value);
                                if done.is_ok() {
                                    windows[at].acked = value;
                                    acked.fetch_add(1, Ordering::SeqCst);
                                }
                                done
                            }
                        }
                    };
                    if let Err(error) = outcome {
                        return (windows, Some(error));
                    }
                    if !pause.is_zero() {
                        thread::sleep(pause);
                    }
                }
                (windows, None)
            })
        };
        let threads = (0..threads).map(run).collect();
        Self { stop, acked, threads }
    }

    /// Waits until so many more writes have been acknowledged.
    pub fn wait_for(&self, more: u64) {
        let goal = self.acked.load(Ordering::SeqCst) + more;
        crate::cluster::wait_until("writes are acknowledged", || {
            self.acked.load(Ordering::SeqCst) >= goal
        });
    }

    pub fn stop(self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        self.join()
    }

    /// Waits until every thread has failed, or was stopped.
    pub fn join(self) -> Written {
        let (mut windows, mut failed) = (Vec::new(), false);
        for thread in self.threads {
            let (written, error) = thread.join().unwrap();
            windows.push(written);
            failed |= error.is_some();
        }
        Written { windows, failed }
    }
}

impl Written {
    /// Panics unless every page holds a value that it may.
    pub fn check(&self, volume: &Volume) {
        let threads = self.windows.len() as u64;
        for (thread, windows) in self.windows.iter().enumerate() {
            for (at, window) in windows.iter().enumerate() {
                if window.submitted == 0 {
                    continue;
                }
                let page = at as u64 * threads + thread as u64;
                let found = read(volume, page).unwrap();
                assert!(
                    found >= window.acked && found <= window.submitted,
                    "page {page} holds {found}, {window:?}"
                );
            }
        }
    }
}

/// Runs it, and says how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}
