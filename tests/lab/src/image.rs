//! Container images made of this machine's own programs, without a registry.
//!
//! It owns the folder `lab/images` below Cargo's target folder, where each archive is made once. It must never write a
//! half-finished archive under its final name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::command::Cmd;
use crate::dockerd::Dockerd;
use crate::programs;

/// The image with busybox alone.
pub const BUSYBOX: &str = "busybox";
/// The image with busybox and fio.
pub const FIO: &str = "fio";
/// The image with PostgreSQL.
pub const POSTGRES: &str = "postgres";

/// The image with busybox, fio and the register checker.
pub const REGISTER: &str = "register";

/// The image with busybox and Docker's command line.
pub const DOCKER: &str = "docker:cli";

/// Raised when the recipe below changes, so that no old archive is used.
const RECIPE: u32 = 3;

/// PostgreSQL's programs and libraries on Debian 12.
const PG_HOME: &str = "/usr/lib/postgresql/15";

/// The first process of a PostgreSQL container: makes the database if there is none, then becomes the server.
const PG_ENTRYPOINT: &str = r#"#!/bin/sh
set -eu
: "${PGDATA:=/data}"
as_postgres="/usr/bin/setpriv --reuid=70 --regid=70 --clear-groups"
mkdir -p "$PGDATA"
chown 70:70 "$PGDATA"
chmod 700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # --data-checksums: damage that PostgreSQL reads is damage that the test sees.
    $as_postgres initdb --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --data-checksums -D "$PGDATA"
    echo "host all all all trust" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    sync
fi
exec $as_postgres postgres -D "$PGDATA" "$@"
"#;

/// Loads one of the images into a dockerd.
pub fn load(dockerd: &Dockerd, name: &str) -> Result<()> {
    match name {
        BUSYBOX => busybox(dockerd),
        FIO => fio(dockerd),
        POSTGRES => postgres(dockerd),
        REGISTER => register(dockerd),
        DOCKER => docker(dockerd),
        other => bail!("there is no recipe for an image {other:?}"),
    }
}

/// Loads [`BUSYBOX`] into a dockerd.
pub fn busybox(dockerd: &Dockerd) -> Result<()> {
    let archive = archive(BUSYBOX, &[], |_| Ok(()))?;
    dockerd.import(&archive, BUSYBOX, &["CMD [\"sh\"]"])
}

/// Loads [`FIO`] into a dockerd.
pub fn fio(dockerd: &Dockerd) -> Result<()> {
    let archive = archive(FIO, &["fio"], |root| {
        add_programs(root, &["/usr/bin/fio", "/usr/sbin/fstrim"])
    })?;
    dockerd.import(&archive, FIO, &["CMD [\"sh\"]"])
}

/// Loads [`REGISTER`] into a dockerd.
pub fn register(dockerd: &Dockerd) -> Result<()> {
    let program = programs::own("bulkhead-lab-register")?;
    let built = fs::metadata(&program)?
        .modified()?
        .duration_since(std::time::UNIX_EPOCH)?;
    let name = format!("{REGISTER}-{}", built.as_nanos());
    let archive = archive(&name, &["fio"], |root| {
        add_programs(root, &["/usr/bin/fio", "/usr/sbin/fstrim"])?;
        add_libraries(root, &program)?;
        fs::copy(&program, root.join("register"))
            .map(drop)
            .context("cannot copy the checker")
    })?;
    dockerd.import(&archive, REGISTER, &["CMD [\"sh\"]"])
}

/// Loads [`DOCKER`] into a dockerd.
pub fn docker(dockerd: &Dockerd) -> Result<()> {
    let archive = archive("docker", &["docker.io"], |root| {
        add_programs(root, &["/usr/bin/docker"])
    })?;
    dockerd.import(&archive, DOCKER, &["CMD [\"sh\"]"])
}

/// Loads [`POSTGRES`] into a dockerd.
pub fn postgres(dockerd: &Dockerd) -> Result<()> {
    let archive = archive(
        POSTGRES,
        &["postgresql-15", "postgresql-client-15", "tzdata"],
        add_postgres,
    )?;
    let path = format!("ENV PATH={PG_HOME}/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    dockerd.import(
        &archive,
        POSTGRES,
        &[
            "ENTRYPOINT [\"/entrypoint\"]",
            &path,
            "ENV PGDATA=/data",
            "ENV PGUSER=postgres PGDATABASE=postgres",
            "EXPOSE 5432",
        ],
    )
}

