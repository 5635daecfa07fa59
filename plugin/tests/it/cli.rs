//! The command line against the real daemon: what it prints, what it says when something is wrong, how it ends.

use std::process::{Command, Stdio};

use crate::node::{BINARY, Node, text};
use serde_json::json;

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let output = Command::new(BINARY)
        .args(["status", "--socket", "/nonexistent/bulkhead.sock"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(3));
    let message = text(&output.stderr);
    for part in [
        "the daemon does not run",
        "/nonexistent/bulkhead.sock",
        "systemctl start bulkhead",
        "--socket",
    ] {
        assert!(message.contains(part), "{part:?}: {message}");
    }
    let output = Command::new(BINARY)
        .args(["volume", "list", "-j", "--socket", "/nonexistent/bulkhead.sock"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(3));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert!(
        error["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("does not run"))
    );
}

#[test]
fn what_is_not_understood_needs_no_daemon() {
    let run = |args: &[&str]| {
        let output = Command::new(BINARY)
            .args(args)
            .args(["--socket", "/nonexistent"])
            .output()
            .expect("it runs");
        (output.status.code(), text(&output.stderr))
    };
    for (args, part) in [
        (
            vec!["volume", "create", "v", "--size", "ten"],
            "option size=\"ten\"",
        ),
        (
            vec!["volume", "create", "v", "-o", "sise=1G"],
            "did you mean \"size\"",
        ),
        (vec!["volume", "create", "v", "-o", "size"], "write -o KEY=VALUE"),
        (
            vec!["volume", "create", "v", "--size", "1G", "-o", "size=2G"],
            "given twice",
        ),
        (vec!["volume", "create", "a/b"], "cannot be the name"),
        (vec!["pool", "add", "/dev/x", "--priority", "urgent"], "high"),
        (vec!["pool", "add", "/dev/x", "--size", "many"], "not a number"),
        (vec!["frobnicate"], "frobnicate"),
        (vec!["volume", "inspect"], "NAMES"),
    ] {
        let (code, message) = run(&args);
        assert_eq!(code, Some(2), "{args:?}: {message}");
        assert!(message.contains(part), "{args:?}: {message}");
    }
}

#[test]
fn faults_of_the_configuration_are_all_reported() {
    let output = Command::new(BINARY)
        .args([
            "daemon",
            "--config",
            "/dev/null",
            "--log-format",
            "xml",
            "--timeout-mount",
            "5m",
            "--run-dir",
            "here",
        ])
        .env("BULKHEAD_STROE", "sqlite:///x")
        .output()
        .expect("it ends");
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    for part in [
        "4 faults",
        "--log-format",
        "less than 120s",
        "has to be absolute",
        "did you mean BULKHEAD_STORE?",
    ] {
        assert!(message.contains(part), "{part:?}: {message}");
    }
    let output = Command::new(BINARY)
        .args(["daemon", "--config", "/nonexistent.toml"])
        .output()
        .expect("it ends");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/nonexistent.toml cannot be read"));
}

#[test]
fn a_store_that_cannot_be_opened_ends_the_daemon_with_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let output = Command::new(BINARY)
        .args([
            "daemon",
            "--config",
            "/dev/null",
            "--docker-api",
            "",
            "--store",
            "sqlite:///proc/none/store.db",
        ])
        .args([
            "--socket",
            &at("c.sock"),
            "--docker-socket",
            &at("d.sock"),
            "--state-dir",
            &at("state"),
        ])
        .args(["--run-dir", &at("run"), "--mounts-dir", &at("mounts")])
        .output()
        .expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("/proc/none/store.db"), "{output:?}");
    assert!(!dir.path().join("d.sock").exists(), "no socket stays behind");
}

