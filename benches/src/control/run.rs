//! The order of a run, and what came of it. Every phase is measured with the store's own counters before and after.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use bulkhead_cluster::store::Revision;
use bulkhead_test_servers::EtcdCluster;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tempfile::TempDir;

use super::arrivals::{Diary, seen_by_all};
use super::creates::{Created, fill, storm};
use super::fleet::Fleet;
use super::listing::{Daemon, Listing, memory};
use super::load::{Counters, Load};
use super::readers::read;
use crate::spread::Spread;

/// How long a change may take to reach all nodes before it counts as never seen.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes.
    pub nodes: usize,
    /// Volumes that there are.
    pub volumes: usize,
    /// Creates a second of the storm; a tenth of it is measured too.
    pub rate: u32,
    /// How long each storm lasts.
    pub storm: Duration,
    /// How long each phase without changes lasts.
    pub rest: Duration,
    /// The `bulkhead` program for the time of a listing; without it that is left out.
    pub daemon: Option<PathBuf>,
    /// Where the store's data lies.
    pub dir: PathBuf,
}

/// One storm.
#[derive(Clone, Debug)]
pub struct Storm {
    /// Nodes that followed.
    pub nodes: usize,
    /// Creates a second that were asked for.
    pub rate: u32,
    /// Volumes that were made.
    pub made: usize,
    /// Creates that failed, and why the first of them did.
    pub failed: (usize, Option<String>),
    /// Nodes whose lease had ended when it was over: the others take them for dead.
    pub dead: usize,
    /// Volumes that some node never saw.
    pub unseen: usize,
    /// What the store did.
    pub load: Load,
    /// Processors that all nodes together used.
    pub cpu: f64,
    /// From the request to its answer.
    pub answered: Spread,
    /// From the answer to the last node's having seen it.
    pub told: Spread,
    /// From the request to the last node's having seen it.
    pub seen: Spread,
}

/// Readers at rest.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Readers on each node.
    pub readers: usize,
    /// Look-ups a second of all of them.
    pub lookups: f64,
    /// What the store did.
    pub load: Load,
}

/// All figures.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was measured.
    pub plan: Plan,
    /// How long it took to fill the store.
    pub filled: Duration,
    /// Volumes when memory and listing were measured.
    pub volumes: usize,
    /// Nodes that began to follow at once, and what that cost the store.
    pub started: (usize, Load),
    /// Bytes that a catalogue takes for each volume, all that belongs to it included.
    pub memory: f64,
    /// Without and with readers.
    pub readings: Vec<Reading>,
    /// The storms.
    pub storms: Vec<Storm>,
    /// A daemon's list.
    pub listing: Option<Listing>,
    /// The store's counters at the end.
    pub end: Counters,
}

impl Outcome {
    /// Volumes at the end.
    pub fn made(&self) -> usize {
        self.plan.volumes + self.storms.iter().map(|storm| storm.made).sum::<usize>()
    }

    /// What one create of a storm asks of the store, without what goes on at rest and without watches begun anew.
    pub fn requests_per_create(&self, storm: &Storm) -> f64 {
        let rest = self
            .readings
            .first()
            .map_or(0.0, |reading| reading.load.for_records());
        (storm.load.for_records() - rest) * storm.load.time.as_secs_f64() / storm.made as f64
    }
}

