//! Several nodes in one process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_engine::disk::{self, Caching, DiskError, ReplicaFiles};
use bulkhead_engine::format::ReplicaIdentity;
use bulkhead_engine::geometry::Geometry;
use bulkhead_engine::ids::{ClusterId, NodeId, ReplicaId, VolumeId};
use bulkhead_engine::link::LinkConfig;
use bulkhead_engine::machine::primary::EndReason;
use bulkhead_engine::node::{
    Links, Locate, Node, NodeConfig, OpenError, ReplicaSettings, Volume, VolumeConfig, VolumeEvent,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::faulty::Faults;
use crate::store::{Keeper, Store};
use crate::wire::Wire;

pub const CLUSTER: ClusterId = ClusterId::from_u128(1);
pub const SIZE: u64 = 32 << 20;
/// A wait that only a fault makes this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn node_id(index: usize) -> NodeId {
    NodeId::from_u128(100 + index as u128)
}

pub fn volume_id(number: u128) -> VolumeId {
    VolumeId::from_u128(1000 + number)
}

/// The replica of a volume on a node.
pub fn replica_id(volume: u128, index: usize) -> ReplicaId {
    ReplicaId::from_u128(10_000 * volume + index as u128)
}

pub fn identity(volume: u128, index: usize) -> ReplicaIdentity {
    ReplicaIdentity {
        cluster: CLUSTER,
        volume: volume_id(volume),
        replica: replica_id(volume, index),
    }
}

pub fn geometry() -> Geometry {
    Geometry::for_size(SIZE).unwrap()
}

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = soon();
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The disk of a node, which outlives its process; with faults for the replicas of each volume.
pub struct Disk {
    dir: PathBuf,
    pub data: Mutex<HashMap<VolumeId, Arc<Faults>>>,
    /// Replicas that are to be gone.
    pub declined: Mutex<Vec<ReplicaId>>,
}

impl Disk {
    pub fn dir_of(&self, volume: VolumeId) -> PathBuf {
        self.dir.join(volume.to_string())
    }

    pub fn faults(&self, volume: u128) -> Arc<Faults> {
        self.data.lock().entry(volume_id(volume)).or_default().clone()
    }
}

impl Locate for Disk {
    fn locate(&self, replica: &ReplicaIdentity) -> Result<PathBuf, String> {
        if self.declined.lock().contains(&replica.replica) {
            return Err("it is to be removed".to_owned());
        }
        Ok(self.dir_of(replica.volume))
    }

    fn open(
        &self,
        dir: &Path,
        replica: &ReplicaIdentity,
        caching: Caching,
    ) -> Result<ReplicaFiles, DiskError> {
        let files = disk::open(dir, replica, caching)?;
        let faults = self.data.lock().entry(replica.volume).or_default().clone();
        Ok(ReplicaFiles {
            data: faults.wrap(files.data),
            ..files
        })
    }
}

/// A machine of the cluster.
pub struct Host {
    pub index: usize,
    pub disk: Arc<Disk>,
    node: Mutex<Option<Arc<Node>>>,
    /// Where its node listens.
    address: Arc<Mutex<Option<SocketAddr>>>,
}

impl Host {
    pub fn node(&self) -> Arc<Node> {
        self.node.lock().clone().expect("the node runs")
    }

    pub fn data(&self, volume: u128) -> Vec<u8> {
        std::fs::read(self.disk.dir_of(volume_id(volume)).join(disk::DATA_FILE)).unwrap()
    }
}

/// All of it.
pub struct Cluster {
    pub hosts: Vec<Host>,
    /// From the first to the second.
    wires: Arc<HashMap<(usize, usize), Wire>>,
    _place: TempDir,
}

/// Deadlines that a test can wait for, and that a busy machine keeps.
pub fn link_config() -> LinkConfig {
    LinkConfig {
        connect_within: Duration::from_millis(500),
        handshake_within: Duration::from_millis(1500),
        ping_every: Duration::from_millis(200),
        silence: Duration::from_millis(1500),
        answer_within: Duration::from_millis(1500),
        stall: Duration::from_millis(1500),
        pause: (Duration::from_millis(20), Duration::from_millis(200)),
        ..LinkConfig::default()
    }
}

pub const LEASE: Duration = Duration::from_millis(1200);

impl Cluster {
    pub fn new(hosts: usize) -> Self {
        let place = TempDir::new().unwrap();
        let hosts: Vec<Host> = (0..hosts)
            .map(|index| {
                let dir = place.path().join(index.to_string());
                std::fs::create_dir(&dir).unwrap();
                Host {
                    index,
                    disk: Arc::new(Disk {
                        dir,
                        data: Mutex::default(),
                        declined: Mutex::default(),
                    }),
                    node: Mutex::default(),
                    address: Arc::default(),
                }
            })
            .collect();
        let mut wires = HashMap::new();
        for from in &hosts {
            for to in &hosts {
                if from.index != to.index {
                    wires.insert((from.index, to.index), Wire::to(to.address.clone()));
                }
            }
        }
        let cluster = Self {
            hosts,
            wires: Arc::new(wires),
            _place: place,
        };
        for index in 0..cluster.hosts.len() {
            cluster.start(index);
        }
        cluster
    }

