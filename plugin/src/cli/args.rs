//! The arguments.

mod generate;
mod lists;
mod settings;
mod upgrade;

use std::collections::BTreeMap;
use std::path::PathBuf;

use bulkhead_cluster::schema::IoPriority;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::options::parse_size;
use crate::service::{Role, Severity};

pub(super) use generate::{GenerateCommand, NodePlanArgs};
pub(super) use lists::{NodeListArgs, VolumeListArgs, WatchArgs};
pub use settings::DaemonArgs;
pub(super) use settings::RemovalArgs;
pub(super) use upgrade::UpgradeArgs;

/// Highly available volumes for Docker and Swarm.
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead",
    version,
    about,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub struct Cli {
    /// Socket of the daemon
    ///
    /// [default: /run/bulkhead/bulkhead.sock]
    #[arg(long, global = true, env = "BULKHEAD_CONTROL_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(short, long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: the Docker volume driver and this node's part in the cluster
    Daemon(DaemonArgs),
    /// Show on one screen whether everything is all right, and if not, what to do
    Status(WatchArgs),
    /// Pools: the disks that volumes are stored on
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Nodes of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Storage classes: named options for volumes
    #[command(subcommand)]
    Class(ClassCommand),
    /// The cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The metadata store
    #[command(subcommand)]
    Store(StoreCommand),
    /// Replicas, read from their files; needs no daemon
    #[command(subcommand)]
    Replica(ReplicaCommand),
    /// Show what happened in the cluster, as far as it is kept, and with -f what happens
    Events(EventsArgs),
    /// Show what is wrong now, and what to do
    Alerts(WatchArgs),
    /// Show live what the volumes that are attached on this node serve: requests, bytes, how long they take
    Top {
        /// Between looks
        #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
        interval: std::time::Duration,
        /// So many looks, and no more
        #[arg(long, value_name = "COUNT")]
        count: Option<u64>,
    },
    /// Look whether this machine has what Bulkhead needs: kernel, programs, clock, disks, Docker, store, other nodes
    Doctor,
    /// Gather what support needs into a tarball, without secrets
    Diags {
        /// The tarball; one named by the time if this is left out
        #[arg(long, short = 'f', value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Tokens: who may use the API over the network
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print what makes machines nodes of one cluster: a script, systemd units, a managed plugin, a Swarm stack
    #[command(subcommand)]
    Generate(GenerateCommand),
    /// Replace the installed program by another one while volumes are in use, and go back if that does not do
    ///
    /// Run it on each node, one after the other. It waits until all is healthy before and after.
    Upgrade(UpgradeArgs),
    /// Tell what this program is, speaks and writes: with --json what `upgrade` compares
    Version,
    /// Take Bulkhead off this machine: daemon, pools, configuration, program. Says first what would go
    Uninstall(RemovalArgs),
    /// Write manual pages, one for each command
    Man {
        /// Into which directory, such as /usr/local/share/man/man1
        directory: PathBuf,
    },
    /// Print a completion script, for example `bulkhead completion bash > /etc/bash_completion.d/bulkhead`
    Completion {
        /// For which shell
        shell: Shell,
    },
}

/// Commands about pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool of a block device, a file or a directory; refused if there is something in it
    Add {
        /// A block device, an empty directory, or a file, which is made if it does not exist
        device: PathBuf,
        /// Size of the file to make, such as 10G
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
        /// How fast it is: high, medium or low; found out if it is not given
        #[arg(long)]
        priority: Option<IoPriority>,
    },
    /// List the pools of this node
    #[command(visible_alias = "ls")]
    List(WatchArgs),
    /// Take a pool out of use; refused while volumes are stored on it, unless --move has them moved first
    #[command(visible_alias = "rm")]
    Remove {
        /// Its id, or the beginning of it, or its device
        id: String,
        /// Move its replicas to other nodes first, and wait; goes on if this command is ended, and through restarts
        #[arg(long = "move")]
        moving: bool,
        /// Only say what would be moved, and where to
        #[arg(long, requires = "moving")]
        dry_run: bool,
        /// Do not wait until it is empty
        #[arg(long, requires = "moving")]
        no_wait: bool,
        /// Call off what --move has begun; what has been moved stays where it is
        #[arg(long, conflicts_with = "moving")]
        undo: bool,
    },
}

