//! The figures of this node and of the volumes that it serves or stores, for Prometheus. Every node tells its own, so that
//! what is told of a volume does not grow with the cluster. Reads what is known; no scrape waits for a disk that hangs.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bulkhead_cluster::volumes::Volume as Stored;
use bulkhead_engine::node::{LATENCY_BOUNDS, Latency, Reach, VolumeStatus};
use futures::future::join_all;

use super::attach::Attached;
use super::context::Daemon;
use super::redundancy::replica_word;
use crate::exposition::{Exposition, Kind};
use crate::service::{
    IoView, NodeService, OpView, PoolView, ReplicaView, Severity, VolumeView, WatchService,
};

/// All states of a node.
const NODE_STATES: [&str; 9] = [
    "init",
    "ok",
    "offline",
    "drained",
    "maintenance",
    "storage down",
    "storage degraded",
    "decommissioned",
    "unknown",
];
/// All states of a volume.
const VOLUME_STATES: [&str; 6] = ["creating", "ready", "attached", "degraded", "failed", "deleting"];
/// All states of a replica.
const REPLICA_STATES: [&str; 5] = [
    "in sync",
    "out of date",
    "being rebuilt",
    "being made",
    "being removed",
];

/// A volume that this node serves or stores.
struct Told {
    view: VolumeView,
    attached: Option<(Arc<Attached>, VolumeStatus)>,
    here: Option<&'static str>,
}

/// All figures as text.
pub(super) async fn gather(daemon: &Arc<Daemon>) -> String {
    let pools = daemon.pools().await.unwrap_or_default();
    let volumes = told(daemon).await;
    let alerts = daemon.alerts().await.unwrap_or_default();
    let mut out = Exposition::default();
    node(daemon, &mut out);
    out.family(
        "bulkhead_alerts",
        Kind::Gauge,
        "What is wrong in the cluster, by how bad it is.",
    );
    for (word, severity) in [
        ("info", Severity::Info),
        ("warning", Severity::Warning),
        ("critical", Severity::Critical),
    ] {
        let count = alerts.iter().filter(|alert| alert.severity == severity).count();
        out.figure(&[("severity", word)], count);
    }
    of_pools(daemon, &pools, &mut out);
    of_volumes(&volumes, &mut out);
    of_replicas(&volumes, &mut out);
    io(&volumes, &mut out);
    out.finish()
}

async fn told(daemon: &Arc<Daemon>) -> Vec<Told> {
    let ours = daemon.records().into_iter().filter_map(|record| {
        let here = record.replicas_on(daemon.node).next().map(replica_word);
        let attached = daemon
            .attached(&record.name)
            .filter(|attached| attached.id == record.id);
        (here.is_some() || attached.is_some()).then_some((record, here, attached))
    });
    let views = ours.map(|(record, here, attached): (Arc<Stored>, _, _)| async move {
        Told {
            view: daemon.view_with_usage(&record).await,
            attached: attached.map(|attached: Arc<Attached>| {
                let status = attached.volume.status();
                (attached, status)
            }),
            here,
        }
    });
    join_all(views).await
}

