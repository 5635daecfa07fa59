//! What is printed is what a shell, the daemon's configuration, systemd and Docker take.

use std::io::Write;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};
use crate::config;

fn parsed(words: &[&str]) -> GenerateCommand {
    let all = ["bulkhead", "generate"].iter().chain(words);
    let cli = Cli::try_parse_from(all).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let Command::Generate(command) = cli.command else {
        panic!("{words:?} is something else");
    };
    command
}

fn plan(words: &[&str]) -> Result<Plan, CliError> {
    let GenerateCommand::Script { node, .. } = parsed(&[&["script"], words].concat()) else {
        panic!("it is a script");
    };
    Plan::of(*node)
}

const RICH: &[&str] = &[
    "--cluster",
    "shop",
    "--store",
    "etcd://10.0.0.1:2379,10.0.0.2:2379",
    "--store-user",
    "it's me",
    "--store-password",
    "p\"a$s`w\\ord",
    "--log-format",
    "json",
    "--pool-overcommit",
    "150",
    "--labels",
    "zone=a,rack=3",
    "--data-interface",
    "eth1",
    "--pool",
    "/dev/nvme1n1",
    "--pool",
    "/var/lib/bulkhead/pool 0.img=50G",
    "--class",
    "gold repl=3 size=10G",
    "--default-class",
    "gold",
];

#[test]
fn the_daemon_reads_the_configuration_as_it_was_meant() {
    let plan = plan(RICH).expect("a plan");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("bulkhead.toml");
    fs::write(&file, plan.configuration()).expect("written");
    let read = config::load(&file, true, [], &Vec::new()).expect("sound");
    let meant = config::load(Path::new("/nonexistent"), false, [], &plan.settings).expect("sound");
    assert_eq!(read, meant);
    assert_eq!(
        (read.cluster.as_str(), read.store_user.as_str()),
        ("shop", "it's me")
    );
}

#[test]
fn a_script_is_one_that_a_shell_understands() {
    for words in [&[][..], RICH] {
        let plan = plan(words).expect("a plan");
        let text = script::script(&plan, Some("https://example.org/it's"), Some("abc"));
        assert_eq!(text.contains("keep it from others"), !words.is_empty());
        let mut checks = vec![vec!["sh", "-n"]];
        if Process::new("shellcheck").arg("--version").output().is_ok() {
            checks.push(vec!["shellcheck", "-"]);
        }
        for check in checks {
            let mut shell = Process::new(check[0])
                .args(&check[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("it starts");
            let mut into = shell.stdin.take().expect("a pipe");
            into.write_all(text.as_bytes()).expect("written");
            drop(into);
            let said = shell.wait_with_output().expect("it ends");
            let said_text = String::from_utf8_lossy(&said.stdout);
            assert!(said.status.success(), "{check:?}: {said_text}\n{text}");
        }
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (words, why) in [
        (&["--store", "mysql://x"][..], "write sqlite:"),
        (&["--lease", "1s", "--cluster", "a b"], "2 faults"),
        (&["--data-interface", "eth1", "--data-address", ":1"], "not both"),
        (&["--data-interface", "eth1; reboot"], "name of an interface"),
        (&["--default-class", "gold"], "none of the classes"),
        (&["--store-password", "two\nlines"], "line break"),
    ] {
        let error = plan(words).err().map(|error| error.to_string());
        assert!(
            error.as_ref().is_some_and(|error| error.contains(why)),
            "{words:?}: {error:?}"
        );
    }
    for (flag, value) in [
        ("--pool", "pool.img=5G"),
        ("--pool", "/var/lib/pool.img"),
        ("--pool", "/var/lib/pool.img=x"),
        ("--class", "repl=3"),
        ("--class", "gold repl"),
        ("--class", "gold nonsense=3"),
    ] {
        let all = ["bulkhead", "generate", "script", flag, value];
        assert!(Cli::try_parse_from(all).is_err(), "{flag} {value}");
    }
}

#[test]
fn systemd_takes_the_units() {
    if Process::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd-analyze is not here: not looked at");
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    let command = parsed(&["unit", "--directory", &root.path().to_string_lossy()]);
    assert_eq!(run(&Printer::new(true), command).expect("written"), Code::Ok);
    let mode = fs::metadata(root.path().join("etc/bulkhead/bulkhead.toml")).expect("there");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    // The binary is not where it will be.
    let unit = root.path().join("etc/systemd/system/bulkhead.service");
    let text = fs::read_to_string(&unit).expect("there");
    fs::write(&unit, text.replace(unit::BINARY, "/bin/true")).expect("written");
    for name in ["bulkhead.service", "bulkhead.socket"] {
        let said = Process::new("systemd-analyze")
            .arg("verify")
            .arg(root.path().join("etc/systemd/system").join(name))
            .env(
                "SYSTEMD_UNIT_PATH",
                format!("{}:", root.path().join("etc/systemd/system").display()),
            )
            .output()
            .expect("it runs");
        let told = String::from_utf8_lossy(&said.stderr);
        assert!(
            said.status.success() && !told.contains("bulkhead"),
            "{name}: {told}"
        );
    }
}

#[test]
fn the_plugin_gets_its_settings_as_variables_and_flags() {
    let GenerateCommand::Plugin { node, image } = parsed(&[
        "plugin",
        "--image",
        "registry/bulkhead:1",
        "--store",
        "etcd://a:2379",
        "--lease",
        "5s",
        "--api-listen",
        ":7480",
        "--pool",
        "/dev/sdb",
        "--class",
        "gold repl=3",
        "--default-class",
        "gold",
    ]) else {
        panic!("it is a plugin");
    };
    let text = swarm::plugin(&Plan::of(*node).expect("a plan"), &image).expect("text");
    assert!(
        text.contains("docker plugin install --alias bulkhead --grant-all-permissions registry/bulkhead:1 BULKHEAD_STORE=etcd://a:2379 args='--api-listen=:7480 --lease=5s'"),
        "{text}"
    );
    for after in [
        "DockerRootDir",
        "pool list",
        "pool add /dev/sdb",
        "class default gold",
    ] {
        assert!(text.contains(after), "{after}: {text}");
    }
    assert!(
        text.contains("class inspect gold >/dev/null 2>&1 || /usr/local/bin/bulkhead --socket /var/lib/bulkhead/bulkhead.sock class create gold -o repl=3"),
        "{text}"
    );
    for (flag, value) in [("--state-dir", "/x"), ("--store-user", "a b")] {
        let command = parsed(&["plugin", "--image", "i", flag, value]);
        assert!(
            matches!(run(&Printer::new(true), command), Err(CliError::Usage(_))),
            "{flag}"
        );
    }
}

#[test]
fn a_stack_keeps_its_dollars() {
    let GenerateCommand::Stack {
        node,
        image,
        docker_image,
    } = parsed(&["stack", "--image", "i", "--data-interface", "eth1"])
    else {
        panic!("it is a stack");
    };
    let text = swarm::stack(&Plan::of(*node).expect("a plan"), &image, &docker_image).expect("text");
    // Docker puts variables into what is not a comment.
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    assert!(lines.all(|line| !line.replace("$$", "").contains('$')), "{text}");
    assert!(
        text.contains("mode: global") && text.contains("{{.Enabled}}"),
        "{text}"
    );
}