    /// Starts the node of a host, as after a crash of the one before.
    pub fn start(&self, index: usize) {
        let host = &self.hosts[index];
        let wires = self.wires.clone();
        let addresses = move |to: NodeId| {
            let found = wires
                .iter()
                .find(|((from, at), _)| *from == index && node_id(*at) == to);
            found.map(|(_, wire)| wire.address()).into_iter().collect()
        };
        let config = NodeConfig {
            links: Some(Links {
                config: link_config(),
                ..Links::new(Arc::new(addresses))
            }),
            replicas: ReplicaSettings {
                checkpoint_interval: Duration::from_millis(200),
                region_idle: Duration::from_millis(400),
                lease: LEASE,
                linger: Duration::from_secs(3),
                ..ReplicaSettings::default()
            },
            ..NodeConfig::new(CLUSTER, node_id(index), host.disk.clone())
        };
        let node = Node::start(config).unwrap();
        let address = node.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        *host.address.lock() = Some(address);
        *host.node.lock() = Some(node);
    }

    /// The process of a host is gone: nobody listens, every session ends, nothing is closed in order.
    pub fn kill(&self, index: usize) {
        let host = &self.hosts[index];
        *host.address.lock() = None;
        let node = host.node.lock().take().expect("the node runs");
        assert!(node.stop(soon()));
    }

    pub fn node(&self, index: usize) -> Arc<Node> {
        self.hosts[index].node()
    }

    pub fn wire(&self, from: usize, to: usize) -> &Wire {
        &self.wires[&(from, to)]
    }

    /// Cuts a host off from all others, both ways.
    pub fn isolate(&self, index: usize) {
        for ((from, to), wire) in &*self.wires {
            if *from == index || *to == index {
                wire.cut();
            }
        }
    }

    pub fn mend_all(&self) {
        for wire in self.wires.values() {
            wire.mend();
        }
    }

    /// Makes a volume with replicas on these hosts.
    pub fn volume(&self, number: u128, on: &[usize]) -> Arc<Store> {
        for &index in on {
            self.make_replica(number, index);
        }
        let replicas: Vec<_> = on
            .iter()
            .map(|&index| (replica_id(number, index), node_id(index)))
            .collect();
        Store::new(&replicas)
    }

    pub fn make_replica(&self, number: u128, index: usize) {
        self.make_replica_as(number, index, index);
    }

    /// Makes a replica on a host in the place of the one there, under the number of another host.
    pub fn make_replica_as(&self, number: u128, index: usize, as_of: usize) {
        let dir = self.hosts[index].disk.dir_of(volume_id(number));
        disk::delete(&dir).unwrap();
        disk::create(&dir, identity(number, as_of), geometry()).unwrap();
    }

    pub fn config(&self, number: u128, index: usize, store: &Arc<Store>) -> VolumeConfig {
        let (record, revision) = store.attach(node_id(index));
        let keeper = Arc::new(Keeper(store.clone()));
        VolumeConfig {
            io_timeout: Duration::from_secs(20),
            member_deadline: Duration::from_secs(2),
            open_patience: Duration::from_secs(2),
            open_timeout: Duration::from_secs(15),
            isolation_timeout: Duration::from_secs(6),
            tick_interval: Duration::from_millis(100),
            retry: Duration::from_millis(100),
            ..VolumeConfig::new(volume_id(number), geometry(), record, revision, keeper)
        }
    }

    /// Attaches a volume on a host.
    pub fn open(&self, number: u128, index: usize, store: &Arc<Store>) -> Result<Arc<Volume>, OpenError> {
        Volume::open(&self.node(index), self.config(number, index, store))
    }

    /// The same, with what happens to it and how it ends.
    pub fn open_heard(
        &self,
        number: u128,
        index: usize,
        store: &Arc<Store>,
        change: impl FnOnce(&mut VolumeConfig),
    ) -> (
        Arc<Volume>,
        mpsc::Receiver<VolumeEvent>,
        mpsc::Receiver<EndReason>,
    ) {
        let (events, heard) = mpsc::channel();
        let (ends, ended) = mpsc::channel();
        let mut config = VolumeConfig {
            on_event: Some(Box::new(move |_, event| drop(events.send(event.clone())))),
            on_ended: Some(Box::new(move |_, reason| {
                let _ = ends.send(reason);
            })),
            ..self.config(number, index, store)
        };
        change(&mut config);
        let volume = Volume::open(&self.node(index), config).unwrap();
        (volume, heard, ended)
    }

    /// Panics unless the files of the replicas on these hosts are the same byte for byte.
    pub fn assert_identical(&self, number: u128, on: &[usize]) {
        let first = self.hosts[on[0]].data(number);
        for &index in &on[1..] {
            let other = self.hosts[index].data(number);
            if let Some(at) = (0..first.len()).find(|&at| first[at] != other[at]) {
                panic!(
                    "hosts {} and {index} differ from byte {at} on: {} and {}",
                    on[0], first[at], other[at]
                );
            }
        }
    }
}
