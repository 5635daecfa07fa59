//! GlusterFS: Debian's packages on one host, so that what goes between its bricks goes over loopback, with each brick in an
//! ext4 of its own. Its defaults, but for the warning about replica 2, which has to be answered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bulkhead_lab::{Cmd, Host, Service, wait};

use super::target::{DISK, MOUNT, Sizes, Target, file_system};

/// It takes no loopback address for a brick.
const ADDRESS: &str = "10.98.0.1";

/// A replicated volume.
pub struct Gluster {
    name: String,
    replicas: usize,
    _glusterd: Service,
    host: Arc<Host>,
}

impl Gluster {
    /// Makes one with so many replicas.
    pub fn start(replicas: usize, sizes: Sizes) -> Result<Self> {
        let host = Host::start("bench-gluster")?;
        host.sh(&format!(
            "ip address add {ADDRESS}/32 dev lo; rm -rf /var/lib/glusterd/*; mkdir -p /var/log/glusterfs /var/run/gluster {MOUNT}"
        ))
        .run()?;
        for number in 0..replicas {
            let file = format!("{DISK}/brick-{number}.img");
            file_system(&host, &file, sizes.volume, &format!("/bricks/{number}"))?;
        }
        let glusterd = host.spawn("glusterd", Cmd::new("glusterd").arg("--no-daemon"))?;
        let gluster = |line: &str| {
            host.cmd("gluster")
                .arg("--mode=script")
                .words(line)
                .within(Duration::from_secs(120))
                .run()
                .with_context(|| format!("gluster {line}"))
        };
        wait::retry("glusterd answers", Duration::from_secs(60), || {
            gluster("pool list").map(drop)
        })?;
        let bricks: Vec<String> = (0..replicas)
            .map(|number| format!("{ADDRESS}:/bricks/{number}/data"))
            .collect();
        gluster(&format!(
            "volume create target replica {replicas} {} force",
            bricks.join(" ")
        ))?;
        gluster("volume start target")?;
        host.cmd("mount")
            .args(["-t", "glusterfs", &format!("{ADDRESS}:/target"), MOUNT])
            .run()?;
        Ok(Self {
            name: format!("GlusterFS, replica {replicas}"),
            replicas,
            _glusterd: glusterd,
            host,
        })
    }
}

impl Target for Gluster {
    fn name(&self) -> &str {
        &self.name
    }

    fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn programs(&self) -> &[&'static str] {
        &["glusterd", "glusterfsd", "glusterfs"]
    }
}

impl Drop for Gluster {
    fn drop(&mut self) {
        // In order, so that the bricks' loop devices go; what does not end goes with the host.
        let _ = self.host.cmd("umount").arg(MOUNT).run();
        let _ = self
            .host
            .cmd("gluster")
            .args(["--mode=script", "volume", "stop", "target", "force"])
            .run();
        for number in 0..self.replicas {
            let _ = self.host.cmd("umount").arg(format!("/bricks/{number}")).run();
        }
    }
}