fn seconds(moment: SystemTime) -> f64 {
    moment
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn node(daemon: &Arc<Daemon>, out: &mut Exposition) {
    out.family(
        "bulkhead_build_info",
        Kind::Gauge,
        "Version of the daemon, as a label of a one.",
    );
    out.figure(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.family(
        "bulkhead_node_start_time_seconds",
        Kind::Gauge,
        "When the daemon was started, since 1970.",
    );
    out.figure(&[], seconds(daemon.started_at));
    let nodes = daemon.node_views();
    out.family(
        "bulkhead_node_state",
        Kind::Gauge,
        "State of each node, as this one knows it: one for the state that it is in.",
    );
    for node in &nodes {
        out.one_hot(
            &[("node", &node.name), ("id", &node.id)],
            &NODE_STATES,
            &node.state,
        );
    }
    let freshness = daemon.catalogue.freshness();
    out.family(
        "bulkhead_store_reachable",
        Kind::Gauge,
        "Whether the metadata store answers this node.",
    );
    out.figure(&[], u8::from(daemon.store.access().away().is_none()));
    if let Some(as_of) = freshness.as_of {
        out.family(
            "bulkhead_store_copy_time_seconds",
            Kind::Gauge,
            "As of when this node's copy of the records is true, since 1970.",
        );
        out.figure(&[], seconds(as_of));
    }
}

fn of_pools(daemon: &Arc<Daemon>, pools: &[PoolView], out: &mut Exposition) {
    let mut family = |name: &str, help: &str, of: &dyn Fn(&PoolView) -> u64| {
        out.family(name, Kind::Gauge, help);
        for pool in pools {
            let labels = [
                ("node", daemon.node_name.as_str()),
                ("pool", &pool.id),
                ("priority", &pool.priority),
            ];
            out.figure(&labels, of(pool));
        }
    };
    family("bulkhead_pool_up", "Whether the pool can be used.", &|pool| {
        u64::from(pool.healthy)
    });
    family(
        "bulkhead_pool_capacity_bytes",
        "What the pool can hold.",
        &|pool| pool.capacity,
    );
    family(
        "bulkhead_pool_free_bytes",
        "What is free on the disk of the pool.",
        &|pool| pool.free,
    );
    family(
        "bulkhead_pool_used_bytes",
        "What the volumes on the pool take.",
        &|pool| pool.used,
    );
    family(
        "bulkhead_pool_promised_bytes",
        "What the volumes on the pool may grow to.",
        &|pool| pool.promised,
    );
    family(
        "bulkhead_pool_replicas",
        "Number of replicas on the pool.",
        &|pool| pool.replicas as u64,
    );
}

fn of_volumes(volumes: &[Told], out: &mut Exposition) {
    out.family(
        "bulkhead_volume_state",
        Kind::Gauge,
        "State of each volume that this node serves or stores: one for the state that it is in.",
    );
    for Told { view, .. } in volumes {
        out.one_hot(
            &[("volume", &view.name), ("id", &view.id)],
            &VOLUME_STATES,
            &view.state,
        );
    }
    let mut family = |name: &str, help: &str, of: &dyn Fn(&Told) -> Option<u64>| {
        out.family(name, Kind::Gauge, help);
        for told in volumes {
            if let Some(value) = of(told) {
                out.figure(&[("volume", &told.view.name), ("id", &told.view.id)], value);
            }
        }
    };
    family(
        "bulkhead_volume_healthy",
        "Whether nothing is wrong with the volume.",
        &|told| Some(u64::from(told.view.healthy)),
    );
    family(
        "bulkhead_volume_attached",
        "Whether the volume is attached on this node.",
        &|told| Some(u64::from(told.attached.is_some())),
    );
    family("bulkhead_volume_size_bytes", "Size of the volume.", &|told| {
        Some(told.view.size)
    });
    family(
        "bulkhead_volume_used_bytes",
        "What its file system holds, where it is attached.",
        &|told| told.view.used,
    );
    family(
        "bulkhead_volume_replicas_wanted",
        "How many replicas it is meant to have.",
        &|told| Some(told.view.repl.into()),
    );
    family(
        "bulkhead_volume_replicas_in_sync",
        "How many of its replicas are in sync and can be reached.",
        &|told| {
            let sound = |replica: &&ReplicaView| replica.healthy;
            Some(told.view.replicas.iter().filter(sound).count() as u64)
        },
    );
    family(
        "bulkhead_volume_epoch",
        "Raised by every change of where it is attached and of which replicas are in sync.",
        &|told| Some(told.view.epoch.into()),
    );
    family(
        "bulkhead_replica_allocated_bytes",
        "What its replica on this node takes in its pool.",
        &|told| told.here.and(told.view.allocated),
    );
}

fn of_replicas(volumes: &[Told], out: &mut Exposition) {
    out.family("bulkhead_replica_state", Kind::Gauge, "State of each replica of the volumes that are attached on this node: one for the state that it is in.");
    for told in volumes.iter().filter(|told| told.attached.is_some()) {
        for replica in &told.view.replicas {
            out.one_hot(&labels(told, replica), &REPLICA_STATES, &replica.state);
        }
    }
    // Each replica with what its primary sees of it.
    let mut family = |name: &str, help: &str, of: &dyn Fn(&Told, &ReplicaView) -> Option<f64>| {
        out.family(name, Kind::Gauge, help);
        for told in volumes.iter().filter(|told| told.attached.is_some()) {
            for replica in &told.view.replicas {
                if let Some(value) = of(told, replica) {
                    out.figure(&labels(told, replica), value);
                }
            }
        }
    };
    family(
        "bulkhead_replica_reachable",
        "Whether the node that the volume is attached on reaches the replica.",
        &|told, replica| Some(f64::from(u8::from(peer(told, replica)?.reach == Reach::Up))),
    );
    family(
        "bulkhead_replica_round_trip_seconds",
        "How long the last ping to the replica took.",
        &|told, replica| peer(told, replica)?.round_trip.map(|span| span.as_secs_f64()),
    );
    family(
        "bulkhead_replica_unanswered_requests",
        "Requests that the replica has not answered.",
        &|told, replica| Some(peer(told, replica)?.unanswered as f64),
    );
    family(
        "bulkhead_rebuild_copied_bytes",
        "What the rebuild of the replica has copied.",
        &|_, replica| replica.rebuild.map(|rebuild| rebuild.copied as f64),
    );
    family(
        "bulkhead_rebuild_total_bytes",
        "What the rebuild of the replica has to copy; zero while that is not known.",
        &|_, replica| replica.rebuild.map(|rebuild| rebuild.total as f64),
    );
    family(
        "bulkhead_rebuild_speed_bytes",
        "What the rebuild of the replica copies in a second, of late.",
        &|_, replica| replica.rebuild.map(|rebuild| rebuild.speed as f64),
    );
}

fn labels<'a>(told: &'a Told, replica: &'a ReplicaView) -> [(&'static str, &'a str); 4] {
    [
        ("volume", &told.view.name),
        ("id", &told.view.id),
        ("replica", &replica.id),
        ("node", &replica.node),
    ]
}

fn peer<'a>(told: &'a Told, replica: &ReplicaView) -> Option<&'a bulkhead_engine::node::PeerView> {
    let (_, status) = told.attached.as_ref()?;
    status
        .replicas
        .iter()
        .find(|peer| peer.replica.to_string() == replica.id)
}

