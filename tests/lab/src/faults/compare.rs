//! Whether the replicas' files are the same, byte by byte.
//!
//! It owns nothing. It must be asked only while nobody has the volume attached, and never compares what is not there.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::blow::POOL_MOUNT;
use crate::lab::Lab;

/// Compares the data files of the only volume on these hosts; returns how many bytes each has.
pub fn replicas(lab: &Lab, hosts: &[usize]) -> Result<u64> {
    let mut files = Vec::new();
    for &index in hosts {
        let host = lab.host(index);
        let found = host
            .sh(&format!("find $({POOL_MOUNT}) -name data -type f"))
            .run()?;
        let paths: Vec<&str> = found.lines().collect();
        ensure!(
            paths.len() == 1,
            "{} has these replicas: {paths:?}",
            host.hostname()
        );
        files.push((host.hostname().to_owned(), host.outside(paths[0])));
    }
    let (first, others) = files.split_first().context("there is no replica to compare")?;
    let mut length = 0;
    for other in others {
        length = compare(first, other)?;
    }
    Ok(length)
}

fn compare(one: &(String, PathBuf), other: &(String, PathBuf)) -> Result<u64> {
    let open =
        |file: &(String, PathBuf)| File::open(&file.1).with_context(|| format!("the replica on {}", file.0));
    let (mut left, mut right) = (open(one)?, open(other)?);
    let (length, same) = (left.metadata()?.len(), right.metadata()?.len());
    ensure!(
        length == same,
        "the replica on {} has {length} bytes, the one on {} {same}",
        one.0,
        other.0
    );
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < length {
        let step = usize::try_from((length - at).min(1 << 20))?;
        left.read_exact(&mut a[..step])?;
        right.read_exact(&mut b[..step])?;
        if let Some(place) = (0..step).find(|&place| a[place] != b[place]) {
            anyhow::bail!(
                "the replicas on {} and {} differ at byte {}",
                one.0,
                other.0,
                at + place as u64
            );
        }
        at += step as u64;
    }
    Ok(length)
}
