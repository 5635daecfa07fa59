//! `bulkhead doctor`: whether this machine has what Bulkhead needs, each finding with a remedy. Looks, and changes nothing;
//! works without a daemon, and asks it for the rest if there is one.

use std::fs;
use std::net::ToSocketAddrs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_engine::host::clock;
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::Client;
use super::print::{Printer, table};
use super::{CliError, Code};
use crate::options::format_size;
use crate::service::{NodeView, StatusView, StoreView};

/// The oldest kernel that it is tried with.
const KERNEL: (u32, u32) = (5, 10);
/// From this one on requests that a dead daemon left unanswered are sent again.
const RESENDS: (u32, u32) = (6, 9);
/// Less than this on the disk of the state directory leaves no room for what the daemon keeps.
const STATE_ROOM: u64 = 1 << 30;
/// How long another node's port is waited for.
const REACH: Duration = Duration::from_secs(2);

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Warning,
    /// It does not work so.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    what: String,
    verdict: Verdict,
    found: String,
    /// What to do; empty if nothing is to be done.
    remedy: String,
}

impl Finding {
    fn ok(what: &str, found: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: String::new(),
        }
    }

    fn ill(what: &str, verdict: Verdict, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict,
            remedy: remedy.into(),
            ..Self::ok(what, found)
        }
    }
}

pub(super) async fn run(client: &Client, printer: &Printer) -> Result<Code, CliError> {
    let mut findings = vec![
        kernel(),
        root(),
        device("/dev/fuse", "fuse"),
        device("/dev/loop-control", "loop"),
    ];
    findings.extend(file_systems());
    findings.extend([time(), state_dir(), docker()]);
    findings.extend(daemon(client).await);
    printer.value(&findings, |findings| screen(findings))?;
    let worst = findings.iter().map(|finding| finding.verdict).max();
    Ok(if worst == Some(Verdict::Bad) {
        Code::Unhealthy
    } else {
        Code::Ok
    })
}

fn kernel() -> Finding {
    let what = "kernel";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(found) if found >= RESENDS => Finding::ok(what, release),
        Some(found) if found >= KERNEL => Finding::ill(
            what,
            Verdict::Warning,
            release,
            format!(
                "a restart of the daemon ends what uses its volumes; from {}.{} on it goes on",
                RESENDS.0, RESENDS.1
            ),
        ),
        Some(_) => Finding::ill(
            what,
            Verdict::Bad,
            release,
            format!("use a kernel from {}.{} on", KERNEL.0, KERNEL.1),
        ),
        None => Finding::ill(
            what,
            Verdict::Warning,
            "not known",
            "/proc is not mounted as usual",
        ),
    }
}

/// Major and minor of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        Finding::ok("user", "root")
    } else {
        let found = "not root: not everything can be looked at";
        Finding::ill("user", Verdict::Warning, found, "run it with sudo")
    }
}

fn device(path: &str, module: &str) -> Finding {
    match fs::metadata(path) {
        Ok(_) => Finding::ok(path, "there"),
        Err(error) => Finding::ill(
            path,
            Verdict::Bad,
            error.to_string(),
            format!("load its module: modprobe {module}"),
        ),
    }
}

/// File systems: the kernel's part and the programs.
fn file_systems() -> Vec<Finding> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let modules = modules_dir();
    let one = |(name, program, package): (&str, &str, &str)| {
        let in_kernel = known.split_whitespace().any(|word| word == name)
            || modules.join(format!("kernel/fs/{name}")).is_dir();
        let has_program = in_path(program);
        let needed = name == "ext4";
        let verdict = if needed { Verdict::Bad } else { Verdict::Warning };
        match (in_kernel, has_program) {
            (true, true) => Finding::ok(name, format!("the kernel knows it, and {program} is there")),
            (false, _) => Finding::ill(
                name,
                verdict,
                "the kernel does not know it",
                format!("modprobe {name}, or do without volumes with fs={name}"),
            ),
            (true, false) => Finding::ill(
                name,
                verdict,
                format!("there is no {program}"),
                format!("install {package}, or do without volumes with fs={name}"),
            ),
        }
    };
    [
        ("ext4", "mkfs.ext4", "e2fsprogs"),
        ("xfs", "mkfs.xfs", "xfsprogs"),
        ("btrfs", "mkfs.btrfs", "btrfs-progs"),
    ]
    .map(one)
    .into()
}

fn modules_dir() -> PathBuf {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Path::new("/lib/modules").join(release.trim())
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .any(|dir| dir.join(program).is_file())
}

fn time() -> Finding {
    let what = "clock";
    match clock::is_synchronised() {
        Ok(true) => Finding::ok(what, "kept in step by a time service"),
        Ok(false) => Finding::ill(
            what,
            Verdict::Warning,
            "nothing keeps it in step",
            "run a time service, such as systemd-timesyncd or chrony; a node whose clock is far off may not join",
        ),
        Err(error) => Finding::ill(what, Verdict::Warning, error.to_string(), "ask again as root"),
    }
}

fn state_dir() -> Finding {
    let path = Path::new("/var/lib");
    let what = "/var/lib";
    match statvfs(path) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let found = format!("{} free", format_size(free));
            if free >= STATE_ROOM {
                Finding::ok(what, found)
            } else {
                Finding::ill(
                    what,
                    Verdict::Warning,
                    found,
                    "make room: the daemon keeps its identity and its copy of the records there",
                )
            }
        }
        Err(error) => Finding::ill(what, Verdict::Bad, error.to_string(), "make it"),
    }
}