fn io(volumes: &[Told], out: &mut Exposition) {
    let mut counter = |name: &str, help: &str, of: &dyn Fn(&VolumeStatus) -> [(&'static str, u64); 4]| {
        out.family(name, Kind::Counter, help);
        for told in volumes {
            let Some((_, status)) = &told.attached else {
                continue;
            };
            for (op, value) in of(status).into_iter().filter(|(op, _)| !op.is_empty()) {
                out.figure(
                    &[("volume", &told.view.name), ("id", &told.view.id), ("op", op)],
                    value,
                );
            }
        }
    };
    counter(
        "bulkhead_volume_requests_total",
        "Requests that succeeded since the volume was attached here.",
        &|status| {
            let served = &status.served;
            [
                ("read", served.reads),
                ("write", served.writes),
                ("zero", served.zeroes),
                ("flush", served.flushes),
            ]
        },
    );
    counter(
        "bulkhead_volume_bytes_total",
        "Bytes of the requests that succeeded since the volume was attached here.",
        &|status| {
            let served = &status.served;
            [
                ("read", served.read_bytes),
                ("write", served.written_bytes),
                ("zero", served.zeroed_bytes),
                ("", 0),
            ]
        },
    );
    let attached = || {
        volumes
            .iter()
            .filter_map(|told| Some((&told.view, told.attached.as_ref()?)))
    };
    out.family(
        "bulkhead_volume_errors_total",
        Kind::Counter,
        "Requests that failed since the volume was attached here.",
    );
    for (view, (_, status)) in attached() {
        let served = &status.served;
        let others = served.errors.saturating_sub(served.out_of_space);
        for (cause, count) in [("no space", served.out_of_space), ("other", others)] {
            out.figure(
                &[("volume", &view.name), ("id", &view.id), ("cause", cause)],
                count,
            );
        }
    }
    out.family(
        "bulkhead_volume_in_flight_requests",
        Kind::Gauge,
        "Requests that are being served.",
    );
    for (view, (_, status)) in attached() {
        out.figure(&[("volume", &view.name), ("id", &view.id)], status.in_flight);
    }
    let bounds: Vec<f64> = LATENCY_BOUNDS
        .iter()
        .map(|bound| Duration::from_micros(*bound).as_secs_f64())
        .collect();
    out.family(
        "bulkhead_volume_latency_seconds",
        Kind::Histogram,
        "How long requests took since the volume was attached here.",
    );
    for (view, (attached, _)) in attached() {
        let latencies = attached.volume.latencies();
        let kinds: [(&str, &Latency); 4] = [
            ("read", &latencies.read),
            ("write", &latencies.write),
            ("zero", &latencies.zero),
            ("flush", &latencies.flush),
        ];
        for (op, latency) in kinds {
            let labels = [("volume", view.name.as_str()), ("id", &view.id), ("op", op)];
            out.histogram(&labels, &bounds, &latency.counts, latency.sum.as_secs_f64());
        }
    }
}

/// What the volumes that are attached here have served, by name.
pub(super) fn io_views(daemon: &Daemon) -> Vec<IoView> {
    let attached: Vec<Arc<Attached>> = daemon.attached.lock().values().cloned().collect();
    let at = daemon.started_at.elapsed().unwrap_or_default().as_secs_f64();
    let op = |count: u64, bytes: u64, latency: &Latency| OpView {
        count,
        bytes,
        timed: latency.counts.iter().sum(),
        seconds: latency.sum.as_secs_f64(),
    };
    let view = |attached: &Arc<Attached>| {
        let (status, latencies) = (attached.volume.status(), attached.volume.latencies());
        let served = &status.served;
        IoView {
            volume: attached.name.clone(),
            id: attached.id.to_string(),
            node: daemon.node_name.clone(),
            at,
            reads: op(served.reads, served.read_bytes, &latencies.read),
            writes: op(served.writes, served.written_bytes, &latencies.write),
            zeroes: op(served.zeroes, served.zeroed_bytes, &latencies.zero),
            flushes: op(served.flushes, 0, &latencies.flush),
            errors: served.errors,
            in_flight: status.in_flight,
        }
    };
    attached.iter().map(view).collect()
}
