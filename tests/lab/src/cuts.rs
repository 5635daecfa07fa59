//! Cuts of a host's network, by rules on the host itself.
//!
//! It owns the rules that it has put in place and takes away exactly those. Sockets of the host's own loopback are cut too
//! where the rule says so: that is how the first of them is, in the founding story.

use anyhow::Result;

use crate::host::{Host, lock};

/// The founding story's rules: nothing goes out but answers of sshd. The host still receives.
pub const STORY: [&str; 2] = [
    "iptables -I OUTPUT -p tcp --sport 22 -j ACCEPT",
    "iptables -I OUTPUT 2 -j DROP",
];

impl Host {
    /// Cuts the host off as the founding story does: nothing gets out, also not to itself; what is sent to it arrives.
    pub fn cut(&self) -> Result<()> {
        self.rules(
            &STORY,
            &[
                "iptables -D OUTPUT 2",
                "iptables -D OUTPUT -p tcp --sport 22 -j ACCEPT",
            ],
        )
    }

    /// The other direction only: what the host sends gets out, nothing arrives.
    pub fn cut_incoming(&self) -> Result<()> {
        self.rules(
            &[
                "iptables -I INPUT -i eth0 -j DROP",
                "iptables -I FORWARD -i eth0 -j DROP",
            ],
            &[
                "iptables -D INPUT -i eth0 -j DROP",
                "iptables -D FORWARD -i eth0 -j DROP",
            ],
        )
    }

    /// Nothing gets out over the network; the host's own loopback works.
    pub fn cut_outgoing(&self) -> Result<()> {
        self.rules(
            &[
                "iptables -I OUTPUT -o eth0 -j DROP",
                "iptables -I FORWARD -o eth0 -j DROP",
            ],
            &[
                "iptables -D OUTPUT -o eth0 -j DROP",
                "iptables -D FORWARD -o eth0 -j DROP",
            ],
        )
    }

    /// Both directions, for the host and its containers; the host's own loopback works.
    pub fn cut_both(&self) -> Result<()> {
        self.cut_incoming()?;
        self.cut_outgoing()
    }

    /// Cuts what goes from this host to an address, and what comes from there.
    pub fn cut_from(&self, address: std::net::Ipv4Addr) -> Result<()> {
        let rules = [
            format!("INPUT -s {address} -j DROP"),
            format!("OUTPUT -d {address} -j DROP"),
        ];
        let make = rules.each_ref().map(|rule| format!("iptables -I {rule}"));
        let undo = rules.each_ref().map(|rule| format!("iptables -D {rule}"));
        self.rules(
            &make.each_ref().map(String::as_str),
            &undo.each_ref().map(String::as_str),
        )
    }

    /// Whether a cut is in place.
    pub fn is_cut(&self) -> bool {
        !lock(&self.cuts).is_empty()
    }

    /// Takes away every cut that is in place.
    pub fn heal(&self) -> Result<()> {
        let mut cuts = lock(&self.cuts);
        // The newest first: rules are counted from the top.
        while let Some(line) = cuts.pop() {
            self.sh(&line).run()?;
        }
        Ok(())
    }

    fn rules(&self, make: &[&str], undo: &[&str]) -> Result<()> {
        let mut cuts = lock(&self.cuts);
        self.sh(&make.join("; ")).run()?;
        cuts.push(undo.join("; "));
        Ok(())
    }
}
