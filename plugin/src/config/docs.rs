//! What each setting means, in one line: for `bulkhead daemon --help` and docs/configuration.md.

/// The meaning of a setting; empty if there is no such setting.
pub fn describe(key: &str) -> &'static str {
    match key {
        "node_name" => "name of this node; empty takes the host's name",
        "cluster" => "name of the cluster",
        "state_dir" => "what must survive a reboot: identity, pools, the embedded store",
        "run_dir" => "what need not: FUSE mounts",
        "mounts_dir" => {
            "the volumes' file systems are mounted below it; in a managed plugin it lies below propagatedMount"
        }
        "control_socket" => "socket of the command line",
        "store" => {
            "the metadata store: sqlite:///PATH for a single node; etcd://HOST:2379,…, etcds://… (TLS), consul://HOST:8500 or consuls://… for a cluster"
        }
        "store_ca" => {
            "PEM file with the authority that signed the store's certificate; empty takes those of the system"
        }
        "store_cert" => "PEM file with this node's certificate for the store",
        "store_key" => "PEM file with the key of that certificate",
        "store_user" => "user of etcd",
        "store_password" => "password of that user, or @FILE with it",
        "store_token" => "ACL token of Consul, or @FILE with it",
        "labels" => "labels of this node, as zone=a,rack=3,disk=nvme; zone and rack steer where replicas go",
        "data_address" => {
            "where other nodes reach this node's replicas: HOST:PORT, HOST, or :PORT; what is missing is the address that routes to the store, and port 7481"
        }
        "lease" => {
            "how long this node counts as living when it is not heard of; a volume of a dead node can be mounted elsewhere after it"
        }
        "rebuild_after" => {
            "how long the node of a replica may be away before the replica is made anew on another node"
        }
        "api.listen" => {
            "where the API is served over TCP, with TLS and tokens: HOST:PORT, HOST, or :PORT; the port is 7480 if it is left out. Empty: only on the socket"
        }
        "api.cert" => {
            "PEM file with the certificate of the API; empty: the daemon makes one for itself in its state directory"
        }
        "api.key" => "PEM file with the key of that certificate",
        "docker.socket" => "the driver's socket, where dockerd finds it; the file's name is the driver's",
        "docker.api" => {
            "dockerd's own socket, through which the daemon makes a new dockerd use the driver once (Swarm lists a driver only then); empty to leave it alone"
        }
        "docker.swarm_labels" => {
            "whether each Swarm node has the label bulkhead.volume.NAME=true for every volume of which it has a replica in sync, for placement constraints; told by the nodes that are Swarm managers"
        }
        "pool.overcommit" => {
            "how much of a pool's capacity may be promised to volumes, in percent; they are thin"
        }
        "log.format" => "text or json",
        "log.level" => "error, warn, info, debug or trace, or by part: bulkhead_engine=debug,info",
        "timeout.create" => "for Docker's Create, for which dockerd allows 120 s",
        "timeout.mount" => "for Docker's Mount, for which dockerd allows 120 s",
        "timeout.call" => "for Docker's Remove and Unmount, for which dockerd allows 60 s",
        "timeout.query" => {
            "for Docker's Get, List and Path, for which dockerd allows 60 s; they wait only while the daemon starts"
        }
        "timeout.detach" => "for one step of releasing a volume; after it the teardown gets rougher",
        "timeout.store" => "for the store to answer",
        "timeout.stop" => {
            "for unmounting everything when the daemon stops; a managed plugin is killed after 10 s"
        }
        _ => "",
    }
}
