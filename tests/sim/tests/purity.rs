//! The machines stay pure: their folder names no runtime, file, socket, thread, clock or randomness.

use std::fs;
use std::path::{Path, PathBuf};

/// What must not be named outside of comments.
const FORBIDDEN: &[&str] = &[
    "tokio",
    "std::fs",
    "std::net",
    "std::thread",
    "std::sync",
    "std::io",
    "std::os",
    "std::env",
    "std::process",
    "Instant",
    "SystemTime",
    "rand::",
    "HashMap",
    "HashSet",
    "RandomState",
    "libc",
    "nix::",
    "parking_lot",
    "crossbeam",
    "tracing",
    "println!",
    "unsafe",
    "static mut",
    "thread_local",
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

#[test]
fn the_machines_touch_nothing_outside() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engine/src/machine");
    let mut files = Vec::new();
    sources(&folder, &mut files).unwrap();
    assert!(files.len() > 20, "the machines have moved: {files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in FORBIDDEN {
                assert!(
                    !code.contains(word),
                    "{}:{}: `{word}` has no place in a pure machine: {line}",
                    file.display(),
                    number + 1
                );
            }
            // The rooms above import the machines, never the other way round.
            for room in ["disk", "node", "link", "host", "pool"] {
                assert!(
                    !code.contains(&format!("crate::{room}")),
                    "{}:{}: imports run downwards only: {line}",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}
