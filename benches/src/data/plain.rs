//! A plain loop device over a plain file: the limit that nothing which goes through a loop device can pass.

use std::sync::Arc;

use anyhow::Result;
use bulkhead_lab::Host;

use super::target::{DISK, MOUNT, Sizes, Target, file_system};

/// ext4 on a loop device.
pub struct Plain {
    host: Arc<Host>,
}

impl Plain {
    /// Makes it.
    pub fn start(sizes: Sizes) -> Result<Self> {
        let host = Host::start("bench-plain")?;
        file_system(&host, &format!("{DISK}/plain.img"), sizes.volume, MOUNT)?;
        Ok(Self { host })
    }
}

impl Target for Plain {
    fn name(&self) -> &'static str {
        "plain loop"
    }

    fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn programs(&self) -> &[&'static str] {
        &[]
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // The host takes the mount with it in any case; this lets the loop device go at once.
        let _ = self.host.cmd("umount").arg(MOUNT).run();
    }
}
