//! A cluster to play with: up, a shell into each host, down.
//!
//! It owns the note of which cluster runs. It must never end a process that is not the one of that note.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bulkhead_lab::{Lab, StoreKind, image, programs, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// What other commands need to know of the cluster that runs.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The process that ends it all.
    supervisor: u32,
    /// The first process of each host.
    hosts: BTreeMap<String, u32>,
}

impl Note {
    fn path() -> Result<PathBuf> {
        Ok(programs::target_dir()?.join("lab/running.json"))
    }

    /// The note of a cluster that still runs.
    fn read() -> Result<Option<Self>> {
        let path = Self::path()?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let note: Self = serde_json::from_slice(&text)?;
        let name = fs::read_to_string(format!("/proc/{}/comm", note.supervisor)).unwrap_or_default();
        Ok((name.trim() == "bulkhead-lab").then_some(note))
    }
}

/// Starts a cluster, tells how to enter it, and waits to be ended.
pub(super) fn up(store: StoreKind, hosts: u8) -> Result<()> {
    if Note::read()?.is_some() {
        bail!("a lab runs already; end it first: make lab-down");
    }
    println!("Starting {hosts} hosts with {store}, dockerd, bulkhead and Swarm…");
    let begin = Instant::now();
    let lab = Lab::new(hosts)
        .store(store)
        .swarm()
        .image(image::FIO)
        .image(image::POSTGRES)
        .start()?;
    let note = Note {
        supervisor: parent_id(),
        hosts: lab
            .members
            .iter()
            .map(|member| (member.node.host.hostname().to_owned(), member.node.host.pid()))
            .collect(),
    };
    let path = Note::path()?;
    fs::write(&path, serde_json::to_vec_pretty(&note)?)?;
    println!(
        "Ready after {:.1} s. Each host has a pool of 10 GB, and the images busybox, fio and postgres.\n",
        begin.elapsed().as_secs_f64()
    );
    for member in &lab.members {
        let host = &member.node.host;
        println!(
            "  {}  {}   make lab-enter HOST={}",
            host.hostname(),
            bulkhead_lab::switch::address(member.number),
            host.hostname()
        );
    }
    println!(
        "\nOn a host, for example:\n  bulkhead status\n  docker volume create -d bulkhead -o size=1G -o repl=2 mydata\n  \
         docker run --rm -it --network none -v mydata:/data busybox\n  docker node ls\n  \
         iptables -I OUTPUT -p tcp --sport 22 -j ACCEPT; iptables -I OUTPUT 2 -j DROP    # cuts this host off\n  \
         iptables -D OUTPUT 2                                                            # and heals it\n\n\
         ctrl-C here or `make lab-down` ends it all; nothing is left behind."
    );
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// Ends the cluster that runs, and waits until nothing is left of it.
pub(super) fn down() -> Result<()> {
    let path = Note::path()?;
    let Some(note) = Note::read()? else {
        println!("No lab runs.");
        let _ = fs::remove_file(path);
        return Ok(());
    };
    kill(Pid::from_raw(note.supervisor.cast_signed()), Signal::SIGTERM).context("cannot end the lab")?;
    wait::until("the lab is gone", Duration::from_secs(90), || {
        Ok(Note::read()?.is_none().then_some(()))
    })?;
    fs::remove_file(path)?;
    println!("The lab is gone.");
    Ok(())
}

/// Becomes a shell, or a command, on a host.
pub(super) fn enter(host: &str, command: &[String]) -> Result<()> {
    let note = Note::read()?.context("no lab runs; start one with: make lab")?;
    let Some(pid) = note.hosts.get(host) else {
        let names: Vec<_> = note.hosts.keys().map(String::as_str).collect();
        bail!("there is no host {host:?}; there are {}", names.join(", "));
    };
    let mut nsenter = Command::new("nsenter");
    nsenter.args([
        "-t",
        &pid.to_string(),
        "-m",
        "-u",
        "-i",
        "-n",
        "-p",
        "--wdns=/root",
        "--",
    ]);
    match command {
        [] => nsenter.args(["bash", "-l"]),
        words => nsenter.args(words),
    };
    Err(nsenter.exec()).context("cannot enter the host")
}
