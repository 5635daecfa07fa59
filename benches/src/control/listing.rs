//! A real daemon as one more node of the cluster, and how long it takes to answer Docker's `List`. Owns the daemon and its
//! directories; leaves neither behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use hyperlocal::{UnixConnector, Uri};
use tempfile::TempDir;

use super::fleet::CLUSTER;
use crate::spread::Spread;

/// How long it may take until it serves.
const START: Duration = Duration::from_secs(120);

/// The daemon.
pub struct Daemon {
    process: Child,
    socket: PathBuf,
    dir: TempDir,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// Volumes in one answer.
    pub volumes: usize,
    /// Bytes of one answer.
    pub bytes: usize,
    /// From the call to the end of the answer.
    pub time: Spread,
    /// The daemon's processor time for one answer.
    pub cpu: Duration,
    /// Memory of the daemon: anonymous pages, in bytes.
    pub memory: u64,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has nothing mounted, so it need not be asked.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Daemon {
    /// Starts one that joins the cluster.
    pub async fn start(binary: &Path, store: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("bulkhead-bench-").tempdir()?;
        let socket = dir.path().join("docker.sock");
        let log = fs::File::create(dir.path().join("log"))?;
        let path = |name: &str| dir.path().join(name);
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(binary)
            .args([
                "daemon",
                "--cluster",
                CLUSTER,
                "--node-name",
                "daemon",
                "--store",
                store,
            ])
            .args(["--docker-api", ""])
            .arg("--state-dir")
            .arg(path("state"))
            .arg("--run-dir")
            .arg(path("run"))
            .arg("--mounts-dir")
            .arg(path("mounts"))
            .arg("--socket")
            .arg(path("control.sock"))
            .arg("--docker-socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        let mut daemon = Self { process, socket, dir };
        let end = Instant::now() + START;
        while daemon.list().await.is_err() {
            if let Some(status) = daemon.process.try_wait()? {
                let log = fs::read_to_string(daemon.dir.path().join("log"))?;
                bail!("the daemon has ended ({status}): {log}");
            }
            ensure!(Instant::now() < end, "the daemon does not serve within {START:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(daemon)
    }

    /// Lists so many times.
    pub async fn measure(&self, times: u32) -> anyhow::Result<Listing> {
        let mut durations = Vec::new();
        let mut answer = Bytes::new();
        let before = self.cpu()?;
        for _ in 0..times {
            let begin = Instant::now();
            answer = self.list().await?;
            durations.push(begin.elapsed());
        }
        let cpu = (self.cpu()? - before) / times.max(1);
        let volumes = answer.windows(7).filter(|window| window == b"\"Name\":").count();
        Ok(Listing {
            volumes,
            bytes: answer.len(),
            time: Spread::of(durations),
            cpu,
            memory: memory(self.process.id())?,
        })
    }

    async fn list(&self) -> anyhow::Result<Bytes> {
        let http = legacy::Client::builder(TokioExecutor::new()).build(UnixConnector);
        let uri: hyper::Uri = Uri::new(&self.socket, "/VolumeDriver.List").into();
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .body(Full::new(Bytes::from_static(b"{}")))?;
        let answer = tokio::time::timeout(Duration::from_secs(30), http.request(request)).await??;
        ensure!(answer.status().is_success(), "List answers {}", answer.status());
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    /// Processor time that it has used.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            // One that ends at this moment counts no more.
            let stat = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            total += stat.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }
}

/// Anonymous memory of a process that is in use, in bytes: its heap and stacks, without its program.
pub fn memory(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("the kernel does not tell it")?.parse::<u64>()? * 1024)
}
