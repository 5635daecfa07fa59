//! A program that is to take the place of the installed one: that it is one, that it runs here, and that it fits.
//!
//! It owns the question to both programs. It must never take a program for sound that has not answered.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::super::CliError;
use crate::versions::Versions;

/// How long a program may take to tell its versions.
const ANSWER: Duration = Duration::from_secs(10);
/// Of what a program says instead so much is shown.
const SHOWN: usize = 300;

/// What a program tells of itself.
pub(super) async fn ask(program: &Path) -> Result<Versions, CliError> {
    let refused = |why: String| {
        CliError::Refused(format!(
            "{} is no Bulkhead program that runs on this machine: {why}; nothing was changed",
            program.display()
        ))
    };
    let mut command = Command::new(program);
    command
        .args(["version", "--json"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let answer = timeout(ANSWER, command.output())
        .await
        .map_err(|_| {
            refused(format!(
                "it did not tell its version within {} s",
                ANSWER.as_secs()
            ))
        })?
        .map_err(|error| refused(error.to_string()))?;
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stderr);
        let said: String = said.trim().chars().take(SHOWN).collect();
        return Err(refused(format!(
            "`version --json` ended with {}{}{said}",
            answer.status,
            if said.is_empty() { "" } else { ": " }
        )));
    }
    let versions: Versions = serde_json::from_slice(&answer.stdout)
        .map_err(|error| refused(format!("`version --json` did not tell its versions ({error})")))?;
    if !versions.is_bulkhead() {
        return Err(refused(format!("it calls itself {:?}", versions.name)));
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    async fn told(script: &str) -> Result<Versions, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("candidate");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // Another thread of the tests may just be starting a program, and hold this file open for writing.
        for _ in 0..50 {
            match ask(&path).await.map_err(|error| error.to_string()) {
                Err(error) if error.contains("busy") => tokio::time::sleep(Duration::from_millis(20)).await,
                other => return other,
            }
        }
        Err("busy".to_owned())
    }

    #[tokio::test]
    async fn only_a_program_that_tells_its_versions_is_one() {
        let ours = serde_json::to_string(&Versions::ours()).unwrap();
        assert_eq!(
            told(&format!("#!/bin/sh\necho '{ours}'\n")).await,
            Ok(Versions::ours())
        );
        for (script, why) in [
            ("#!/bin/sh\nexit 1\n", "exit status: 1"),
            (
                "#!/bin/sh\necho no such library >&2; exit 127\n",
                "no such library",
            ),
            ("#!/bin/sh\necho bulkhead 0.1.0\n", "did not tell its versions"),
            ("not a program\n", "no Bulkhead program"),
        ] {
            let error = told(script).await.unwrap_err();
            assert!(
                error.contains(why) && error.contains("nothing was changed"),
                "{error}"
            );
        }
        let other = ours.replace("\"bulkhead\"", "\"other\"");
        let error = told(&format!("#!/bin/sh\necho '{other}'\n")).await.unwrap_err();
        assert!(error.contains("calls itself"), "{error}");
    }
}
