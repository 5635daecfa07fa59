//! `bulkhead diags`: a tarball for support. Takes what the daemon says, its log, and what the machine says of its disks and
//! mounts; of the configuration only lines without secrets. Changes nothing, and works without a daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime};

use tokio::process::Command;
use tokio::time::timeout;

use super::client::Client;
use super::print::Printer;
use super::progress::waiting;
use super::{CliError, Code};

/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is asked of the daemon: the file's name and the path.
const ASKED: [(&str, &str); 10] = [
    ("status", "/status"),
    ("cluster", "/cluster"),
    ("store", "/store"),
    ("nodes", "/nodes"),
    ("pools", "/pools"),
    ("volumes", "/volumes"),
    ("classes", "/classes"),
    ("io", "/io"),
    ("alerts", "/alerts"),
    ("events", "/events"),
];
/// What is asked of the machine: the file's name and the command.
const RUN: [(&str, &[&str]); 9] = [
    (
        "log.txt",
        &[
            "journalctl",
            "--unit",
            "bulkhead",
            "--no-pager",
            "--lines",
            "20000",
            "--output",
            "short-iso",
        ],
    ),
    ("kernel.txt", &["dmesg", "--ctime"]),
    ("uname.txt", &["uname", "-a"]),
    ("disks.txt", &["lsblk", "--output-all", "--json"]),
    ("loops.txt", &["losetup", "--list"]),
    ("space.txt", &["df", "--human-readable", "--print-type"]),
    ("addresses.txt", &["ip", "-brief", "address"]),
    ("docker.txt", &["docker", "info"]),
    ("docker-volumes.txt", &["docker", "volume", "ls"]),
];
/// Where the configuration lies.
const CONFIG: &str = crate::config::DEFAULT_FILE;

pub(super) async fn run(
    client: &Client,
    printer: &Printer,
    output: Option<PathBuf>,
) -> Result<Code, CliError> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now())
        .to_string()
        .replace(':', "");
    let name = format!("bulkhead-diags-{now}");
    let output = output.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let base = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    let dir = base.join(&name);
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&base, fs::Permissions::from_mode(0o700))?;
    let packed = waiting(
        "gathering what support needs",
        gather(client, &base, &name, &output),
    )
    .await;
    fs::remove_dir_all(&base)?;
    let missing = packed?;
    printer.value(&serde_json::json!({ "file": output, "missing": missing }), |_| {
        let missing: String = missing
            .iter()
            .map(|missing| format!("  without {missing}\n"))
            .collect();
        format!(
            "{} is for support; look through it before you give it away\n{missing}",
            output.display()
        )
    })?;
    Ok(Code::Ok)
}

/// Writes everything below `base/name`, packs it, and says what could not be had.
async fn gather(client: &Client, base: &Path, name: &str, output: &Path) -> Result<Vec<String>, CliError> {
    let (dir, mut missing) = (base.join(name), Vec::new());
    for (file, path) in ASKED {
        match client.get::<serde_json::Value>(path).await {
            Ok(value) => {
                let text = serde_json::to_string_pretty(&value).map_err(std::io::Error::from)?;
                fs::write(dir.join(format!("{file}.json")), text)?;
            }
            Err(error) => missing.push(format!("{file}: {error}")),
        }
    }
    for (file, command) in RUN {
        match output_of(command).await {
            Ok(text) => fs::write(dir.join(file), text)?,
            Err(why) => missing.push(format!("{file}: {why}")),
        }
    }
    match fs::read_to_string("/proc/self/mountinfo") {
        Ok(text) => fs::write(dir.join("mounts.txt"), text)?,
        Err(error) => missing.push(format!("mounts.txt: {error}")),
    }
    match fs::read_to_string(CONFIG) {
        Ok(text) => fs::write(dir.join("bulkhead.toml"), without_secrets(&text))?,
        Err(error) => missing.push(format!("{CONFIG}: {error}")),
    }
    fs::write(dir.join("missing.txt"), missing.join("\n"))?;
    let (base, target) = (base.display().to_string(), output.display().to_string());
    let packed = output_of(&[
        "tar",
        "--create",
        "--gzip",
        "--file",
        &target,
        "--directory",
        &base,
        name,
    ])
    .await;
    packed.map_err(|why| CliError::Output(std::io::Error::other(why)))?;
    fs::set_permissions(output, fs::Permissions::from_mode(0o600))?;
    Ok(missing)
}

async fn output_of(command: &[&str]) -> Result<Vec<u8>, String> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(Vec::new());
    };
    let run = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Output {
        status,
        mut stdout,
        mut stderr,
    } = match timeout(PATIENCE, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{program}: {error}")),
        Err(_) => return Err(format!("{program} did not end within {} s", PATIENCE.as_secs())),
    };
    if status.success() {
        return Ok(stdout);
    }
    stdout.append(&mut stderr);
    let said: String = String::from_utf8_lossy(&stdout)
        .trim()
        .chars()
        .take(200)
        .collect();
    Err(format!("{program}: {said}"))
}

/// A configuration whose passwords, tokens and credentials in addresses are taken out.
fn without_secrets(text: &str) -> String {
    let clean = |line: &str| {
        let key = line.split('=').next().unwrap_or_default().to_lowercase();
        if ["password", "token", "secret"]
            .iter()
            .any(|word| key.contains(word))
        {
            let key = line.split('=').next().unwrap_or_default();
            return format!("{key}= \"(hidden)\"");
        }
        match (line.split_once("://"), line.rfind('@')) {
            (Some((scheme, rest)), Some(_)) if rest.contains('@') => {
                let host = rest.rsplit_once('@').map_or("", |(_, host)| host);
                format!("{scheme}://(hidden)@{host}")
            }
            _ => line.to_owned(),
        }
    };
    text.lines().map(|line| clean(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_here() {
        let text = "cluster = \"shop\"\nstore_password = \"hunter2\"\nstore_token=\"t0ken\"\nstore = \"etcd://me:pass@h1:2379,h2:2379\"\n# store = \"consul://h\"\n";
        let clean = without_secrets(text);
        for secret in ["hunter2", "t0ken", "pass@", "me:"] {
            assert!(!clean.contains(secret), "{secret}: {clean}");
        }
        for kept in ["cluster = \"shop\"", "@h1:2379,h2:2379\"", "consul://h"] {
            assert!(clean.contains(kept), "{kept}: {clean}");
        }
    }
}
