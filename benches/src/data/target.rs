//! A directory that is measured, and who serves it. Owns the hosts on which that happens: when a target is dropped,
//! nothing of it is left on the machine.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bulkhead_lab::Host;

/// Where the directory is, on the target's host.
pub const MOUNT: &str = "/mnt/target";
/// Where a host's own part of the machine's disk is.
pub const DISK: &str = "/var/lib/bulkhead";

/// One of those that are compared.
pub trait Target {
    /// Its name in the tables: `bulkhead, 2 replicas`.
    fn name(&self) -> &str;

    /// The host on which the directory is mounted, and the workloads run.
    fn host(&self) -> &Arc<Host>;

    /// Names of the programs that serve it, on any of its hosts.
    fn programs(&self) -> &[&'static str];

    /// All hosts that have a part in it.
    fn hosts(&self) -> Vec<Arc<Host>> {
        vec![self.host().clone()]
    }

    /// Bytes of memory that each further volume takes while it is mounted and at rest; `None` if that says nothing.
    fn memory_per_volume(&self) -> Result<Option<f64>> {
        Ok(None)
    }
}

/// Sizes of what is made.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The file system that is measured, in GiB.
    pub volume: u32,
}

/// Writes enough metadata into a directory for its file system's journal to have been written all over: what is written for the
/// first time allocates space below, which a file system that is some days old does not do any more.
pub fn age(host: &Host, directory: &str) -> Result<()> {
    let line = format!(
        "mkdir {directory}/age; for turn in $(seq 150); do mkdir $(seq -f {directory}/age/$turn-%g 120); sync --file-system {directory}; done; \
         rm -rf {directory}/age; sync --file-system {directory}"
    );
    host.sh(&line).within(Duration::from_secs(120)).run().map(drop)
}

/// A file system in a file behind a loop device, mounted on a directory of a host. Both go with the host.
pub fn file_system(host: &Host, file: &str, gib: u32, directory: &str) -> Result<()> {
    // 4096-byte blocks, as Bulkhead's volumes have.
    let line = format!(
        "truncate -s {gib}G {file}; mkdir -p {directory}; device=$(losetup --find --show --sector-size 4096 {file}); \
         mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 $device; mount $device {directory}; losetup --detach $device"
    );
    host.sh(&line).run()?;
    age(host, directory)
}
