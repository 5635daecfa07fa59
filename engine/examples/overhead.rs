//! What the volume costs on top of its file: the same requests on a plain file and on a volume over one, in turn, on the
//! same file system. Only the ratio means something: it says what the permit, the two machines and the range lock cost.
//!
//! `cargo run --release -p bulkhead-engine --example overhead -- [DIRECTORY] [direct] [only=PART OF A NAME]`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_engine::disk::{self, BlockFile, Caching, OsFile};
use bulkhead_engine::geometry::{ByteRange, Geometry};
use bulkhead_engine::ids::Epoch;
use bulkhead_engine::io::{AlignedBuf, BlockDevice, BlockOp, Data, IoError};
use bulkhead_engine::node::{Node, ReplicaSettings, Volume};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

#[path = "../tests/support/alone.rs"]
#[allow(dead_code, unreachable_pub)]
mod alone;

const SIZE: u64 = 256 << 20;
const TURN: Duration = Duration::from_millis(400);
const TURNS: usize = 5;

/// A plain file as a block device: what everything else is compared with.
struct PlainFile(OsFile);

impl BlockDevice for PlainFile {
    fn size(&self) -> u64 {
        SIZE
    }

    fn submit(&self, op: BlockOp, done: bulkhead_engine::io::Completion) {
        let result = match op {
            BlockOp::Read(range) => {
                let mut buf = AlignedBuf::zeroed(range.len as usize);
                self.0
                    .read_at(&mut buf, range.offset)
                    .map(|()| Some(Data::whole(buf)))
            }
            BlockOp::Write { offset, data } => self.0.write_at(&data, offset).map(|()| None),
            BlockOp::Zero(range) => self.0.zero(range).map(|()| None),
            BlockOp::Flush => self.0.sync().map(|()| None),
        };
        done(result.map_err(|_| IoError::Io));
    }
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    write: bool,
    len: u64,
    threads: u64,
    /// Requests in flight from each thread.
    depth: usize,
    /// A flush after every write.
    flush: bool,
    /// The page cache is emptied first.
    cold: bool,
}

const fn case(name: &'static str, write: bool, len: u64, threads: u64) -> Case {
    Case {
        name,
        write,
        len,
        threads,
        depth: 1,
        flush: false,
        cold: false,
    }
}

const CASES: &[Case] = &[
    case("write 4 KiB, 1 thread", true, 4096, 1),
    case("write 4 KiB, 4 threads", true, 4096, 4),
    case("read 4 KiB, 1 thread", false, 4096, 1),
    case("read 4 KiB, 4 threads", false, 4096, 4),
    case("write 1 MiB, 1 thread", true, 1 << 20, 1),
    case("read 1 MiB, 1 thread", false, 1 << 20, 1),
    Case {
        cold: true,
        ..case("cold read 4 KiB, 1 thread", false, 4096, 1)
    },
    Case {
        cold: true,
        depth: 16,
        ..case("cold read 4 KiB, 2 threads of 16", false, 4096, 2)
    },
    Case {
        flush: true,
        ..case("write 4 KiB + flush, 1 thread", true, 4096, 1)
    },
    Case {
        flush: true,
        ..case("write 4 KiB + flush, 4 threads", true, 4096, 4)
    },
];

/// Operations in one turn.
fn turn(device: &dyn BlockDevice, file: &Path, case: Case) -> u64 {
    if case.cold {
        submit(device, BlockOp::Flush);
        let file = std::fs::File::open(file).unwrap();
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }
    let done = AtomicU64::new(0);
    let until = Instant::now() + TURN;
    std::thread::scope(|scope| {
        for thread in 0..case.threads {
            let done = &done;
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(thread);
                let data = Data::copy_of(&vec![7; case.len as usize]);
                let window = Window::default();
                let mut count = 0;
                while Instant::now() < until {
                    let offset = rng.random_range(0..SIZE / case.len) * case.len;
                    let op = if case.write {
                        BlockOp::Write {
                            offset,
                            data: data.clone(),
                        }
                    } else {
                        BlockOp::Read(ByteRange::new(offset, case.len))
                    };
                    window.submit(device, op, case.depth);
                    count += 1;
                    if case.flush {
                        window.submit(device, BlockOp::Flush, case.depth);
                    }
                }
                window.wait_below(1);
                done.fetch_add(count, Ordering::Relaxed);
            });
        }
    });
    done.into_inner()
}

