//! Tests of the configuration: layers, faults, and that the documentation has every setting.

use std::fs;
use std::path::Path;

use super::*;

fn load_with(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("bulkhead.toml");
    fs::write(&path, file).expect("a file");
    let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    load(&path, true, own(environment), &own(flags))
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn nothing_given_gives_the_defaults() -> Result<(), ConfigError> {
    let config = load(Path::new("/nonexistent/bulkhead.toml"), false, [], &Flags::new())?;
    assert_eq!(config, Config::default());
    assert!(config.faults().is_empty());
    assert!(!config.node_name().is_empty());
    assert!(
        message(load(Path::new("/nonexistent/x.toml"), true, [], &Flags::new()))
            .contains("/nonexistent/x.toml")
    );
    Ok(())
}

#[test]
fn flags_beat_the_environment_and_that_beats_the_file() -> Result<(), ConfigError> {
    let file = "cluster = \"file\"\n[timeout]\nmount = \"30s\"\ncall = 20\n[log]\nformat = \"json\"\n";
    let config = load_with(
        file,
        &[
            ("BULKHEAD_TIMEOUT_MOUNT", "40"),
            ("BULKHEAD_POOL_OVERCOMMIT", "150%"),
            ("HOME", "/root"),
            ("BULKHEAD_CONFIG", "x"),
        ],
        &[("timeout.mount", "1m"), ("docker.api", "")],
    )?;
    assert_eq!(config.cluster, "file");
    assert_eq!(config.timeout.mount, Span::seconds(60));
    assert_eq!(config.timeout.call, Span::seconds(20));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.pool.overcommit, Percent(150));
    assert_eq!(config.docker.api, PathBuf::new());
    Ok(())
}

#[test]
fn every_fault_is_reported_at_once_with_its_place() {
    let text = message(load_with(
        "state_dri = \"/x\"\nstore = \"mysql://x\"\n[timeout]\nmount = \"200s\"\ncall = \"soon\"\n",
        &[("BULKHEAD_LOG_FORMAT", "xml"), ("BULKHEAD_STATEDIR", "/x")],
        &[("run_dir", "relative")],
    ));
    for part in [
        "7 faults",
        "state_dri = \"/x\" (in ",
        "did you mean state_dir?",
        "BULKHEAD_STATEDIR",
        "did you mean BULKHEAD_STATE_DIR?",
        "store = \"mysql://x\"",
        "write sqlite:///PATH",
        "timeout.mount = \"3m 20s\"",
        "less than 120s",
        "timeout.call = \"soon\"",
        "a duration such as",
        "log.format = \"xml\" (from BULKHEAD_LOG_FORMAT)",
        "run_dir = \"relative\" (from --run-dir)",
        "has to be absolute",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn what_settings_must_not_be_together() {
    for (flags, part) in [
        (
            vec![("control_socket", "/a"), ("docker.socket", "/a")],
            "each needs its own",
        ),
        (vec![("mounts_dir", "/run")], "cannot be or contain run_dir"),
        (vec![("cluster", "a b")], "1 to 64 letters"),
        (vec![("cluster", "")], "1 to 64 letters"),
        (vec![("pool.overcommit", "50")], "100 (no over-commit)"),
        (vec![("docker.swarm_labels", "maybe")], "true or false"),
        (vec![("pool.overcommit", "much")], "a percentage such as 200"),
        (vec![("log.level", "a=b=c")], "write error, warn"),
        (vec![("timeout.stop", "0")], "at least 1s"),
    ] {
        let text = message(load_with("", &[], &flags));
        assert!(text.contains(part), "{flags:?}: {text}");
    }
    assert!(message(load_with("a = [", &[], &[])).contains("is not TOML"));
    assert!(message(load_with("docker = 3", &[], &[])).contains("docker"));
}

#[test]
fn names_of_variables_and_flags_are_unambiguous() {
    let keys = layers::settings();
    assert!(keys.len() > 15, "{keys:?}");
    let distinct = |name: fn(&str) -> String| {
        let mut names: Vec<String> = keys.keys().map(|key| name(key)).collect();
        names.sort();
        names.dedup();
        names.len()
    };
    assert_eq!(distinct(layers::variable), keys.len());
    assert_eq!(distinct(layers::flag), keys.len());
}

#[test]
fn the_documentation_has_every_setting_with_its_default() {
    let page = include_str!("../../../docs/configuration.md");
    for (key, default) in layers::settings() {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")))
            .unwrap_or_default();
        assert!(
            row.contains(&format!("`{default}`")),
            "docs/configuration.md: {key} = {default}: {row:?}"
        );
        let doc = describe(&key);
        assert!(!doc.is_empty(), "{key} is not described in config/docs.rs");
        assert!(row.contains(doc), "docs/configuration.md: {key}: {doc}: {row:?}");
    }
}
