//! The arguments of `bulkhead generate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::settings::SettingArgs;
use crate::cli::generate::{ClassPlan, PoolPlan};

/// What is generated.
#[derive(Debug, Subcommand)]
pub enum GenerateCommand {
    /// A shell script that makes a machine a node: run it as root on each
    Script {
        /// What a node is to be.
        #[command(flatten)]
        node: Box<NodePlanArgs>,
        /// Where the machines find the binary: a path or a URL; it has to be in /usr/local/bin if this is left out
        #[arg(long, value_name = "PATH|URL")]
        binary: Option<String>,
        /// The binary's checksum
        #[arg(long, requires = "binary", value_name = "HEX")]
        sha256: Option<String>,
    },
    /// The systemd service, its socket and the configuration
    Unit {
        /// What a node is to be.
        #[command(flatten)]
        node: Box<NodePlanArgs>,
        /// Write the files below this directory instead of printing them
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
    /// The commands that install the managed plugin on a machine
    Plugin {
        /// What a node is to be.
        #[command(flatten)]
        node: Box<NodePlanArgs>,
        /// The plugin's name in a registry that the machines reach
        #[arg(long, value_name = "NAME:TAG")]
        image: String,
    },
    /// A Swarm stack that installs the managed plugin on every node, also on those that join later
    Stack {
        /// What a node is to be.
        #[command(flatten)]
        node: Box<NodePlanArgs>,
        /// The plugin's name in a registry that the machines reach
        #[arg(long, value_name = "NAME:TAG")]
        image: String,
        /// An image with a shell and Docker's command line
        #[arg(long, value_name = "NAME:TAG", default_value = "docker:cli")]
        docker_image: String,
    },
}

/// What every node of the cluster is to be; each setting of the daemon is a flag too.
#[derive(Args, Debug)]
pub struct NodePlanArgs {
    /// A pool on each node: a device, or a file and its size, as /var/lib/bulkhead/pool-0.img=50G; may be repeated
    #[arg(long, value_name = "DEVICE|FILE=SIZE", value_parser = PoolPlan::parse)]
    pub pool: Vec<PoolPlan>,
    /// A storage class of the cluster, as "gold repl=3 size=10G"; may be repeated
    #[arg(long, value_name = "NAME KEY=VALUE...", value_parser = ClassPlan::parse)]
    pub class: Vec<ClassPlan>,
    /// The class that volumes without one take: one of those above
    #[arg(long, value_name = "NAME")]
    pub default_class: Option<String>,
    /// The interface for the traffic between nodes, such as eth1, in place of --data-address
    #[arg(long, value_name = "NAME")]
    pub data_interface: Option<String>,
    /// Settings.
    #[command(flatten)]
    pub settings: SettingArgs,
}