/// Carries a plan out. `tell` hears what is being done.
pub async fn run(plan: &Plan, tell: impl Fn(&str)) -> anyhow::Result<Outcome> {
    let dir = TempDir::with_prefix_in("bulkhead-bench-", &plan.dir)?;
    let catalogue = dir.path().join("catalogue");
    // As a real cluster has them: the tests' shorter ones would bring elections on a busy machine.
    let settings = ["--heartbeat-interval=100", "--election-timeout=1000"].map(str::to_owned);
    let servers = TempDir::with_prefix_in("bulkhead-bench-etcd-", &plan.dir)?;
    let etcd = EtcdCluster::start_in(servers, 3, &settings).await;
    let bench = Bench {
        plan,
        ports: &etcd.clients,
    };

    tell("nodes join");
    let mut fleet = Fleet::join(&etcd.url(), plan.nodes).await?;
    tell("the store is filled");
    let begin = Instant::now();
    fill(&fleet, plan.volumes).await?;
    let filled = begin.elapsed();

    let some = (plan.nodes / 4).max(1);
    tell("a quarter of the nodes follow");
    let before = memory(std::process::id())?;
    fleet.follow(some, &catalogue).await?;
    tell("storm before a quarter of the nodes");
    let mut storms = vec![bench.storm(&fleet, "quarter", plan.rate).await?];
    tell("all nodes follow");
    let counters = Counters::take(bench.ports).await?;
    fleet.follow(plan.nodes, &catalogue).await?;
    let started = (
        plan.nodes - some,
        Counters::take(bench.ports).await?.since(&counters),
    );
    let grown = memory(std::process::id())?.saturating_sub(before);
    let volumes = plan.volumes + storms.iter().map(|storm| storm.made).sum::<usize>();
    let memory = grown as f64 / (volumes * plan.nodes) as f64;

    let mut readings = Vec::new();
    for readers in [0, 1, 10] {
        tell(&format!("rest, {readers} readers on each node"));
        readings.push(bench.reading(&fleet, readers).await?);
    }
    let listing = match &plan.daemon {
        Some(binary) => {
            tell("a daemon lists");
            Some(Daemon::start(binary, &etcd.url()).await?.measure(50).await?)
        }
        None => None,
    };
    for (label, rate) in [("breeze", (plan.rate / 10).max(1)), ("storm", plan.rate)] {
        tell(&format!("{rate} creates a second before all nodes"));
        storms.push(bench.storm(&fleet, label, rate).await?);
    }
    Ok(Outcome {
        plan: plan.clone(),
        filled,
        volumes,
        started,
        memory,
        readings,
        storms,
        listing,
        end: Counters::take(bench.ports).await?,
    })
}

struct Bench<'a> {
    plan: &'a Plan,
    ports: &'a [u16],
}

impl Bench<'_> {
    async fn reading(&self, fleet: &Fleet, readers: usize) -> anyhow::Result<Reading> {
        let before = Counters::take(self.ports).await?;
        let lookups = if readers == 0 {
            tokio::time::sleep(self.plan.rest).await;
            0
        } else {
            read(fleet, readers, self.plan.volumes, self.plan.rest).await?
        };
        let load = Counters::take(self.ports).await?.since(&before);
        Ok(Reading {
            readers,
            lookups: lookups as f64 / load.time.as_secs_f64(),
            load,
        })
    }

    async fn storm(&self, fleet: &Fleet, label: &str, rate: u32) -> anyhow::Result<Storm> {
        let diaries: Vec<Diary> = fleet.catalogues().map(Diary::keep).collect();
        let (before, busy) = (Counters::take(self.ports).await?, busy()?);
        let (created, failures) = storm(fleet, label, rate, self.plan.storm).await?;
        let last = created
            .last()
            .with_context(|| format!("no volume was made: {failures:?}"))?
            .revision;
        fleet.caught_up(last, PATIENCE).await;
        let load = Counters::take(self.ports).await?.since(&before);
        let cpu = (self::busy()? - busy).as_secs_f64() / load.time.as_secs_f64();
        let pages = futures::future::join_all(diaries.into_iter().map(Diary::close)).await;
        let revisions: Vec<Revision> = created.iter().map(|created| created.revision).collect();
        let seen = seen_by_all(&revisions, &pages);
        let arrived: Vec<(&Created, Instant)> = created
            .iter()
            .zip(&seen)
            .filter_map(|(created, seen)| Some((created, (*seen)?)))
            .collect();
        let spread = |measure: fn(&Created, Instant) -> Duration| {
            Spread::of(
                arrived
                    .iter()
                    .map(|(created, seen)| measure(created, *seen))
                    .collect(),
            )
        };
        Ok(Storm {
            nodes: pages.len(),
            rate,
            made: created.len(),
            failed: (failures.len(), failures.first().map(|error| format!("{error:#}"))),
            dead: fleet.dead(),
            unseen: created.len() - arrived.len(),
            load,
            cpu,
            answered: spread(|created, _| created.answered - created.asked),
            told: spread(|created, seen| seen.saturating_duration_since(created.answered)),
            seen: spread(|created, seen| seen.saturating_duration_since(created.asked)),
        })
    }
}

/// Processor time that this process, which is all nodes, has used.
fn busy() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = usage.user_time() + usage.system_time();
    Ok(Duration::from_micros(u64::try_from(time.num_microseconds())?))
}
