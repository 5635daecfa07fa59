//! Several hosts on one network: a cluster as its operators have it.
//!
//! It owns the order in which hosts, store, daemons, pools, dockerds and Swarm come up, and their end. It must never hide
//! which part a test has broken: the parts are public.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::Signal;

use crate::bulkhead::{self, Bulkhead};
use crate::disk::{self, FaultyDisk};
use crate::dockerd::Dockerd;
use crate::host::Host;
use crate::image;
use crate::managed::{self, ManagedPlugin};
use crate::node::{self, Node};
use crate::programs;
use crate::store::{self, StoreKind, StoreMember};
use crate::swarm;
use crate::switch::{Switch, address};

/// How many members a store has if nothing else was said, on the first hosts: more make it slower and no safer.
const SERVERS: u8 = 3;

/// What a lab is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    count: u8,
    label: String,
    store: Option<StoreKind>,
    servers: u8,
    pool: String,
    in_directory: bool,
    faulty: bool,
    swarm: bool,
    managed: bool,
    images: Vec<&'static str>,
    options: Vec<String>,
    own_programs: bool,
}

/// Hosts on one network. Everything on them ends with this value.
#[derive(Debug)]
pub struct Lab {
    /// The hosts, n1 first.
    pub members: Vec<Member>,
    /// The network between them.
    pub switch: Switch,
    store: Option<StoreKind>,
}

/// One host of a lab, with all that runs on it.
#[derive(Debug)]
pub struct Member {
    /// Its number, from 1 on; its host's name is `n` and this.
    pub number: u8,
    /// Docker, the daemon, the host.
    pub node: Node,
    /// Its member of the store.
    pub store: Option<StoreMember>,
    /// The disk below its pool, if that is one that can fail.
    pub disk: Option<FaultyDisk>,
}

impl Lab {
    /// Plans a lab of `count` hosts, without a store, with a pool of 10 GB each.
    #[expect(clippy::new_ret_no_self, reason = "the lab begins as its plan")]
    pub fn new(count: u8) -> Plan {
        Plan {
            count,
            label: "lab".to_owned(),
            store: None,
            servers: SERVERS,
            pool: "10G".to_owned(),
            in_directory: false,
            faulty: false,
            swarm: false,
            managed: false,
            images: vec![image::BUSYBOX],
            options: Vec::new(),
            own_programs: false,
        }
    }

    /// How many hosts there are.
    pub fn count(&self) -> u8 {
        u8::try_from(self.members.len()).unwrap_or(u8::MAX)
    }

    /// The host with this index, from 0 on.
    pub fn host(&self, index: usize) -> &Arc<Host> {
        &self.members[index].node.host
    }

    /// The node with this index, from 0 on.
    pub fn node(&self, index: usize) -> &Node {
        &self.members[index].node
    }

    /// The index of the host of this name.
    pub fn index_of(&self, hostname: &str) -> Result<usize> {
        self.members
            .iter()
            .position(|member| member.node.host.hostname() == hostname)
            .with_context(|| format!("there is no host {hostname:?} in the lab"))
    }

    /// Which store it has.
    pub fn store(&self) -> Option<StoreKind> {
        self.store
    }

    /// The index of the host whose member of the store leads, as the network's own host sees it.
    pub fn store_leader(&self) -> Result<usize> {
        let kind = self.store.context("this lab has no store")?;
        let servers = self
            .members
            .iter()
            .filter(|member| member.store.is_some())
            .count();
        store::leader(kind, self.switch.host(), u8::try_from(servers)?).map(|number| usize::from(number) - 1)
    }

    /// Does the same on every member at once.
    pub fn each<T: Send>(&mut self, act: impl Fn(&mut Member) -> Result<T> + Sync) -> Result<Vec<T>> {
        each(&mut self.members, |member| {
            act(member).with_context(|| format!("on {}", member.node.host.hostname()))
        })
    }

    /// Cuts a host's power: nobody hears from it any more, and its faulty disk forgets what was not synced.
    pub fn power_off(&mut self, index: usize) -> Result<()> {
        let member = &self.members[index];
        self.switch.unplug(member.number)?;
        member.node.host.power_off()
    }

    /// Cuts the power of all hosts, as near to the same moment as can be.
    pub fn power_off_all(&mut self) -> Result<()> {
        let on: Vec<usize> = (0..self.members.len())
            .filter(|&index| self.host(index).is_on())
            .collect();
        for &index in &on {
            self.switch.unplug(self.members[index].number)?;
        }
        each(&mut self.members, |member| {
            if member.node.host.is_on() {
                member.node.host.power_off()?;
            }
            Ok(())
        })
        .map(drop)
    }

