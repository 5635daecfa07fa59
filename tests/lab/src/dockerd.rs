//! A dockerd on a host, and the docker command line.
//!
//! It owns dockerd's process (containerd is its child). Everything that dockerd keeps lies in the host's folder, its
//! sockets in the host's `/run`, its control groups below one of the host's name: another dockerd on the machine is not
//! touched.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::Cmd;
use crate::host::Host;
use crate::service::Service;
use crate::wait;

/// How long dockerd may take to answer. A dead volume plugin alone costs 15 s for each volume that it knows.
const START: Duration = Duration::from_secs(90);

/// How the docker command line finds the host's dockerd, whatever context the user of this machine has chosen.
pub(crate) const SOCKET: [&str; 2] = ["-H", "unix:///run/docker.sock"];

/// A dockerd, from its start to its end.
#[derive(Debug)]
pub struct Dockerd {
    host: Arc<Host>,
    options: Vec<String>,
    service: Service,
}

impl Dockerd {
    /// Starts dockerd with a bridge and iptables rules in the host's own network.
    pub fn start(host: &Arc<Host>) -> Result<Self> {
        Self::start_with(host, &[])
    }

    /// Starts dockerd without a bridge and without iptables; containers then need `--network none` or `host`.
    pub fn start_without_network(host: &Arc<Host>) -> Result<Self> {
        Self::start_with(
            host,
            &[
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
            ],
        )
    }

    /// Starts dockerd with further options.
    pub fn start_with(host: &Arc<Host>, options: &[&str]) -> Result<Self> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let mut dockerd = Self {
            host: Arc::clone(host),
            service: Self::launch(host, &options)?,
            options,
        };
        dockerd.await_ready()?;
        Ok(dockerd)
    }

    /// The docker command line, talking to this dockerd.
    pub fn docker<I: IntoIterator<Item: AsRef<str>>>(&self, args: I) -> Cmd {
        self.host
            .cmd("docker")
            .args(SOCKET)
            .args(args.into_iter().map(|a| a.as_ref().to_owned()))
    }

    /// [`Dockerd::docker`] with the arguments in one line, separated by blanks; returns what it printed.
    pub fn run(&self, line: &str) -> Result<String> {
        self.docker(line.split_whitespace()).run()
    }

    /// Runs a shell line in a running container.
    pub fn exec(&self, container: &str, line: &str) -> Cmd {
        self.docker(["exec", container, "sh", "-euc", line])
    }

    /// `docker inspect` of anything, one field of it, as a JSON pointer.
    pub fn inspect(&self, object: &str, pointer: &str) -> Result<Value> {
        let text = self.docker(["inspect", object]).run()?;
        let all: Value = serde_json::from_str(&text)?;
        all.pointer(&format!("/0{pointer}"))
            .cloned()
            .with_context(|| format!("{object} has no {pointer}:\n{text}"))
    }

    /// Waits until a container runs, as its restart policy makes it.
    pub fn await_running(&self, container: &str) -> Result<()> {
        wait::until("the container runs", Duration::from_secs(60), || {
            Ok((self.inspect(container, "/State/Running")? == true).then_some(()))
        })
        .with_context(|| container.to_owned())
    }

    /// Makes an image from a tar archive on the machine.
    pub fn import(&self, archive: &Path, name: &str, changes: &[&str]) -> Result<()> {
        let mut args = vec!["import".to_owned()];
        args.extend(
            changes
                .iter()
                .flat_map(|change| ["-c".to_owned(), (*change).to_owned()]),
        );
        args.extend([archive.display().to_string(), name.to_owned()]);
        self.docker(args).run().map(drop)
    }

    /// dockerd's process.
    pub fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Kills dockerd without warning. Its containers go on running, without anybody who looks after them.
    pub fn kill(&mut self) -> Result<()> {
        self.service.kill()
    }

    /// Ends dockerd in an orderly way, which stops the containers.
    pub fn stop(&mut self) -> Result<()> {
        self.service.terminate(Duration::from_secs(60)).map(drop)
    }

    /// Starts it again after [`Dockerd::kill`] or [`Dockerd::stop`], and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        self.service = Self::launch(&self.host, &self.options)?;
        self.await_ready()
    }

    fn launch(host: &Host, options: &[String]) -> Result<Service> {
        let cmd = Cmd::new("dockerd")
            .words("-H unix:///run/docker.sock --data-root /var/lib/docker --exec-root /run/docker --pidfile /run/docker.pid")
            .arg(format!("--cgroup-parent=/{}", host.name()))
            .args(options);
        host.spawn("dockerd", cmd)
    }

    fn await_ready(&mut self) -> Result<()> {
        let ask = self
            .docker(["version", "--format", "{{.Server.Version}}"])
            .within(Duration::from_secs(10));
        self.service.until("dockerd answers", START, || {
            Ok(ask.output().is_ok_and(|o| o.status.success()).then_some(()))
        })
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // An orderly end takes away what dockerd mounted; the host's end would do so too, a test that looks would not.
        let _ = self.service.terminate(Duration::from_secs(20));
    }
}
