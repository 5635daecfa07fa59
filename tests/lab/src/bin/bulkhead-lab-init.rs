//! The first process of a host of the lab, and the guardian that stays outside.
//!
//! It owns the host's namespaces: it makes them, gives the host a root file system over the machine's own (what the host
//! writes goes to memory, but for the folders that are bound in), collects orphans, and ends when its standard input does.
//! With it everything on the host ends. It must never write to the machine's root file system.
//!
//! `bulkhead-lab-init DIR`: the host's own folder, with its [`Plan`]. The guardian obeys a line at a time: `on` starts the
//! host and is answered by `ready PID`, `off` ends it as a power cut does and is answered by `off`. When its input ends,
//! whoever asked for the host is done or dead: it ends the host and removes the folder.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use bulkhead_lab::leaks;
use bulkhead_lab::plan::Plan;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, pivot_root};

/// Marks the second stage, which is process 1 of the new process tree.
const INSIDE: &str = "LAB_INSIDE";

fn main() -> ExitCode {
    let result = match env::args().nth(1) {
        None => Err(anyhow::anyhow!("usage: bulkhead-lab-init DIR")),
        Some(dir) if env::var_os(INSIDE).is_some() => inside(Path::new(&dir)),
        Some(dir) => outside(Path::new(&dir)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bulkhead-lab-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A host that runs.
struct Running {
    /// `unshare`, whose only child is the host's first process.
    init: Child,
    /// The host's first process, as the machine sees it.
    pid: u32,
}

/// The guardian: starts and ends the host as it is told, and clears away what a host cannot take with it.
fn outside(dir: &Path) -> Result<ExitCode> {
    let plan = Plan::read(dir)?;
    let mut running: Option<Running> = None;
    for line in std::io::stdin().lines() {
        match (line?.as_str(), running.take()) {
            ("on", None) => {
                let host = start(dir)?;
                tell(&format!("ready {}", host.pid));
                running = Some(host);
            }
            ("off", Some(host)) => {
                end(&plan, dir, host)?;
                tell("off");
            }
            (other, host) => bail!(
                "{other:?} makes no sense now; the host is {}",
                if host.is_some() { "on" } else { "off" }
            ),
        }
    }
    if let Some(host) = running {
        end(&plan, dir, host)?;
    }
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Answers an order. Whoever gave it may be dead by now; then the end of its orders is what comes next.
fn tell(answer: &str) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{answer}").and_then(|()| stdout.flush());
}

fn start(dir: &Path) -> Result<Running> {
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--"])
        // Not by its name, which a new build takes away.
        .arg(format!("/proc/{}/exe", std::process::id()))
        .arg(dir);
    command
        .env(INSIDE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut init = command.spawn().context("cannot start the host's first process")?;
    let mut line = String::new();
    BufReader::new(init.stdout.take().context("no pipe")?).read_line(&mut line)?;
    match line.trim().strip_prefix("ready ") {
        Some(pid) => Ok(Running {
            pid: pid.parse()?,
            init,
        }),
        None => bail!(
            "the host's first process ended with {}; the lab needs root",
            init.wait()?
        ),
    }
}

fn end(plan: &Plan, dir: &Path, mut host: Running) -> Result<()> {
    leaks::clear(host.pid, &plan.name, dir, || {
        // With the first process of a process tree the kernel kills all others, stopped ones too.
        kill(Pid::from_raw(host.pid.cast_signed()), Signal::SIGKILL).context("cannot end the host")?;
        host.init
            .wait()
            .map(drop)
            .context("cannot wait for the host's first process")
    })
}

fn inside(dir: &Path) -> Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    let plan = Plan::read(dir)?;
    // The machine's /proc is still in place: it tells the id that the machine knows this process by.
    let pid = fs::read_link("/proc/self")?;

    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET,
    )
    .context("cannot make the host's namespaces")?;
    fs::write("/proc/sys/kernel/hostname", &plan.hostname).context("cannot set the host's name")?;
    root(&plan, dir)?;
    run("ip", &["link", "set", "lo", "up"])?;

    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    println!("ready {}", pid.display());
    std::io::stdout().flush()?;
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        children.wait()?;
    }
}

/// The host's root: the machine's files below, memory above; then what every system has, and the host's own folders.
fn root(plan: &Plan, dir: &Path) -> Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NONE)
        .context("cannot make the mounts private")?;
    let top = dir.join("root");
    let memory = dir.join("memory");
    fs::create_dir_all(&top)?;
    fs::create_dir_all(&memory)?;
    special("tmpfs", &memory, "mode=755")?;
    for part in ["upper", "work"] {
        fs::create_dir(memory.join(part))?;
    }
    let layers = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", memory.display());
    special("overlay", &top, &layers)?;
    special("proc", &top.join("proc"), "")?;
    special("sysfs", &top.join("sys"), "")?;
    if Path::new("/sys/fs/fuse/connections").exists() {
        special("fusectl", &top.join("sys/fs/fuse/connections"), "")?;
    }
    let all = MsFlags::MS_BIND | MsFlags::MS_REC;
    bind(Path::new("/sys/fs/cgroup"), &top.join("sys/fs/cgroup"), all)?;
    bind(Path::new("/dev"), &top.join("dev"), all)?;
    special("tmpfs", &top.join("run"), "mode=755")?;
    special("tmpfs", &top.join("tmp"), "mode=1777")?;
    fs::create_dir_all(top.join("run/lock"))?;
    for (source, target) in &plan.binds {
        let target = top.join(target.strip_prefix("/").unwrap_or(target));
        fs::create_dir_all(&target)?;
        // Without what is mounted below: that may be this very root.
        bind(source, &target, MsFlags::MS_BIND)?;
    }
    // A boot of its own at each start: the programs under test tell by it whether a page cache can have survived.
    let boot = top.join("run/lab-boot-id");
    fs::copy("/proc/sys/kernel/random/uuid", &boot).context("cannot make a boot id")?;
    bind(
        &boot,
        &top.join("proc/sys/kernel/random/boot_id"),
        MsFlags::MS_BIND,
    )?;
    write(top.join("etc/hostname"), &format!("{}\n", plan.hostname))?;
    // No registry answers here; without this each pull waits for its resolver.
    write(
        top.join("etc/hosts"),
        &format!(
            "127.0.0.1 localhost registry-1.docker.io index.docker.io\n{}",
            plan.hosts
        ),
    )?;
    write(
        top.join("etc/resolv.conf"),
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    )?;

    chdir(&top)?;
    pivot_root(".", ".").context("cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot let go of the machine's mounts")?;
    chdir("/")?;
    mount(NONE, "/", NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE).context("cannot share the mounts")?;
    Ok(())
}

const NONE: Option<&str> = None;

fn special(kind: &str, target: &Path, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount {kind} on {}", target.display()))
}

fn bind(source: &Path, target: &Path, flags: MsFlags) -> Result<()> {
    mount(Some(source), target, NONE, flags, NONE)
        .with_context(|| format!("cannot bind {} on {}", source.display(), target.display()))
}

/// Replaces a file, which may be a link that leads out of the host.
fn write(path: PathBuf, text: &str) -> Result<()> {
    let _ = fs::remove_file(&path);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "{program} {args:?}: {status}");
    Ok(())
}