/// The archive of an image: busybox and what `fill` adds. Made again when a Debian package that it is made of has changed.
fn archive(name: &str, packages: &[&str], fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = programs::target_dir()?.join("lab/images");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut versions = format!("{RECIPE}-{}", version("busybox-static")?);
    for package in packages {
        versions.push_str(&format!("-{}", version(package)?));
    }
    let path = dir.join(format!("{name}-{}.tar", versions.replace(['/', ':'], "_")));
    if path.exists() {
        return Ok(path);
    }
    // Two tests may make the same archive at once: each makes its own, the last one stays.
    let work = TempDir::new_in(&dir)?;
    let root = work.path().join("root");
    base(&root)?;
    fill(&root).with_context(|| format!("cannot make the image {name}"))?;
    let tar = work.path().join("image.tar");
    Cmd::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&tar)
        .arg("--directory")
        .arg(&root)
        .words("--owner=0 --group=0 .")
        .run()?;
    fs::rename(&tar, &path)?;
    Ok(path)
}

fn version(package: &str) -> Result<String> {
    Cmd::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .run()
        .with_context(|| format!("the Debian package {package} is missing: apt-get install {package}"))
}

fn base(root: &Path) -> Result<()> {
    for dir in [
        "bin", "dev", "etc", "proc", "run", "sys", "tmp", "usr/bin", "usr/sbin", "var",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    Cmd::new("chmod").arg("1777").arg(root.join("tmp")).run()?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is missing")?;
    for name in Cmd::new("/bin/busybox")
        .arg("--list")
        .run()?
        .lines()
        .filter(|&name| name != "busybox")
    {
        symlink("busybox", root.join("bin").join(name))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\npostgres:x:70:70:postgres:/tmp:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\npostgres:x:70:\n")?;
    Ok(())
}

fn add_postgres(root: &Path) -> Result<()> {
    let home = Path::new(PG_HOME);
    let mut files: Vec<String> = Vec::new();
    for (dir, wanted) in [("bin", None), ("lib", Some("so"))] {
        for entry in fs::read_dir(home.join(dir)).context("postgresql-15 is missing")? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // The JIT compiler alone would double the image; the other two need interpreters.
            let left_out = ["llvmjit", "plperl", "plpython"]
                .iter()
                .any(|part| name.contains(part));
            if path.is_file() && !left_out && wanted.is_none_or(|e| path.extension().is_some_and(|x| x == e))
            {
                files.push(path.display().to_string());
            }
        }
    }
    add_programs(root, &files.iter().map(String::as_str).collect::<Vec<_>>())?;
    add_programs(root, &["/usr/bin/setpriv"])?;
    for tree in [
        "/usr/share/postgresql/15",
        "/usr/share/zoneinfo",
        "/usr/lib/locale/C.utf8",
    ] {
        let target = root.join(tree.trim_start_matches('/'));
        fs::create_dir_all(target.parent().context("no parent")?)?;
        Cmd::new("cp").arg("-aL").arg(tree).arg(&target).run()?;
    }
    // Where Debian's PostgreSQL puts its socket.
    let sockets = root.join("run/postgresql");
    fs::create_dir_all(&sockets)?;
    Cmd::new("chmod").arg("1777").arg(sockets).run()?;
    symlink("../run", root.join("var/run"))?;
    let entrypoint = root.join("entrypoint");
    fs::write(&entrypoint, PG_ENTRYPOINT)?;
    Cmd::new("chmod").arg("755").arg(entrypoint).run().map(drop)
}

/// Copies programs with the libraries that they need to the same places below `root`.
fn add_programs(root: &Path, programs: &[&str]) -> Result<()> {
    for program in programs.iter().map(Path::new) {
        copy(root, [program.to_owned()])?;
        add_libraries(root, program)?;
    }
    Ok(())
}

fn add_libraries(root: &Path, program: &Path) -> Result<()> {
    copy(root, libraries(program)?)
}

fn copy(root: &Path, files: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    for file in files {
        let target = root.join(file.strip_prefix("/")?);
        fs::create_dir_all(target.parent().context("no parent")?)?;
        fs::copy(&file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

/// The shared libraries that a program or library needs, as `ldd` tells.
fn libraries(file: &Path) -> Result<Vec<PathBuf>> {
    let output = Cmd::new("ldd")
        .arg(file)
        .within(Duration::from_secs(20))
        .output()?;
    if output.all().contains("not a dynamic executable") {
        return if output.status.success() {
            Ok(Vec::new())
        } else {
            bail!("{} is no program", file.display())
        };
    }
    ensure!(
        !output.all().contains("not found"),
        "{} needs a library that is missing:\n{}",
        file.display(),
        output.all()
    );
    let path = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    Ok(output.stdout.lines().filter_map(path).collect())
}