#[test]
fn pools_and_volumes_by_hand() {
    let node = Node::bare();
    let output = node.cli(&["status"]);
    assert_eq!(output.status.code(), Some(5), "no pool is no good state");
    assert!(
        text(&output.stdout).contains("`bulkhead pool add` makes one"),
        "{output:?}"
    );
    assert!(node.ok(&["pool", "list"]).contains("there is no pool yet"));
    assert!(node.ok(&["volume", "list"]).contains("there is no volume yet"));
    let (code, message) = node.fails(&["volume", "create", "v"]);
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("no pool"), "{message}");

    node.add_pool("1G");
    let pools = node.json(&["pool", "list"]);
    let id = pools[0]["id"].as_str().expect("an id").to_owned();
    let file = node.path("pool.img").display().to_string();
    assert_eq!(pools[0]["device"], file.as_str());
    let (code, message) = node.fails(&["pool", "add", &file]);
    assert_eq!(code, 6, "{message}");
    let (code, message) = node.fails(&["pool", "add", "/nonexistent/file"]);
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("--size"), "{message}");
    std::fs::write(node.path("precious"), vec![7; 400 << 20]).expect("a file");
    let precious = node.path("precious").display().to_string();
    assert!(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", &precious])
            .status()
            .is_ok_and(|status| status.success())
    );
    let (code, message) = node.fails(&["pool", "add", &precious]);
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("ext4"), "{message}");

    assert!(node.ok(&["status"]).contains("healthy"));
    assert!(
        node.ok(&["volume", "create", "v1", "--size", "64M", "--labels", "app=shop"])
            .contains("volume v1 is ready")
    );
    node.ok(&["volume", "create", "size=64M,name=v2"]);
    node.ok(&["volume", "create", "v1", "--size", "64M"]);
    let (code, message) = node.fails(&["volume", "create", "v1", "--size", "65M"]);
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("asked for 65 MiB, is 64 MiB"), "{message}");
    let list = node.ok(&["volume", "list"]);
    assert!(
        list.starts_with("NAME") && list.contains("v1") && list.contains("up, detached"),
        "{list}"
    );
    assert!(node.ok(&["volume", "inspect", "v1"]).contains("app=shop"));
    assert_eq!(
        node.json(&["volume", "inspect", "v1", "v2"])
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    let (code, message) = node.fails(&["volume", "inspect", "v3"]);
    assert_eq!(code, 4, "{message}");
    assert!(
        message.contains("there is no volume \"v3\"; `bulkhead volume list`"),
        "{message}"
    );

    node.docker().mount("v1", "a").ok();
    let (code, message) = node.fails(&["volume", "delete", "v1", "v2"]);
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("docker ps -a --filter volume=v1"), "{message}");
    assert_eq!(
        node.docker().list(),
        ["v1"],
        "the other one is deleted all the same"
    );
    let (code, message) = node.fails(&["pool", "remove", &id]);
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("holds replicas of 1 volume (v1)"), "{message}");
    node.docker().unmount("v1", "a").ok();
    node.ok(&["volume", "rm", "v1"]);
    let status = node.json(&["status"]);
    assert_eq!(
        (&status["healthy"], &status["volumes"]),
        (&json!(true), &json!({}))
    );
    assert!(node.ok(&["pool", "rm", &id[..8]]).contains("is removed"));
    let (code, _) = node.fails(&["pool", "remove", &id]);
    assert_eq!(code, 4);
}

#[test]
fn a_pool_is_there_again_after_a_restart() {
    let mut node = Node::with_pool("1G");
    node.docker().create("v", json!({"size": "64M"})).ok();
    node.terminate();
    assert!(
        node.mounts().is_empty(),
        "a daemon that stops leaves no mount: {:?}",
        node.mounts()
    );
    node.start();
    node.docker().mount("v", "a").ok();
    node.docker().unmount("v", "a").ok();
    // One whose file is gone is reported, and the volumes on it with it.
    node.terminate();
    std::fs::rename(node.path("pool.img"), node.path("away.img")).expect("moved");
    node.start();
    let output = node.cli(&["status"]);
    assert_eq!(output.status.code(), Some(5));
    let screen = text(&output.stdout);
    assert!(
        screen.contains("! pool ") && screen.contains("volume \"v\": down: its pool"),
        "{screen}"
    );
    node.docker().mount("v", "a").refused("pool");
    node.docker().get("v").ok();
    node.docker().remove("v").refused("pool");
    node.terminate();
    std::fs::rename(node.path("away.img"), node.path("pool.img")).expect("back");
    node.start();
    node.docker().mount("v", "a").ok();
    node.docker().unmount("v", "a").ok();
}

#[test]
fn completion_and_pipes() {
    let node = Node::bare();
    assert!(node.ok(&["completion", "bash"]).contains("_bulkhead"));
    assert!(node.ok(&["completion", "zsh"]).contains("#compdef bulkhead"));
    // A reader that goes away is no error.
    let mut child = Command::new(BINARY)
        .args(["completion", "fish"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_log_in_json() {
    let node = Node::with_flags(&["--log-format", "json"]);
    let log = node.log();
    let ready = log
        .lines()
        .find(|line| line.contains("bulkhead is ready"))
        .expect("the line");
    let line: serde_json::Value = serde_json::from_str(ready).expect("JSON");
    assert_eq!(
        (&line["message"], &line["level"]),
        (&json!("bulkhead is ready"), &json!("INFO"))
    );
}

#[test]
fn what_is_for_support_is_gathered_and_pages_are_written() {
    let node = Node::with_pool("1G");
    node.ok(&["volume", "create", "v1", "--size", "64M"]);
    let file = node.path("diags.tar.gz").display().to_string();
    node.ok(&["diags", "-f", &file]);
    let listed = Command::new("tar")
        .args(["--list", "--file", &file])
        .output()
        .expect("tar");
    let names = text(&listed.stdout);
    for part in ["/status.json", "/volumes.json", "/mounts.txt", "/missing.txt"] {
        assert!(names.contains(part), "{part}: {names}");
    }
    node.ok(&["man", &node.path("man").display().to_string()]);
    assert!(
        node.entries("man")
            .contains(&"bulkhead-volume-create.1".to_owned())
    );
    let output = node.cli(&["doctor", "--json"]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = |what: &str| {
        let mut all = findings.as_array().into_iter().flatten();
        all.any(|finding| finding["what"] == what && finding["verdict"] == "ok")
    };
    for what in ["kernel", "/dev/fuse", "ext4", "daemon", "store"] {
        assert!(found(what), "{what}: {findings:#}");
    }
    node.docker().mount("v1", "a").ok();
    let rates = node.json(&["top", "--count", "1", "--interval", "300ms"]);
    assert_eq!(rates[0]["volume"], "v1");
    node.docker().unmount("v1", "a").ok();
}
