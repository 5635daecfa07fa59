//! The network of several hosts: a bridge in a namespace of its own, without a way out.
//!
//! It owns the bridge and the cables. Two labs on one machine have the same addresses and never see each other. It must
//! never make a device in the machine's own network.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::host::Host;

/// The bridge with its cables.
#[derive(Debug)]
pub struct Switch {
    host: Arc<Host>,
}

/// The address of the host with this number.
pub const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, 10 + number)
}

impl Switch {
    /// The switch's own address, from where everything can be reached.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    /// A switch without cables.
    pub fn start(label: &str) -> Result<Self> {
        let host = Host::start(&format!("{label}-net"))?;
        let line = format!(
            "ip link add br0 type bridge forward_delay 0; ip addr add {}/24 dev br0; ip link set br0 up",
            Self::ADDRESS
        );
        host.sh(&line).run().context("cannot make the network")?;
        Ok(Self { host })
    }

    /// The bridge's own host: a place outside of all others that reaches each.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Gives a host its network card, with the address of its number, at its first start or after its power came back.
    pub fn plug_in(&self, host: &Host, number: u8) -> Result<()> {
        let line = format!(
            // The same card after a power cut: the others go on with the address that they know.
            "ip link add h{number} type veth peer name eth0 address 02:00:0a:63:00:{number:02x} netns {}; \
             ip link set h{number} master br0 up",
            host.pid()
        );
        // Ids of processes mean something in the machine's own process tree only: the host's mounts and processes stay out.
        let pid = self.host.pid().to_string();
        crate::Cmd::new("sh")
            .args(["-euc", &line])
            .behind(["nsenter", "-t", &pid, "-n", "--"])
            .run()?;
        let line = format!(
            "ip addr add {}/24 dev eth0; ip link set eth0 up; ip route add default via {}",
            address(number),
            Self::ADDRESS
        );
        host.sh(&line).run().map(drop)
    }

    /// Pulls a host's cable out for good: nobody hears how its connections end.
    pub fn unplug(&self, number: u8) -> Result<()> {
        self.host.sh(&format!("ip link del h{number}")).run().map(drop)
    }

    /// Takes the host with this number off the network, both ways, or back on.
    pub fn set_link(&self, number: u8, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.host
            .sh(&format!("ip link set h{number} {state}"))
            .run()
            .map(drop)
    }
}