/// Commands about volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume
    Create(CreateArgs),
    /// List the volumes
    #[command(visible_alias = "ls")]
    List(VolumeListArgs),
    /// Show everything about volumes
    Inspect {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Change how many replicas a volume has, or where they may be, while it is used
    Update {
        /// Its name
        name: String,
        /// Number of replicas
        #[arg(long)]
        repl: Option<u8>,
        /// Nodes that may hold replicas, such as "n1,n2"; "" for all
        #[arg(long, value_name = "NODES")]
        nodes: Option<String>,
    },
    /// Compare the members of a volume while it is used; runs on the node where it is attached
    Verify {
        /// The volume's name
        name: String,
        /// Mend what differs by what more than half of the members hold
        #[arg(long)]
        repair: bool,
        /// The replica that counts where there is no majority: the name of its node, or its id
        #[arg(long, requires = "repair", value_name = "NODE|ID")]
        source: Option<String>,
        /// End the one that is under way
        #[arg(long, conflicts_with_all = ["repair", "source"])]
        stop: bool,
    },
    /// Let one replica of a volume go on alone, when those that are in sync are lost: the last resort
    ///
    /// Run it on the node that has the replica. Without --accept-data-loss nothing is changed, and what may be lost is
    /// shown. Refused while the volume is attached on a node that lives. What the other replicas hold is given up: they
    /// are made anew from the chosen one.
    ForcePrimary {
        /// The volume's name
        name: String,
        /// The replica: the name of its node, or its id or the beginning of it
        #[arg(long, value_name = "NODE|ID")]
        replica: String,
        /// Do it
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Delete volumes and their data; refused while they are in use
    #[command(visible_alias = "rm")]
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Commands about nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes of the cluster
    #[command(visible_alias = "ls")]
    List(NodeListArgs),
    /// Show everything about nodes: pools, labels, volumes; of this one if none is named
    Inspect {
        /// Their names or ids
        names: Vec<String>,
    },
    /// Move the replicas of a node to other nodes, and give it no new ones; waits until it is empty
    Drain {
        /// Its name or id
        name: String,
        /// Take it back into full service instead; what has been moved stays where it is
        #[arg(long)]
        undo: bool,
        /// Only say what would have to be moved
        #[arg(long, conflicts_with = "undo")]
        dry_run: bool,
        /// Do not wait until it is empty
        #[arg(long)]
        no_wait: bool,
    },
    /// Take a node out of service while someone works on it; its replicas are not made anew elsewhere
    #[command(subcommand)]
    Maintenance(MaintenanceCommand),
    /// Give a node up for good; refused while it has volumes and lives, or while a last copy would be lost
    Decommission {
        /// Its name or id
        name: String,
        /// Only say whether it can be
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove what makes this machine a node: its pools with all that is in them, its identity. Says first what would go
    Wipe(RemovalArgs),
    /// Set and remove labels of a node; `zone` and `rack` steer where replicas go
    Label {
        /// Its name or id
        name: String,
        /// KEY=VALUE sets a label, KEY- removes one
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        labels: Vec<String>,
    },
}

/// Commands about work on a node.
#[derive(Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// Begin; refused while volumes are in use on it, or need it
    Enter {
        /// Its name or id
        name: String,
    },
    /// End
    Exit {
        /// Its name or id
        name: String,
    },
}

/// Commands about storage classes.
#[derive(Debug, Subcommand)]
pub enum ClassCommand {
    /// Create a storage class
    Create(CreateClassArgs),
    /// List all storage classes
    #[command(visible_alias = "ls")]
    List(WatchArgs),
    /// Show everything about storage classes
    Inspect {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Delete storage classes; their volumes stay as they are. Refused for the default one
    #[command(visible_alias = "rm")]
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Choose the class that volumes without one take, or show it
    Default {
        /// Its name
        name: Option<String>,
        /// Let volumes without a class take none
        #[arg(long, conflicts_with = "name")]
        none: bool,
    },
}

/// Which events are shown.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what happens, until ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Only those that are at least as bad
    #[arg(long, value_enum)]
    pub severity: Option<Severity>,
    /// Only those about the object of this name or id
    #[arg(long, value_name = "NAME|ID")]
    pub object: Option<String>,
    /// Of those that are kept only the last ones
    #[arg(long, value_name = "COUNT")]
    pub last: Option<usize>,
}

/// Commands about tokens of the API.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, this once
    Create {
        /// Its name
        name: String,
        /// What it allows: viewer to look, admin everything
        #[arg(long, value_enum)]
        role: Role,
        /// After how long it ends, such as 90d; it does not if this is left out
        #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
        expires_in: Option<std::time::Duration>,
    },
    /// List all tokens, without what makes them tokens
    #[command(visible_alias = "ls")]
    List,
    /// End tokens
    #[command(visible_alias = "rm")]
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Commands about the cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the cluster at a glance: nodes, store, volumes, capacity, and what is wrong
    Status(WatchArgs),
    /// Move replicas from fuller to emptier pools, such as those of a node that has joined; waits until it is done
    ///
    /// A replica is in sync in its new place before it goes from the old one. It goes on if this command is ended, and
    /// whichever node dies.
    Rebalance(RebalanceArgs),
}

