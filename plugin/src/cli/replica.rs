//! `bulkhead replica`: reads a replica's files without a daemon. Changes nothing.

use std::path::{Path, PathBuf};

use bulkhead_engine::disk::{DATA_FILE, DiskError, META_FILE, inspect};

use super::args::ReplicaCommand;
use super::print::{Lines, Printer, moment};
use super::{CliError, Code};
use crate::options::format_size;
use crate::service::ReplicaDiskView;

pub(super) fn run(printer: &Printer, command: ReplicaCommand) -> Result<Code, CliError> {
    let ReplicaCommand::Inspect { paths } = command;
    let mut replicas = Vec::new();
    for path in &paths {
        replicas.push(look(path)?);
    }
    printer.value(&replicas, |replicas| {
        replicas.iter().map(details).collect::<Vec<_>>().join("\n")
    })?;
    Ok(Code::Ok)
}

fn look(path: &Path) -> Result<ReplicaDiskView, CliError> {
    let dir = directory(path);
    let found = inspect(&dir).map_err(|error| match error {
        DiskError::Missing(_) => missing(path, &dir),
        error => CliError::Replica(error),
    })?;
    if found.in_use {
        return Err(CliError::Open(dir));
    }
    Ok(ReplicaDiskView::of(&dir, &found))
}

/// A replica is a directory; one of its two files names it as well.
fn directory(path: &Path) -> PathBuf {
    let is_file = [DATA_FILE, META_FILE]
        .iter()
        .any(|name| path.file_name().is_some_and(|found| found == *name));
    match path.parent() {
        Some(parent) if is_file && path.is_file() => parent.to_owned(),
        _ => path.to_owned(),
    }
}

/// What to say where there is none: those that lie below, if any do.
fn missing(path: &Path, dir: &Path) -> CliError {
    let mut below: Vec<String> = ["", "replicas"]
        .iter()
        .filter_map(|inner| std::fs::read_dir(dir.join(inner)).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|entry| entry.join(META_FILE).is_file())
        .map(|entry| entry.display().to_string())
        .collect();
    below.sort();
    let hint = match below.as_slice() {
        [] => "give the directory that holds its files `data` and `meta`; `bulkhead volume inspect NAME` shows it, and a pool's disk is mounted while the daemon runs".to_owned(),
        [one] => format!("there is one below: {one}"),
        [one, ..] => format!("there are {} below, such as {one}", below.len()),
    };
    CliError::NoReplica {
        path: path.to_owned(),
        hint,
    }
}

fn details(replica: &ReplicaDiskView) -> String {
    let yes = |so: bool| if so { "yes" } else { "no" };
    let mut lines = Lines::default();
    lines.line("Replica", &replica.replica);
    lines.line("Volume", &replica.volume);
    lines.line("Cluster", &replica.cluster);
    lines.line("Directory", replica.path.display().to_string());
    lines.line(
        "Failed",
        match &replica.failed {
            Some(why) => format!("yes: {why}; it serves nothing"),
            None => "no".to_owned(),
        },
    );
    let mut size = format_size(replica.size);
    if replica.data_length != replica.size {
        size.push_str(&format!(
            ", but its data file has {} bytes: it was truncated or replaced",
            replica.data_length
        ));
    }
    lines.line("Size", size);
    lines.line("Allocated", format_size(replica.allocated));
    lines.line("Epoch", replica.epoch.to_string());
    lines.line("Durable tick", &replica.durable);
    lines.line("Settled tick", &replica.settled);
    lines.line("Newest write", &replica.newest);
    lines.line(
        "Whole",
        format!("{} (holds every write that it acknowledged)", yes(replica.whole)),
    );
    lines.line("Clean", format!("{} (closed in order)", yes(replica.clean)));
    let of = |count: u32| {
        format!(
            "{count} of {} chunks, {}",
            replica.chunks,
            format_size(replica.bytes(count))
        )
    };
    lines.line("Written", of(replica.chunks_written));
    lines.line("Unsettled", of(replica.chunks_unsettled));
    lines.line("Suspect", of(replica.chunks_suspect));
    lines.line(
        "Intent",
        format!("{} of {} regions set", replica.regions_set, replica.regions),
    );
    if !replica.superblocks_sound {
        lines.line(
            "Superblocks",
            "only one of the two is sound: a torn write, or a bad disk",
        );
    }
    lines.line("Incarnation", &replica.incarnation);
    lines.line("Last written", moment(replica.modified));
    lines.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_engine::disk::{Caching, create, open};
    use bulkhead_engine::format::ReplicaIdentity;
    use bulkhead_engine::geometry::Geometry;
    use bulkhead_engine::ids::{ClusterId, ReplicaId, VolumeId};

    #[test]
    fn a_replica_is_read_while_nobody_has_it_open() {
        let pool = tempfile::tempdir().expect("a directory");
        let dir = pool.path().join("v");
        let identity = ReplicaIdentity {
            cluster: ClusterId::from_u128(1),
            volume: VolumeId::from_u128(2),
            replica: ReplicaId::from_u128(3),
        };
        let geometry = Geometry::for_size(64 << 20).expect("sound");
        create(&dir, identity, geometry).expect("created");
        for path in [dir.clone(), dir.join(META_FILE), dir.join(DATA_FILE)] {
            let view = look(&path).expect("readable");
            assert_eq!((view.size, view.chunks_written, view.epoch), (64 << 20, 0, 0));
            let text = details(&view);
            for part in [
                "00000000-0000-0000-0000-000000000003",
                "Failed          no\n",
                "0 of 1024 chunks, 0 B",
                "Clean           yes",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        let held = open(&dir, &identity, Caching::PageCache).expect("opened");
        let refused = look(&dir).expect_err("it is open");
        assert_eq!(refused.code(), Code::Refused);
        assert!(refused.to_string().contains("is open"), "{refused}");
        drop(held);
        let refused = look(pool.path()).expect_err("it is the one below");
        assert_eq!(refused.code(), Code::NotFound);
        assert!(
            refused.to_string().contains(&dir.display().to_string()),
            "{refused}"
        );
    }
}
