//! Writing, reading and flushing until something fails, or the time is over.
//!
//! It owns the file under test while it runs. Each event is one append to the log before (`s`, `f`) or after (`a`, `g`, `r`)
//! the deed. It must never write a block from two threads.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::block::{BLOCK, Content, Page, fill, read};
use super::history::History;

/// What to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Size of the file, in blocks.
    pub blocks: u64,
    /// Writers; each has blocks of its own.
    pub threads: u64,
    /// Pause between two operations of a writer.
    pub pause: Duration,
    /// How long; for ever if it is not set.
    pub length: Option<Duration>,
    /// For the choice of blocks.
    pub seed: u64,
}

/// What it did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Done {
    /// Acknowledged writes.
    pub writes: u64,
    /// Acknowledged flushes.
    pub flushes: u64,
    /// The longest that one operation took.
    pub longest: Duration,
}

struct Log(File);

impl Log {
    fn line(&self, line: &str) -> Result<()> {
        (&self.0)
            .write_all(format!("{line}\n").as_bytes())
            .context("cannot write the log")
    }
}

/// Reads every block and holds it against the log; notes what it read and what must not be. Returns how many violations there are.
pub fn check(file: &Path, log: &Path, blocks: u64) -> Result<u64> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let history = History::replay(&text);
    let log = open_log(log, &text)?;
    let device = open(file)?;
    let mut page = Page::new();
    let mut violations = 0;
    for number in 0..blocks {
        device
            .read_exact_at(&mut page.0, number * BLOCK as u64)
            .with_context(|| format!("cannot read block {number}"))?;
        let found = read(&page.0, number);
        match history.check(number, found) {
            Err(violation) => {
                log.line(&format!("v {violation}"))?;
                println!("VIOLATION: {violation}");
                violations += 1;
            }
            Ok(()) => {
                if let Content::Value(value) = found {
                    log.line(&format!("r {number} {value}"))?;
                }
            }
        }
    }
    println!(
        "checked {blocks} blocks, {} of them written and acknowledged: {violations} violations",
        history.kept()
    );
    Ok(violations)
}

/// Makes the file if there is none, holds it against the log, then writes, reads and flushes.
pub fn run(file: &Path, log: &Path, settings: &Settings) -> Result<Done> {
    if fs::metadata(file).map_or(0, |meta| meta.len()) != settings.blocks * BLOCK as u64 {
        let known = fs::read_to_string(log).unwrap_or_default();
        if known.contains("\ng ") {
            open_log(log, &known)?.line("v the file is gone, and the log tells of flushes")?;
            bail!("{} is gone, and its log tells of flushes", file.display());
        }
        blank(file, settings.blocks)?;
    }
    ensure!(
        check(file, log, settings.blocks)? == 0,
        "the file holds what it must not; see the log"
    );
    let text = fs::read_to_string(log)?;
    let history = History::replay(&text);
    let run = history.next_run();
    let shared = Shared {
        device: open(file)?,
        log: open_log(log, &text)?,
        flush: AtomicU64::new((run << 32) + 1),
        done: Mutex::default(),
        stop: AtomicBool::new(false),
        until: settings.length.map(|length| Instant::now() + length),
    };
    println!("running");
    let outcomes: Vec<Result<()>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..settings.threads)
            .map(|thread| {
                let shared = &shared;
                scope.spawn(move || {
                    let outcome = shared.writer(run, settings, thread);
                    shared.stop.store(true, Ordering::Relaxed);
                    outcome
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .collect()
    });
    let done = *shared.done.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "done: {} writes, {} flushes, the longest operation took {} ms",
        done.writes,
        done.flushes,
        done.longest.as_millis()
    );
    outcomes
        .into_iter()
        .collect::<Result<()>>()
        .inspect_err(|error| {
            let _ = shared.log.line(&format!("e {error:#}"));
        })?;
    Ok(done)
}

struct Shared {
    device: File,
    log: Log,
    flush: AtomicU64,
    done: Mutex<Done>,
    stop: AtomicBool,
    until: Option<Instant>,
}

impl Shared {
    fn writer(&self, run: u64, settings: &Settings, thread: u64) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(settings.seed ^ (thread << 48));
        let mut page = Page::new();
        let own = settings.blocks / settings.threads;
        let mut counter = run << 32;
        // What this run wrote itself is known exactly.
        let mut written: Vec<Option<u64>> = (0..own).map(|_| None).collect();
        while !self.stop.load(Ordering::Relaxed) && self.until.is_none_or(|until| Instant::now() < until) {
            let index = rng.random_range(0..written.len());
            let number = index as u64 * settings.threads + thread;
            let offset = number * BLOCK as u64;
            let begin = Instant::now();
            match rng.random_range(0..100) {
                0..20 => {
                    self.device
                        .read_exact_at(&mut page.0, offset)
                        .with_context(|| format!("reading block {number}"))?;
                    let found = read(&page.0, number);
                    if let Some(value) = written[index]
                        && found != Content::Value(value)
                    {
                        self.log.line(&format!(
                            "v block {number} was read as {found:?} and holds {value}"
                        ))?;
                    } else if let Content::Value(value) = found {
                        self.log.line(&format!("r {number} {value}"))?;
                    }
                }
                20..24 => {
                    let id = self.flush.fetch_add(1, Ordering::Relaxed);
                    self.log.line(&format!("f {id}"))?;
                    self.device.sync_data().context("flushing")?;
                    self.log.line(&format!("g {id}"))?;
                    self.note(|done| done.flushes += 1);
                }
                _ => {
                    counter += 1;
                    fill(&mut page.0, number, counter);
                    self.log.line(&format!("s {number} {counter}"))?;
                    self.device
                        .write_all_at(&page.0, offset)
                        .with_context(|| format!("writing block {number}"))?;
                    self.log.line(&format!("a {number} {counter}"))?;
                    written[index] = Some(counter);
                    self.note(|done| done.writes += 1);
                }
            }
            let took = begin.elapsed();
            self.note(|done| done.longest = done.longest.max(took));
            if took > Duration::from_secs(1) {
                println!("slow: {} ms", took.as_millis());
            }
            thread::sleep(settings.pause);
        }
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut Done)) {
        change(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Every block is written once, so that what follows changes data and nothing of the file system.
fn blank(file: &Path, blocks: u64) -> Result<()> {
    let device = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
    let zeroes = vec![0; BLOCK];
    for _ in 0..blocks {
        (&device).write_all(&zeroes)?;
    }
    device.sync_all().context("cannot sync the new file")?;
    File::open(file.parent().context("the file is in no folder")?)?.sync_all()?;
    Ok(())
}

fn open(file: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(file)
        .with_context(|| format!("cannot open {}", file.display()))
}

/// Opens the log for appending; a last line that was cut short is ended, so that it spoils no other.
fn open_log(path: &Path, text: &str) -> Result<Log> {
    let file = File::options()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if !text.is_empty() && !text.ends_with('\n') {
        io::Write::write_all(&mut &file, b" cut\n")?;
    }
    Ok(Log(file))
}
