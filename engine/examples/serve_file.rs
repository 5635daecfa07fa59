//! Serves a plain file as a volume's block device until its input is closed: for measuring the way through FUSE and
//! loop device by itself (benches/host.sh).
//!
//! `serve_file DIR FILE SIZE_MIB [direct] [threads N]`; prints the device.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_engine::host::{AttachOptions, Attachment, HostDirs};
use bulkhead_engine::ids::VolumeId;
use bulkhead_engine::io::{AlignedBuf, BlockDevice, BlockOp, Completion, Data, IoError};
use nix::fcntl::{FallocateFlags, fallocate};

struct PlainFile {
    file: File,
    size: u64,
}

impl PlainFile {
    fn run(&self, op: BlockOp) -> std::io::Result<Option<Data>> {
        match op {
            BlockOp::Read(range) => {
                let mut buf = AlignedBuf::zeroed(range.len as usize);
                self.file.read_exact_at(&mut buf, range.offset)?;
                return Ok(Some(Data::whole(buf)));
            }
            BlockOp::Write { offset, data } => self.file.write_all_at(&data, offset)?,
            BlockOp::Flush => self.file.sync_data()?,
            BlockOp::Zero(range) => {
                let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&self.file, how, range.offset as i64, range.len as i64)?;
            }
        }
        Ok(None)
    }
}

impl BlockDevice for PlainFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn submit(&self, op: BlockOp, done: Completion) {
        done(self.run(op).map_err(|_| IoError::Io));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, file, size, rest @ ..] = &args[..] else {
        return Err("serve_file DIR FILE SIZE_MIB [direct] [threads N]".into());
    };
    let size = size.parse::<u64>()? << 20;
    let direct = if rest.iter().any(|word| word == "direct") {
        libc::O_DIRECT
    } else {
        0
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(direct)
        .open(file)?;
    file.set_len(size)?;
    let mut options = AttachOptions::default();
    if let Some(at) = rest.iter().position(|word| word == "threads") {
        options.fuse.threads = rest.get(at + 1).ok_or("how many threads?")?.parse()?;
    }
    let dirs = HostDirs {
        run: Path::new(dir).join("run"),
        mounts: Path::new(dir).join("mnt"),
    };
    let volume = VolumeId::from(uuid::Uuid::new_v4());
    let attachment = Attachment::attach(&dirs, volume, Arc::new(PlainFile { file, size }), options)?;
    println!("{}", attachment.device().display());
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let report = attachment.detach(Duration::from_secs(10));
    if !report.is_clean() {
        return Err(format!("{report:?}").into());
    }
    Ok(())
}