    /// Does the same to every member of the store.
    pub fn stores(&mut self, act: impl Fn(&mut StoreMember) -> Result<()>) -> Result<()> {
        self.members
            .iter_mut()
            .filter_map(|member| member.store.as_mut())
            .try_for_each(act)
    }

    /// Takes a host away for good, with all that is on its disks: nobody will ever hear from it again.
    pub fn destroy(&mut self, index: usize) -> Result<()> {
        self.power_off(index)?;
        self.members.remove(index);
        Ok(())
    }

    /// Gives a host its power back, and starts all that it ran.
    pub fn power_on(&mut self, index: usize) -> Result<()> {
        self.boot(index)?;
        self.members[index].start_ended()
    }

    /// Takes every cut away, lets all go on that was stopped, puts the disks right, and starts all that has ended.
    pub fn heal(&mut self) -> Result<()> {
        // The store first, on all hosts: without it no daemon gets far.
        for index in 0..self.members.len() {
            if !self.host(index).is_on() {
                self.boot(index)?;
            }
            let member = &mut self.members[index];
            self.switch.set_link(member.number, true)?;
            member.node.host.heal()?;
            member.pause_all(false)?;
            if let Some(disk) = &member.disk {
                disk.set(disk::Mood::Well)?;
            }
            if let Some(store) = member.store.as_mut()
                && !store.is_running()
            {
                store.restart()?;
            }
        }
        self.each(|member| member.store.as_mut().map_or(Ok(()), StoreMember::await_ready))?;
        self.each(Member::start_ended).map(drop)
    }

    /// Power, network, disk and store of a host; no more yet.
    fn boot(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        member.node.host.power_on()?;
        self.switch.plug_in(&member.node.host, member.number)?;
        if let Some(disk) = &mut member.disk {
            disk.restart()?;
        }
        member.store.as_mut().map_or(Ok(()), StoreMember::restart)
    }
}

impl Member {
    /// Stops the daemon in its tracks (SIGSTOP), or lets it go on.
    pub fn pause(&mut self, paused: bool) -> Result<()> {
        let signal = if paused { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.node.bulkhead.signal_daemon(signal)
    }

    /// Starts what does not run: the daemon first, as dockerd asks it for its volumes.
    fn start_ended(&mut self) -> Result<()> {
        if !self.node.bulkhead.is_running() {
            self.node.bulkhead.restart()?;
        }
        if !self.node.dockerd.service().is_running() {
            self.node.dockerd.restart()?;
        }
        Ok(())
    }

    /// Stops everything on the host in its tracks, or lets it go on.
    pub fn pause_all(&self, paused: bool) -> Result<()> {
        let signal = if paused { "STOP" } else { "CONT" };
        // To all of the host's own process tree but its first process and the one that sends.
        self.node
            .host
            .sh(&format!("kill -{signal} -1 || :"))
            .run()
            .map(drop)
    }
}

impl Plan {
    /// What the hosts' names on this machine begin with.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }

    /// Gives it a store with members on the first three hosts, and lets the daemons form a cluster; else each is alone.
    #[must_use]
    pub fn store(mut self, kind: StoreKind) -> Self {
        self.store = Some(kind);
        self
    }

    /// How many hosts, from the first on, have a member of the store: as many as may be lost, twice, and one.
    #[must_use]
    pub fn servers(mut self, count: u8) -> Self {
        self.servers = count;
        self
    }

    /// Lets dockerd run the daemons, as managed plugins.
    #[must_use]
    pub fn managed(mut self) -> Self {
        self.managed = true;
        self
    }

    /// Size of each host's pool, as in `10G`.
    #[must_use]
    pub fn pool(mut self, size: &str) -> Self {
        size.clone_into(&mut self.pool);
        self
    }

    /// Puts each pool into a directory of its host's disk, instead of into a file. Not for managed plugins or disks that can fail.
    #[must_use]
    pub fn directory_pools(mut self) -> Self {
        self.in_directory = true;
        self
    }

    /// Puts each pool on a disk that can fail, and that forgets what was not synced when its host loses power.
    #[must_use]
    pub fn faulty_disks(mut self) -> Self {
        self.faulty = true;
        self
    }

    /// Makes the dockerds a Swarm of managers.
    #[must_use]
    pub fn swarm(mut self) -> Self {
        self.swarm = true;
        self
    }

    /// Loads an image into every dockerd; busybox is always there.
    #[must_use]
    pub fn image(mut self, name: &'static str) -> Self {
        self.images.push(name);
        self
    }

    /// Gives the daemons a further option.
    #[must_use]
    pub fn option(mut self, flag: &str, value: &str) -> Self {
        self.options.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Gives each host a program of its own, which can be replaced.
    #[must_use]
    pub fn own_programs(mut self) -> Self {
        self.own_programs = true;
        self
    }

    /// Gives the daemons a further option that has no value.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.options.push(flag.to_owned());
        self
    }

