//! The application of a stack: it writes into the database over the stack's own network, wherever either of them runs.
//!
//! It owns what the application was told of. It must never count a row that the application was not told is committed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::stage::{SERVICE, STACK, Stage, VOLUME};
use crate::{image, swarm, wait};

/// The application's name in the stack.
const APPLICATION: &str = "app";

/// The stack, as an operator writes it. Its application tells of each row once it is committed.
pub(super) fn stack() -> String {
    format!(
        "version: '3.8'
services:
  {SERVICE}:
    image: {postgres}
    networks: [back]
    volumes: ['{VOLUME}:/data']
    deploy:
      endpoint_mode: dnsrr
      update_config: {{order: stop-first}}
  {APPLICATION}:
    image: {postgres}
    entrypoint: ['sh', '-uc']
    command:
      - |
        export PGCONNECT_TIMEOUT=2
        trap 'exit 0' TERM
        while :; do
          n=$$(date +%s)$$(awk '{{printf \"%02d\", int($$1 * 100) % 100}}' /proc/uptime)
          timeout 10 psql -h {SERVICE} -d demo -qc \"insert into orders values ('$$n')\" && echo \"commit $$n\"
          sleep 0.2
        done
    networks: [back]
    init: true
networks:
  back: {{driver: overlay}}
volumes:
  {VOLUME}:
    driver: bulkhead
    name: {VOLUME}
    driver_opts: {{size: 1G}}
",
        postgres = image::POSTGRES
    )
}

impl Stage {
    /// What the application was told is committed, on whatever host it ran.
    pub fn orders(&self) -> Result<BTreeSet<String>> {
        let filter = format!("label=com.docker.swarm.service.name={STACK}_{APPLICATION}");
        let mut orders = BTreeSet::new();
        for index in (0..self.lab.members.len()).filter(|&index| self.lab.host(index).is_on()) {
            let dockerd = &self.lab.node(index).dockerd;
            for id in dockerd.docker(["ps", "-aq", "--filter", &filter]).run()?.lines() {
                let told = dockerd.docker(["logs", id]).output()?.stdout;
                orders.extend(
                    told.lines()
                        .filter_map(|line| line.strip_prefix("commit "))
                        .map(str::to_owned),
                );
            }
        }
        Ok(orders)
    }

    /// Waits until the application has orders committed that it had not before.
    pub fn await_application(&self, deadline: Duration) -> Result<()> {
        let before = self.orders()?.len();
        wait::until("the application's orders are committed", deadline, || {
            Ok((self.orders()?.len() > before + 3).then_some(()))
        })
    }

    /// Every order that the application was told of is there.
    pub fn verify_orders(&self) -> Result<usize> {
        let told = self.orders()?;
        let text = self.sql("select n from orders")?;
        let there: BTreeSet<String> = text.lines().map(str::to_owned).collect();
        let lost: Vec<_> = told.difference(&there).take(10).collect();
        ensure!(
            lost.is_empty(),
            "orders of the application are lost: {lost:?} of {}",
            told.len()
        );
        Ok(told.len())
    }

    /// Whether a host still runs something of the service's.
    pub(super) fn runs_service(&self, index: usize) -> Result<bool> {
        swarm::container(&self.lab.node(index).dockerd, &self.service()).map(|found| found.is_some())
    }
}
