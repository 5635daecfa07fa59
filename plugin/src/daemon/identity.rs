//! Who this node is: an identity made once and kept on its disk, the cluster that it belongs to, and the runs of its
//! daemon. What is said to others in its name is on the disk first.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bulkhead_engine::ids::{ClusterId, Incarnation, NodeId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The file with the identity.
const FILE: &str = "node.json";
/// The most runs that are remembered: as many can have begun without one of them being heard of.
const MAX_RUNS: usize = 64;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    node: NodeId,
    /// The cluster that it has joined.
    #[serde(default)]
    cluster: Option<ClusterId>,
    /// That cluster's name.
    #[serde(default)]
    cluster_name: String,
    /// Runs of the daemon whose signs of life may still lie in the store, oldest first; the last one is this one.
    #[serde(default)]
    runs: Vec<Incarnation>,
}

/// The identity of this node.
#[derive(Debug)]
pub(super) struct Identity {
    path: PathBuf,
    kept: Kept,
    run: Incarnation,
}

impl Identity {
    /// Reads it, or makes it if there is none, and begins a new run.
    pub(super) fn open(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        let mut kept = read(&path)?.unwrap_or_else(|| Kept {
            node: NodeId::from(Uuid::new_v4()),
            cluster: None,
            cluster_name: String::new(),
            runs: Vec::new(),
        });
        let run = Incarnation::from(Uuid::new_v4());
        kept.runs.push(run);
        let over = kept.runs.len().saturating_sub(MAX_RUNS);
        kept.runs.drain(..over);
        let identity = Self { path, kept, run };
        identity.keep()?;
        Ok(identity)
    }

    /// Whose directory it is, without beginning a run: the node, and its cluster if it has joined one. Nothing if nobody's.
    pub(super) fn read(state_dir: &Path) -> anyhow::Result<Option<(NodeId, Option<ClusterId>)>> {
        Ok(read(&state_dir.join(FILE))?.map(|kept| (kept.node, kept.cluster)))
    }

    /// The node.
    pub(super) fn node(&self) -> NodeId {
        self.kept.node
    }

    /// This run of its daemon.
    pub(super) fn run(&self) -> Incarnation {
        self.run
    }

    /// Runs before this one, whose signs of life may be replaced.
    pub(super) fn earlier_runs(&self) -> Vec<Incarnation> {
        let earlier = self.kept.runs.iter().filter(|run| **run != self.run);
        earlier.copied().collect()
    }

    /// The cluster that it has joined.
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.kept.cluster
    }

    /// That cluster's name, if it has joined one.
    pub(super) fn cluster_name(&self) -> Option<&str> {
        (!self.kept.cluster_name.is_empty()).then_some(self.kept.cluster_name.as_str())
    }

    /// It has joined a cluster.
    pub(super) fn joined(&mut self, cluster: ClusterId, name: &str) -> anyhow::Result<()> {
        if self.kept.cluster == Some(cluster) && self.kept.cluster_name == name {
            return Ok(());
        }
        self.kept.cluster = Some(cluster);
        name.clone_into(&mut self.kept.cluster_name);
        self.keep()
    }

    /// This run's sign of life has taken the place of those before.
    pub(super) fn heard_of(&mut self) -> anyhow::Result<()> {
        if self.kept.runs == [self.run] {
            return Ok(());
        }
        self.kept.runs = vec![self.run];
        self.keep()
    }

    fn keep(&self) -> anyhow::Result<()> {
        write(&self.path, &self.kept).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Kept>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_slice(&bytes).map(Some).with_context(|| {
        format!(
            "{} is damaged; restore it: without it this node's replicas belong to nobody",
            path.display()
        )
    })
}

fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_the_same_and_knows_its_runs() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let first = Identity::open(dir.path())?;
        let mut second = Identity::open(dir.path())?;
        assert_eq!(first.node(), second.node());
        assert_eq!(second.earlier_runs(), [first.run()]);
        let cluster = ClusterId::from(Uuid::new_v4());
        second.joined(cluster, "c")?;
        second.heard_of()?;
        let third = Identity::open(dir.path())?;
        assert_eq!(third.earlier_runs(), [second.run()]);
        assert_eq!(
            (third.cluster(), third.cluster_name()),
            (Some(cluster), Some("c"))
        );
        Ok(())
    }

    #[test]
    fn that_of_an_earlier_version_is_taken_over() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let node = NodeId::from(Uuid::new_v4());
        fs::write(dir.path().join(FILE), format!("{{\"node\":\"{node}\"}}"))?;
        let identity = Identity::open(dir.path())?;
        assert_eq!((identity.node(), identity.cluster()), (node, None));
        fs::write(dir.path().join(FILE), "{")?;
        let refused = Identity::open(dir.path()).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|text| text.contains("is damaged")));
        Ok(())
    }
}