fn docker() -> Finding {
    let what = "Docker";
    let sockets = ["/run/docker.sock", "/var/run/docker.sock"];
    match sockets.iter().find(|path| UnixStream::connect(path).is_ok()) {
        Some(path) => Finding::ok(what, format!("it listens at {path}")),
        None => Finding::ill(
            what,
            Verdict::Warning,
            "it does not listen at /run/docker.sock",
            "install and start it; volumes can be made without it, but nobody mounts them",
        ),
    }
}

/// What the daemon knows.
async fn daemon(client: &Client) -> Vec<Finding> {
    let status: StatusView = match client.get("/status").await {
        Ok(status) => status,
        Err(error) => {
            let remedy = "start it: systemctl start bulkhead; what follows from it is not looked at";
            return vec![Finding::ill("daemon", Verdict::Bad, error.to_string(), remedy)];
        }
    };
    let mut findings = vec![Finding::ok(
        "daemon",
        format!("version {} runs as node {}", status.version, status.node),
    )];
    findings.extend(
        status
            .problems
            .iter()
            .map(|problem| Finding::ill("status", Verdict::Bad, problem, "as it says")),
    );
    if let Ok(store) = client.get::<StoreView>("/store").await {
        findings.push(of_store(&store));
        for member in store.members {
            if let Some(trouble) = member.trouble {
                let what = format!("store server {}", member.name);
                findings.push(Finding::ill(
                    &what,
                    Verdict::Warning,
                    trouble,
                    format!("look at {}", member.address),
                ));
            }
        }
    }
    if let Ok(nodes) = client.get::<Vec<NodeView>>("/nodes").await {
        for node in nodes.iter().filter(|node| !node.this) {
            if let Some(address) = &node.data_address {
                findings.push(reach(&node.name, address).await);
            }
        }
    }
    findings
}

fn of_store(store: &StoreView) -> Finding {
    let slow = |ms: &f64| *ms > 100.0;
    match (store.reachable, store.latency_ms) {
        (true, Some(ms)) if slow(&ms) => Finding::ill(
            "store",
            Verdict::Warning,
            format!("{} answers, but takes {ms:.0} ms", store.name),
            "look at the disks and the network of its servers",
        ),
        (true, Some(ms)) => Finding::ok("store", format!("{} answers in {ms:.1} ms", store.name)),
        (_, _) => Finding::ill(
            "store",
            Verdict::Bad,
            store
                .reason
                .clone()
                .unwrap_or_else(|| "it does not answer".to_owned()),
            "`bulkhead store status` shows its servers",
        ),
    }
}

/// Whether the replicas of another node can be reached from here.
async fn reach(name: &str, address: &str) -> Finding {
    let what = format!("way to {name}");
    let to = address.to_owned();
    let resolved =
        tokio::task::spawn_blocking(move || to.to_socket_addrs().map(Iterator::collect::<Vec<_>>)).await;
    let failed = |found: String| {
        Finding::ill(
            &what,
            Verdict::Bad,
            found,
            format!("open the port in the firewalls between here and {name}, or correct data_address there"),
        )
    };
    let addresses = match resolved {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return failed(format!("{address}: {error}")),
        Err(error) => return failed(error.to_string()),
    };
    let mut why = "it names no address".to_owned();
    for socket in addresses {
        match timeout(REACH, TcpStream::connect(socket)).await {
            Ok(Ok(_)) => return Finding::ok(&what, format!("{address} answers")),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer within {} s", REACH.as_secs()),
        }
    }
    failed(format!("{address}: {why}"))
}

fn screen(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let word = match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Bad => "BAD",
            };
            [
                word.to_owned(),
                finding.what.clone(),
                finding.found.clone(),
                finding.remedy.clone(),
            ]
        })
        .collect();
    table(["", "WHAT", "FOUND", "REMEDY"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_their_numbers() {
        assert_eq!(version("6.18.0-1-amd64"), Some((6, 18)));
        assert_eq!(version("5.4.0"), Some((5, 4)));
        assert_eq!(version(""), None);
        assert!(version("5.9.1") < Some(KERNEL) && version("5.10") >= Some(KERNEL));
    }

    #[test]
    fn every_finding_that_is_not_well_has_a_remedy() {
        let findings = [
            vec![kernel(), time(), docker(), device("/nonexistent", "x")],
            file_systems(),
        ]
        .concat();
        for finding in &findings {
            assert_eq!(
                finding.verdict == Verdict::Ok,
                finding.remedy.is_empty(),
                "{finding:?}"
            );
        }
        assert!(screen(&findings).contains("modprobe x"));
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_found() {
        let local = "127.0.0.1:0".parse().expect("an address");
        // Bound until the end, so that no test beside this one is given the same port.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(local).expect("a port");
        let address = socket.local_addr().expect("its address").to_string();
        assert_eq!(reach("n2", &address).await.verdict, Verdict::Bad);
        let _listener = socket.listen(1).expect("to listen");
        assert_eq!(reach("n2", &address).await.verdict, Verdict::Ok);
    }
}
