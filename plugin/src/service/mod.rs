//! What the faces (Docker driver, API) ask of the daemon. Owns the trait and its errors; decides nothing.

mod access;
mod balance;
mod cluster;
mod event;
mod generate;
mod io;
mod life;
mod node;
mod replica;
mod rfc3339;
mod volume;

use std::path::PathBuf;

use async_trait::async_trait;
use thiserror::Error;

use crate::options::VolumeRequest;

pub use access::{NewTokenView, Role, TokenRequest, TokenView};
pub use balance::{MoveView, RebalanceRequest, RebalanceView, SpreadView};
pub use cluster::{
    CapacityView, ClassRequest, ClassView, ClusterView, DefaultClass, LabelChange, NodePoolView, NodeView,
    NodeVolumeView, StoreMemberView, StoreView,
};
pub use event::{AlertView, EventKind, EventView, ObjectView, Severity};
pub use generate::{FlagView, FormView, GenerateRequest, GeneratedView};
pub use io::{IoView, OpView};
pub use life::{Duty, DutyRequest, DutyView, VolumeUpdate};
pub use node::{PoolRequest, PoolView, RemovalRequest, RemovalView, RestartRequest, StatusView};
pub use replica::ReplicaDiskView;
pub use volume::{
    AttachedView, DifferenceView, ForceRequest, ForceView, RebuildView, ReplicaView, VerifyEnd,
    VerifyRequest, VerifyView, VolumeView,
};

/// Why a request about a volume was not carried out. The message is for a person: it names the volume and says what
/// to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ServiceError {
    /// There is no such volume. This is knowledge, not the absence of it: [`ServiceError::Unavailable`] is that.
    #[error("there is no volume {0:?}; `bulkhead volume list` shows those that exist")]
    NotFound(String),
    /// The volume exists and is not what was asked for.
    #[error("{0}")]
    Conflict(String),
    /// Something uses the volume, or another operation on it is under way.
    #[error("{0}")]
    Busy(String),
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing, and it is not a volume.
    #[error("{0}")]
    NoSuch(String),
    /// There is no room for it.
    #[error("{0}")]
    NoSpace(String),
    /// Nothing is known at present: the store is out of reach, or the daemon is still starting.
    #[error("{0}")]
    Unavailable(String),
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
}

/// Nothing more is to be said.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub struct Done {}

/// This node and its pools.
#[async_trait]
pub trait NodeService: Send + Sync + 'static {
    /// How things are. Answers at once.
    async fn status(&self) -> Result<StatusView, ServiceError>;

    /// The pools of this node.
    async fn pools(&self) -> Result<Vec<PoolView>, ServiceError>;

    /// Makes a pool. Refused if the device holds something or is in use.
    async fn add_pool(&self, request: &PoolRequest) -> Result<PoolView, ServiceError>;

    /// Takes a pool out of use. Refused while it holds replicas.
    async fn remove_pool(&self, id: &str) -> Result<(), ServiceError>;

    /// What is in a pool, and what becomes of it where the pool is to be emptied.
    async fn removal(&self, id: &str) -> Result<RemovalView, ServiceError>;

    /// Has a pool emptied and then taken out of use; or only says what that would move. Refused where a last copy would
    /// be lost.
    async fn begin_removal(&self, id: &str, request: &RemovalRequest) -> Result<RemovalView, ServiceError>;

    /// Calls that off. What has been moved stays where it is.
    async fn end_removal(&self, id: &str) -> Result<(), ServiceError>;

    /// Has the daemon end at once and be started again by its keeper, from the program that lies in its place then. What is
    /// mounted stays so, and its users wait meanwhile; refused where they would not merely wait. The keeper is first
    /// replaced by that program too, if `keeper` says so.
    async fn restart(&self, request: &RestartRequest) -> Result<(), ServiceError>;
}

/// The life of volumes on this node. Every call is idempotent and ends in bounded time; two calls about one volume
/// take turns, and one stuck volume holds up no other.
#[async_trait]
pub trait VolumeService: Send + Sync + 'static {
    /// Makes a volume. Success if it already exists as asked for, [`ServiceError::Conflict`] if it differs.
    async fn create(&self, name: &str, request: &VolumeRequest) -> Result<(), ServiceError>;

    /// Deletes a volume and gives its space back. Refused while it is attached anywhere.
    async fn remove(&self, name: &str) -> Result<(), ServiceError>;

    /// Mounts a volume on this node, if it is not, and says where.
    async fn mount(&self, name: &str) -> Result<PathBuf, ServiceError>;

    /// Nobody who asked for the mount needs it any longer. If something else still holds the file system, the volume
    /// is released as soon as that ends, without being asked again.
    async fn unmount(&self, name: &str) -> Result<(), ServiceError>;

    /// Whether a process outside of this daemon (a container) can reach the mounted file system.
    async fn in_use(&self, name: &str) -> Result<bool, ServiceError>;

    /// The volume as it is known here. Answers at once; [`ServiceError::NotFound`] only if it is known not to exist.
    async fn get(&self, name: &str) -> Result<VolumeView, ServiceError>;

    /// All volumes, by name. Answers at once.
    async fn list(&self) -> Result<Vec<VolumeView>, ServiceError>;
}

