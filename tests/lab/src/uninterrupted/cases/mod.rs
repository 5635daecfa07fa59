//! What a random kill does not try: the keeper's own end, a replica's restart, a node that is cut off, an upgrade.
//!
//! | file | owns |
//! |---|---|
//! | [`keeper`] | the keeper killed under load: all fails cleanly, and comes back whole |
//! | [`replica`] | a replica's daemon killed: in sync again after how long |
//! | [`cut`] | a node that is cut off fences itself, however often its daemon is started again |
//! | [`upgrade`] | a rolling upgrade, and what is refused or rolled back |
//!
//! It owns their order and the report. It must never let one case hide another.

pub mod cut;
pub mod keeper;
pub mod replica;
pub mod upgrade;

use std::time::Duration;

use anyhow::{Context, Result};

use super::loads::Loads;
use crate::lab::Lab;
use crate::report::Report;
use crate::{Node, StoreKind, image, keep};

/// How long clients may run at most; every case ends them earlier.
const LONG: Duration = Duration::from_secs(900);
/// How long containers may take to be killed or removed.
const END: Duration = Duration::from_secs(120);

/// Plays all cases; `only` names those that are wanted, by a part of their names.
pub fn all(store: StoreKind, only: &str) -> Result<()> {
    let mut report = Report::new(format!("Uninterrupted, cases, on {store}"));
    let wanted = |name: &str| name.contains(only);
    let mut play = |name: &str, nodes: u8, case: fn(&mut Lab) -> Result<Vec<crate::report::Figure>>| {
        if !wanted(name) {
            return;
        }
        report.case(name, || {
            let mut lab = lab(nodes, store)?;
            let outcome = case(&mut lab);
            if outcome.is_err() {
                keep::logs(&lab, &format!("case-{}", name.replace(' ', "-")));
            }
            outcome
        });
    };
    play("the keeper killed under load", 1, keeper::killed);
    play(
        "programs that do not do are refused or rolled back",
        1,
        upgrade::refused,
    );
    play("a replica's daemon killed", 3, replica::killed);
    play("rolling upgrade of three nodes", 3, upgrade::rolling);
    play("cut off, daemon killed once", 3, cut::killed_once);
    play("cut off, daemon killed again and again", 3, cut::killed_often);
    report.finish()
}

fn lab(nodes: u8, store: StoreKind) -> Result<Lab> {
    let mut plan = Lab::new(nodes)
        .label("unint")
        .own_programs()
        .image(image::REGISTER)
        .image(image::POSTGRES);
    if nodes > 1 {
        plan = plan.store(store);
    }
    plan.start()
}

/// Kills and removes every container of the loads.
fn clear(node: &Node, loads: &Loads) -> Result<()> {
    for container in loads.containers() {
        let remove = node.dockerd.docker(["rm", "-f", &container]).within(END);
        remove
            .run()
            .with_context(|| format!("removing container {container}"))?;
    }
    Ok(())
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
