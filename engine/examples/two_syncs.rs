//! What two copies on one disk cost at the least: 4 KiB written and synced to one file, and to two files at the same time by two
//! threads that start together and wait for each other, without any network or daemon. The ratio bounds write + fsync on two replicas.
//!
//! `cargo run --release -p bulkhead-engine --example two_syncs -- [DIRECTORY]`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SIZE: u64 = 512 << 20;
const BLOCK: u64 = 4096;
const TURN: Duration = Duration::from_secs(2);
const TURNS: usize = 5;
const OVER: u64 = u64::MAX;

fn main() {
    let parent = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let place = tempfile::tempdir_in(parent).unwrap();
    let files = ["one", "two"].map(|name| filled(&place.path().join(name)).unwrap());
    let mut ratios = Vec::new();
    for _ in 0..TURNS {
        let (one, two) = (alone(&files[0]), together(&files));
        println!(
            "one file {one:6.0}/s, two at the same time {two:6.0}/s: {:.2}",
            two / one
        );
        ratios.push(two / one);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median {:.2}", ratios[TURNS / 2]);
}

/// Without holes, so that no write allocates.
fn filled(path: &Path) -> io::Result<File> {
    let file = File::create_new(path)?;
    for offset in (0..SIZE).step_by(1 << 20) {
        file.write_all_at(&[1; 1 << 20], offset)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn write_and_sync(file: &File, rng: &mut SmallRng) {
    let offset = rng.random_range(0..SIZE / BLOCK) * BLOCK;
    file.write_all_at(&[2; BLOCK as usize], offset).unwrap();
    file.sync_data().unwrap();
}

fn alone(file: &File) -> f64 {
    let mut rng = SmallRng::seed_from_u64(1);
    rate(|_| write_and_sync(file, &mut rng))
}

fn together([one, two]: &[File; 2]) -> f64 {
    let (asked, done) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = SmallRng::seed_from_u64(2);
            let mut count = 0;
            loop {
                match asked.load(Ordering::Acquire) {
                    OVER => break,
                    asked if asked == count => thread::yield_now(),
                    _ => {
                        write_and_sync(two, &mut rng);
                        count += 1;
                        done.store(count, Ordering::Release);
                    }
                }
            }
        });
        let mut rng = SmallRng::seed_from_u64(1);
        let rate = rate(|count| {
            asked.store(count, Ordering::Release);
            write_and_sync(one, &mut rng);
            while done.load(Ordering::Acquire) != count {
                thread::yield_now();
            }
        });
        asked.store(OVER, Ordering::Release);
        rate
    })
}

/// How often a second; told how many there were with this one.
fn rate(mut once: impl FnMut(u64)) -> f64 {
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < TURN {
        count += 1;
        once(count);
    }
    count as f64 / begun.elapsed().as_secs_f64()
}