    /// Starts it all, and waits until it is ready.
    pub fn start(self) -> Result<Lab> {
        if let Some(kind) = self.store {
            kind.prepare()?;
        }
        let switch = Switch::start(&self.label)?;
        let names: String = (1..=self.count)
            .map(|n| format!("{} n{n}\n", address(n)))
            .collect();
        let mut hosts = Vec::new();
        for number in 1..=self.count {
            let name = format!("n{number}");
            let host = Host::start_with(&format!("{}-{name}", self.label), Some(&name), &names)?;
            switch.plug_in(&host, number)?;
            hosts.push((number, host, None));
        }
        if let Some(kind) = self.store {
            for (number, host, store) in &mut hosts {
                if *number <= self.members_of_store() {
                    *store = Some(StoreMember::start(host, kind, *number, self.members_of_store())?);
                }
            }
            for (_, _, store) in &mut hosts {
                store.as_mut().map_or(Ok(()), StoreMember::await_ready)?;
            }
        }
        let members = each(&mut hosts, |(number, host, store)| {
            self.member(*number, host, store.take())
                .with_context(|| format!("on {}", host.hostname()))
        })?;
        let mut lab = Lab {
            members,
            switch,
            store: self.store,
        };
        if self.swarm {
            swarm::form(&lab)?;
        }
        lab.each(|member| {
            // A driver that has been used once is known to Swarm at once.
            member.node.dockerd.run("volume ls --quiet").map(drop)
        })?;
        Ok(lab)
    }

    fn members_of_store(&self) -> u8 {
        self.count.min(self.servers)
    }

    fn member(&self, number: u8, host: &Arc<Host>, store: Option<StoreMember>) -> Result<Member> {
        let program = if self.own_programs {
            bulkhead::install(host)?
        } else {
            programs::bulkhead()?
        };
        // As a user has it.
        let install = if self.managed {
            format!(
                "printf '%s\\n' '#!/bin/sh' 'exec {} --socket {} \"$@\"' >/usr/local/bin/bulkhead; \
                 chmod 755 /usr/local/bin/bulkhead",
                program.display(),
                managed::SOCKET
            )
        } else {
            format!("ln -s {} /usr/local/bin/bulkhead", program.display())
        };
        host.sh(&install).run()?;
        let disk = self.faulty.then(|| FaultyDisk::start(host)).transpose()?;
        let mut options = self.options.clone();
        if let Some(kind) = self.store {
            options.extend([
                "--store".to_owned(),
                kind.url(self.members_of_store()),
                "--cluster".to_owned(),
                "lab".to_owned(),
            ]);
        }
        let file = if self.faulty { disk::POOL } else { node::POOL };
        let (bulkhead, dockerd) = if self.managed {
            let dockerd = Dockerd::start(host)?;
            let arguments = format!("args={}", options.join(" "));
            let plugin = ManagedPlugin::install(host, &dockerd, "bulkhead", &[&arguments])?;
            let bulkhead = Bulkhead::of_plugin(host, plugin)?;
            bulkhead.add_pool(file, &self.pool)?;
            (bulkhead, dockerd)
        } else {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let bulkhead = Bulkhead::start_from(host, program, &options)?;
            if self.in_directory {
                bulkhead.add_directory_pool(node::POOL_DIRECTORY)?;
            } else {
                bulkhead.add_pool(file, &self.pool)?;
            }
            (bulkhead, Dockerd::start(host)?)
        };
        for name in &self.images {
            image::load(&dockerd, name)?;
        }
        Ok(Member {
            number,
            node: Node::assemble(dockerd, bulkhead, host)?,
            store,
            disk,
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // In good order dockerd alone would take its time on each host; what counts is that nothing is left.
        if !thread::panicking() {
            let _ = each(&mut self.members, |member| {
                if member.node.host.is_on() {
                    member.node.host.power_off()?;
                }
                Ok(())
            });
        }
    }
}

/// Does the same with all items at once; the first error counts.
fn each<I: Send, T: Send>(items: &mut [I], act: impl Fn(&mut I) -> Result<T> + Sync) -> Result<Vec<T>> {
    let act = &act;
    thread::scope(|scope| {
        let workers: Vec<_> = items
            .iter_mut()
            .map(|item| scope.spawn(move || act(item)))
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .map_err(|_| anyhow!("a thread of the lab panicked"))?
            })
            .collect()
    })
}

/// How long a change on one node may take until it is seen on all.
pub const SEEN: Duration = Duration::from_secs(1);
