//! Bulkhead: a volume with one replica on a node by itself, or with several on the hosts of a lab, each in its own namespaces
//! with a network between them. It is made and mounted as dockerd would do it, through the driver's socket.

use std::sync::Arc;

use anyhow::{Context, Result};
use bulkhead_lab::driver::Driver;
use bulkhead_lab::store::StoreKind;
use bulkhead_lab::{Bulkhead, Host, Lab, node};

use super::cost;
use super::target::{MOUNT, Sizes, Target, age};

/// The volume that is measured.
const VOLUME: &str = "target";
/// Who uses it, to the driver.
const USER: &str = "bench";
/// Further volumes that are mounted to see what memory they take.
const IDLE: u32 = 10;
/// Their size: all of them fit beside the one that is measured.
const IDLE_SIZE: &str = "256M";

/// A volume.
pub struct Replicated {
    name: String,
    replicas: u32,
    driver: Driver,
    host: Arc<Host>,
    /// Ends before its hosts do.
    nodes: Nodes,
}

/// What it runs on.
enum Nodes {
    Alone { _daemon: Bulkhead },
    Cluster(Lab),
}

/// What the tables call it.
pub fn name(replicas: u8) -> String {
    format!(
        "Bulkhead, {replicas} replica{}",
        if replicas == 1 { "" } else { "s" }
    )
}

impl Replicated {
    /// A volume with so many replicas, each on a node of its own, in a file on the machine's disk as the plain loop device's is.
    /// One replica needs no cluster.
    pub fn start(replicas: u8, sizes: Sizes) -> Result<Self> {
        let (host, nodes) = if replicas == 1 {
            let host = Host::start("bench-bulkhead")?;
            let daemon = Bulkhead::start(&host)?;
            daemon.add_directory_pool(node::POOL_DIRECTORY)?;
            (host, Nodes::Alone { _daemon: daemon })
        } else {
            let lab = Lab::new(replicas)
                .label("bench-bulkhead")
                .store(StoreKind::Etcd)
                .directory_pools()
                .start()?;
            (lab.host(0).clone(), Nodes::Cluster(lab))
        };
        let target = Self {
            name: name(replicas),
            replicas: u32::from(replicas),
            driver: Driver::of(&host),
            host,
            nodes,
        };
        let at = target.mount(VOLUME, &format!("{}G", sizes.volume))?;
        target
            .host
            .sh(&format!("mkdir -p {MOUNT}; mount --bind {at} {MOUNT}"))
            .run()?;
        age(&target.host, MOUNT)?;
        Ok(target)
    }

    fn mount(&self, volume: &str, size: &str) -> Result<String> {
        let replicas = self.replicas.to_string();
        self.driver
            .create(volume, &[("size", size), ("repl", &replicas)])
            .with_context(|| self.name.clone())?;
        self.driver.mount(volume, USER)
    }
}

impl Target for Replicated {
    fn name(&self) -> &str {
        &self.name
    }

    fn host(&self) -> &Arc<Host> {
        &self.host
    }

    fn hosts(&self) -> Vec<Arc<Host>> {
        match &self.nodes {
            Nodes::Alone { .. } => vec![self.host.clone()],
            Nodes::Cluster(lab) => (0..lab.members.len())
                .map(|index| lab.host(index).clone())
                .collect(),
        }
    }

    fn programs(&self) -> &[&'static str] {
        &["bulkhead"]
    }

    fn memory_per_volume(&self) -> Result<Option<f64>> {
        let name = |number: u32| format!("idle-{number}");
        let before = cost::memory(self)?;
        for number in 0..IDLE {
            self.mount(&name(number), IDLE_SIZE)?;
        }
        let grown = cost::memory(self)?.saturating_sub(before);
        for number in 0..IDLE {
            self.driver.unmount(&name(number), USER)?;
            self.driver.remove(&name(number))?;
        }
        Ok(Some(grown as f64 / f64::from(IDLE)))
    }
}

impl Drop for Replicated {
    fn drop(&mut self) {
        // As a user would leave it; what does not end goes with the host.
        let _ = self.host.cmd("umount").arg(MOUNT).run();
        let _ = self.driver.unmount(VOLUME, USER);
    }
}
