//! The first process of a host of the lab.
//!
//! It owns the host's namespaces: it makes them, gives the host a root file system over the machine's own (what the host
//! writes goes to memory, but for the folders that are bound in), says `ready PID`, collects orphans, and ends when its
//! standard input does. With it everything on the host ends. It must never write to the machine's root file system.
//!
//! `bulkhead-lab-init NAME DIR [BIND…]`: `DIR` is the host's own folder; each `BIND` is `SOURCE` or `SOURCE:TARGET`.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use bulkhead_lab::leaks;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{chdir, pivot_root};

/// Marks the second stage, which is process 1 of the new process tree.
const INSIDE: &str = "LAB_INSIDE";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = if env::var_os(INSIDE).is_some() {
        inside(&args)
    } else {
        outside(&args)
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bulkhead-lab-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the process tree and stays outside as its guardian: when its standard input ends, whoever asked for the host is done
/// or dead; then it ends the host and clears away what a host cannot take with it.
fn outside(args: &[String]) -> Result<ExitCode> {
    let [name, dir, ..] = args else {
        bail!("usage: bulkhead-lab-init NAME DIR [BIND…]")
    };
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--"])
        .arg(env::current_exe()?)
        .args(args);
    command
        .env(INSIDE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut init = command.spawn().context("cannot start the host's first process")?;
    let mut line = String::new();
    BufReader::new(init.stdout.take().context("no pipe")?).read_line(&mut line)?;
    let Some(pid) = line.trim().strip_prefix("ready ") else {
        bail!(
            "the host's first process ended with {}; the lab needs root",
            init.wait()?
        );
    };
    println!("ready {pid}");

    std::io::stdin().read_to_end(&mut Vec::new())?;
    leaks::clear(pid.parse()?, name, Path::new(dir), || {
        drop(init.stdin.take());
        init.wait()
            .map(drop)
            .context("cannot wait for the host's first process")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn inside(args: &[String]) -> Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    let [name, dir, binds @ ..] = args else {
        bail!("too few arguments")
    };
    // The machine's /proc is still in place: it tells the id that the machine knows this process by.
    let pid = fs::read_link("/proc/self")?;

    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET,
    )
    .context("cannot make the host's namespaces")?;
    fs::write("/proc/sys/kernel/hostname", name).context("cannot set the host's name")?;
    root(name, Path::new(dir), binds)?;
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
fn root(name: &str, dir: &Path, binds: &[String]) -> Result<()> {
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
    for line in binds {
        let (source, target) = line.split_once(':').unwrap_or((line, line));
        let target = top.join(target.trim_start_matches('/'));
        fs::create_dir_all(&target)?;
        // Without what is mounted below: that may be this very root.
        bind(Path::new(source), &target, MsFlags::MS_BIND)?;
    }
    write(top.join("etc/hostname"), &format!("{name}\n"))?;
    // No registry answers here; without this each pull waits for its resolver.
    write(
        top.join("etc/hosts"),
        &format!("127.0.0.1 localhost {name} registry-1.docker.io index.docker.io\n"),
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