/// The cluster that this node belongs to: its nodes, storage classes and store. What only looks answers from what this
/// node knows, at once and also while the store is away; answers then say as of when they are true.
#[async_trait]
pub trait ClusterService: Send + Sync + 'static {
    /// The cluster at a glance.
    async fn cluster(&self) -> Result<ClusterView, ServiceError>;

    /// The store, asked right now; within its deadline.
    async fn store(&self) -> Result<StoreView, ServiceError>;

    /// All nodes, by name.
    async fn nodes(&self) -> Result<Vec<NodeView>, ServiceError>;

    /// The node of a name, an id, or the beginning of an id, with the volumes that it has to do with.
    async fn node(&self, name: &str) -> Result<NodeView, ServiceError>;

    /// Changes labels of a node.
    async fn label_node(&self, name: &str, change: &LabelChange) -> Result<NodeView, ServiceError>;

    /// All storage classes, by name.
    async fn classes(&self) -> Result<Vec<ClassView>, ServiceError>;

    /// The storage class of a name.
    async fn class(&self, name: &str) -> Result<ClassView, ServiceError>;

    /// Makes a storage class. Success if it exists as asked for.
    async fn create_class(&self, request: &ClassRequest) -> Result<ClassView, ServiceError>;

    /// Deletes a storage class; refused while it is the default one. Its volumes stay as they are.
    async fn delete_class(&self, name: &str) -> Result<(), ServiceError>;

    /// Chooses the class that volumes without one take from now on, or none.
    async fn set_default_class(&self, name: Option<&str>) -> Result<(), ServiceError>;
}

/// What a person does to a volume whose replicas are in trouble.
#[async_trait]
pub trait RepairService: Send + Sync + 'static {
    /// Lets one replica, which has to be on this node, go on alone; or only says what that may lose. Refused while the
    /// volume is attached on a node that lives.
    async fn force_primary(&self, name: &str, request: &ForceRequest) -> Result<ForceView, ServiceError>;

    /// Starts to compare the members of a volume, which has to be attached on this node, while it is used.
    async fn start_verify(&self, name: &str, request: &VerifyRequest) -> Result<VerifyView, ServiceError>;

    /// How far the comparison is, or what came of the last one since the volume was attached here.
    async fn verify_status(&self, name: &str) -> Result<VerifyView, ServiceError>;

    /// Ends the comparison when the piece that it is at is done.
    async fn stop_verify(&self, name: &str) -> Result<(), ServiceError>;
}

/// Who may use the API over the network.
#[async_trait]
pub trait AccessService: Send + Sync + 'static {
    /// Makes a token; what it is is told this once.
    async fn create_token(&self, request: &TokenRequest) -> Result<NewTokenView, ServiceError>;

    /// All tokens, by name.
    async fn tokens(&self) -> Result<Vec<TokenView>, ServiceError>;

    /// Ends a token.
    async fn delete_token(&self, name: &str) -> Result<(), ServiceError>;

    /// What a token allows, if it is one. Takes the same time whatever is given; asks nobody.
    fn authenticate(&self, token: &str) -> Option<Role>;
}

/// What happened, and what is wrong.
#[async_trait]
pub trait WatchService: Send + Sync + 'static {
    /// What is wrong now, the worst first.
    async fn alerts(&self) -> Result<Vec<AlertView>, ServiceError>;

    /// What happened, as far as it is kept, oldest first.
    async fn events(&self) -> Result<Vec<EventView>, ServiceError>;

    /// Changes whenever something may have happened; closed when the daemon ends.
    fn news(&self) -> tokio::sync::watch::Receiver<bulkhead_cluster::store::Revision>;

    /// What the volumes that are attached here have served.
    async fn io(&self) -> Result<Vec<IoView>, ServiceError>;

    /// All figures of this node and of the volumes on it, for Prometheus.
    async fn metrics(&self) -> Result<String, ServiceError>;
}

/// The life of nodes and volumes.
#[async_trait]
pub trait LifeService: Send + Sync + 'static {
    /// What is wanted of a node, and what is left to be done until that is so.
    async fn duty(&self, name: &str) -> Result<DutyView, ServiceError>;

    /// Changes what is wanted of a node. Refused where something that is used, or the last of something, would be lost.
    async fn set_duty(&self, name: &str, request: &DutyRequest) -> Result<DutyView, ServiceError>;

    /// Changes what is asked of a volume. It is done while the volume is in use.
    async fn update_volume(&self, name: &str, update: &VolumeUpdate) -> Result<VolumeView, ServiceError>;
}

/// How replicas are spread over the pools of the cluster.
#[async_trait]
pub trait BalanceService: Send + Sync + 'static {
    /// Replicas that are being moved, or are to be.
    async fn rebalancing(&self) -> Result<RebalanceView, ServiceError>;

    /// Has replicas moved from fuller to emptier pools, a few at a time; or only says which. Refused while some are.
    async fn rebalance(&self, request: &RebalanceRequest) -> Result<RebalanceView, ServiceError>;

    /// Calls that off for those that have not begun; gives back those that have.
    async fn stop_rebalancing(&self) -> Result<RebalanceView, ServiceError>;
}

/// All that the command line asks about this node and its cluster.
pub trait Management:
    NodeService + ClusterService + RepairService + AccessService + WatchService + LifeService + BalanceService
{
}

impl<T> Management for T where
    T: NodeService
        + ClusterService
        + RepairService
        + AccessService
        + WatchService
        + LifeService
        + BalanceService
{
}