/// One thread's requests in flight. As a front end's thread, it takes no hop if a completion comes at once.
struct Window {
    thread: std::thread::Thread,
    in_flight: Arc<AtomicU64>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            thread: std::thread::current(),
            in_flight: Arc::default(),
        }
    }
}

impl Window {
    fn submit(&self, device: &dyn BlockDevice, op: BlockOp, depth: usize) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let (thread, in_flight) = (self.thread.clone(), self.in_flight.clone());
        device.submit(
            op,
            Box::new(move |result| {
                assert!(result.is_ok(), "a request failed");
                in_flight.fetch_sub(1, Ordering::Release);
                thread.unpark();
            }),
        );
        self.wait_below(depth as u64);
    }

    fn wait_below(&self, depth: u64) {
        while self.in_flight.load(Ordering::Acquire) >= depth {
            std::thread::park();
        }
    }
}

fn submit(device: &dyn BlockDevice, op: BlockOp) {
    Window::default().submit(device, op, 1);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parent = arguments.first().map_or_else(std::env::temp_dir, Into::into);
    let caching = if arguments.iter().any(|argument| argument == "direct") {
        Caching::Direct
    } else {
        Caching::PageCache
    };
    let place = tempfile::tempdir_in(parent).unwrap();
    let plain_path = place.path().join("plain");
    std::fs::File::create(&plain_path).unwrap().set_len(SIZE).unwrap();
    let plain = PlainFile(OsFile::open(&plain_path, caching).unwrap());
    let volume_path = place.path().join("volume").join(disk::DATA_FILE);
    let volume = open_volume(place.path(), caching);
    println!("direct I/O: {}", plain.0.is_direct());
    for offset in (0..SIZE).step_by(1 << 20) {
        let data = Data::copy_of(&vec![1; 1 << 20]);
        submit(
            &plain,
            BlockOp::Write {
                offset,
                data: data.clone(),
            },
        );
        submit(volume.as_ref(), BlockOp::Write { offset, data });
    }
    submit(&plain, BlockOp::Flush);
    submit(volume.as_ref(), BlockOp::Flush);

    println!(
        "{:34} {:>12} {:>12} {:>8} {:>12}",
        "", "file, op/s", "volume, op/s", "ratio", "more, µs"
    );
    let only = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("only="));
    for &case in CASES
        .iter()
        .filter(|case| only.is_none_or(|only| case.name.contains(only)))
    {
        // In turn, and the median of each: a noisy neighbour hits both.
        let mut counts: [Vec<u64>; 2] = Default::default();
        for _ in 0..TURNS {
            counts[0].push(turn(&plain, &plain_path, case));
            counts[1].push(turn(volume.as_ref(), &volume_path, case));
        }
        let [file, ours] = counts.map(|mut counts| {
            counts.sort_unstable();
            counts[TURNS / 2] as f64 / TURN.as_secs_f64()
        });
        let per_op = |rate: f64| 1e6 * (case.threads * case.depth as u64) as f64 / rate;
        println!(
            "{:34} {file:12.0} {ours:12.0} {:8.2} {:10.2}",
            case.name,
            ours / file,
            per_op(ours) - per_op(file)
        );
    }
    volume.close(Instant::now() + Duration::from_secs(20)).unwrap();
}

fn open_volume(parent: &Path, caching: Caching) -> Arc<Volume> {
    let dir = parent.join("volume");
    let geometry = Geometry::for_size(SIZE).unwrap();
    disk::create(&dir, alone::identity(), geometry).unwrap();
    let replicas = ReplicaSettings {
        caching,
        ..ReplicaSettings::default()
    };
    let node = Node::start(alone::node_config(&alone::Place::at(&dir), replicas)).unwrap();
    Volume::open(&node, alone::volume_config(geometry, Epoch(1))).unwrap()
}