/// How replicas are to be moved from fuller to emptier pools.
#[derive(Debug, Args)]
pub struct RebalanceArgs {
    /// Only say what would be moved, what that costs, and what comes of it
    #[arg(long)]
    pub dry_run: bool,
    /// Move at most so many replicas
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<usize>,
    /// Do not wait until it is done
    #[arg(long, conflicts_with = "dry_run")]
    pub no_wait: bool,
    /// Call off what has not begun; what is being copied is moved to the end
    #[arg(long, conflicts_with_all = ["dry_run", "limit", "no_wait"])]
    pub stop: bool,
}

/// Commands about the store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Ask the store now, and show whether it answers, how fast, and its servers
    Status,
}

/// Commands about replicas.
#[derive(Debug, Subcommand)]
pub enum ReplicaCommand {
    /// Show what the files of replicas say: identity, epoch, ticks, what is not settled; refused while one is open
    Inspect {
        /// Their directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

/// What a volume is to be.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name
    pub name: String,
    /// Storage class
    #[arg(long)]
    pub class: Option<String>,
    /// Nodes that may hold replicas, such as "n1;n2"
    #[arg(long)]
    pub nodes: Option<String>,
    /// What it shares with a class.
    #[command(flatten)]
    pub spec: SpecArgs,
}

/// What a storage class is to be.
#[derive(Debug, Args)]
pub struct CreateClassArgs {
    /// Its name
    pub name: String,
    /// Let volumes that name no class take this one
    #[arg(long)]
    pub default: bool,
    /// What it shares with a volume.
    #[command(flatten)]
    pub spec: SpecArgs,
}

/// What a volume and a class can both say.
#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Size, such as 10G
    #[arg(long)]
    pub size: Option<String>,
    /// Number of replicas
    #[arg(long)]
    pub repl: Option<String>,
    /// File system: ext4, xfs or btrfs
    #[arg(long)]
    pub fs: Option<String>,
    /// Medium: high, medium or low
    #[arg(long)]
    pub io_priority: Option<String>,
    /// Labels, such as app=shop,tier=db
    #[arg(long)]
    pub labels: Option<String>,
    /// Any option as Docker takes it (docs/options.md); may be repeated
    #[arg(short = 'o', long = "opt", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
}

impl SpecArgs {
    /// All of it as options, together with those that are not for both. The error is for the person who wrote them.
    pub(super) fn options(
        self,
        more: impl IntoIterator<Item = (&'static str, Option<String>)>,
    ) -> Result<BTreeMap<String, String>, String> {
        let flags = [
            ("size", self.size),
            ("repl", self.repl),
            ("fs", self.fs),
            ("io_priority", self.io_priority),
            ("labels", self.labels),
        ];
        let mut options: BTreeMap<String, String> = flags
            .into_iter()
            .chain(more)
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect();
        for option in &self.options {
            let (key, value) = option.split_once('=').ok_or_else(|| {
                format!("option {option:?} has no '='; write -o KEY=VALUE, such as -o size=10G")
            })?;
            if options
                .insert(key.to_owned(), value.to_owned())
                .is_some_and(|earlier| earlier != value)
            {
                return Err(format!("option {key:?} is given twice, with different values"));
            }
        }
        Ok(options)
    }
}
