//! Where the binary under test is, and that it is the newest.
//!
//! It must never let a test run against a binary older than the sources.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::command::Cmd;

/// The workspace's root.
pub fn workspace() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("the lab is not inside a workspace")
}

/// The folder that Cargo builds the tests' profile into, such as `target/debug`.
pub fn build_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("cannot tell where this test program is")?;
    let dir = exe.parent().context("this test program is in no folder")?;
    let dir = if dir.ends_with("deps") {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    };
    Ok(dir.to_owned())
}

/// Cargo's target folder; the lab keeps images and the hosts' disks below it.
pub fn target_dir() -> Result<PathBuf> {
    let build = build_dir()?;
    Ok(build
        .parent()
        .context("the build folder has no parent")?
        .to_owned())
}

/// The `bulkhead` binary: `$LAB_BULKHEAD`, or the one of the tests' own profile, built first so that it is never stale.
pub fn bulkhead() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(path) = env::var_os("LAB_BULKHEAD") {
        return Ok(path.into());
    }
    BUILT
        .get_or_init(|| build("bulkhead", "bulkhead").map_err(|e| format!("{e:#}")))
        .clone()
        .map_err(|e| anyhow!(e))
}

/// A program of the lab itself. Cargo builds it with this package's tests.
pub(crate) fn own(name: &str) -> Result<PathBuf> {
    let path = build_dir()?.join(name);
    if path.exists() {
        Ok(path)
    } else {
        build("bulkhead-lab", name)
    }
}

fn build(package: &str, binary: &str) -> Result<PathBuf> {
    let dir = build_dir()?;
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(other) => other,
        None => bail!("{} is no folder of a Cargo profile", dir.display()),
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = workspace()?.join("Cargo.toml");
    Cmd::new(cargo)
        .args([
            "build",
            "--quiet",
            "--package",
            package,
            "--bin",
            binary,
            "--profile",
            profile,
            "--manifest-path",
        ])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target_dir()?)
        .within(Duration::from_secs(600))
        .run()
        .with_context(|| {
            format!("cannot build {binary}; set LAB_BULKHEAD to a finished binary of bulkhead")
        })?;
    Ok(dir.join(binary))
}
