//! A cluster of three hosts: joining, volumes seen everywhere, races with one winner, a node that dies, a store that is away,
//! and Swarm. A short form runs with all tests; `make test-cluster STORE=etcd|consul` runs the whole.

mod docs;
mod life;
mod outage;
mod races;
mod swarm;

use anyhow::Result;
use bulkhead_lab::report::Report;
use bulkhead_lab::{Lab, StoreKind, image, keep, node};

/// How much of it is done.
#[derive(Clone, Copy)]
struct Extent {
    /// Volumes made on each node.
    seen: usize,
    /// Names for which all nodes race.
    creates: usize,
    /// Rounds of two nodes racing for one volume.
    mounts: usize,
    /// Seconds for which the store is away.
    away: u64,
    /// Also what takes its time.
    whole: bool,
    /// Only what depends on the store.
    brief: bool,
}

const SHORT: Extent = Extent {
    seen: 3,
    creates: 4,
    mounts: 25,
    away: 8,
    whole: false,
    brief: false,
};

const BRIEF: Extent = Extent { brief: true, ..SHORT };

const WHOLE: Extent = Extent {
    seen: 20,
    creates: 50,
    mounts: 1000,
    away: 60,
    whole: true,
    brief: false,
};

fn run(store: StoreKind, extent: Extent) -> Result<()> {
    let _alone = node::alone()?;
    let mut lab = Lab::new(3)
        .label("cluster")
        .store(store)
        .swarm()
        .image(image::REGISTER)
        .option("--timeout-mount", "15s")
        .option("--docker-swarm-labels", "true")
        .start()?;
    let mut report = Report::new(format!("A cluster of three hosts on {store}"));
    let mut case =
        |name: &str, run: &dyn Fn(&mut Lab, Extent) -> Result<Vec<bulkhead_lab::report::Figure>>| {
            if !report.case(name, || run(&mut lab, extent)) {
                keep::logs(&lab, &format!("cluster-{store}"));
                // What one case has broken the next one does not suffer from.
                if let Err(error) = lab.heal() {
                    println!("healing failed too: {error:#}");
                }
            }
        };
    case("every node knows every node", &life::joined);
    case("a volume made on any node is seen on all", &life::seen);
    case("all nodes create the same name at once", &races::create);
    case("two nodes race for one volume", &races::mount);
    if extent.brief {
        return report.finish();
    }
    case(
        "a volume in use elsewhere is refused, naming node and user",
        &races::refused,
    );
    case(
        "a service, a stack with {{.Task.Slot}}, a service that moves",
        &swarm::services,
    );
    case(
        "a service runs where its volume has a replica, also after that node is drained",
        &swarm::near_its_data,
    );
    case("what the documentation says to type", &docs::run);
    if extent.whole {
        case(
            "each store member killed under a running workload",
            &outage::members_killed,
        );
        case("the whole store killed under a running workload", &outage::killed);
    }
    case("the whole store paused under a running workload", &outage::paused);
    if extent.whole {
        case(
            "the node cut off from the store under a running workload",
            &outage::cut_off,
        );
    }
    case(
        "a node dies, and its volumes' state is right everywhere",
        &life::dies,
    );
    report.finish()
}

/// The short form; the whole on the store that `$STORE` names, if it names one.
fn on(store: StoreKind, short: Extent) -> Result<()> {
    match std::env::var("STORE") {
        Err(_) => run(store, short),
        Ok(named) if named == store.to_string() => run(store, WHOLE),
        Ok(_) => Ok(()),
    }
}

#[test]
fn a_cluster_on_etcd() -> Result<()> {
    on(StoreKind::Etcd, SHORT)
}

#[test]
fn a_cluster_on_consul() -> Result<()> {
    on(StoreKind::Consul, BRIEF)
}
