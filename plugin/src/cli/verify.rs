//! `bulkhead volume verify`: starts it, shows how far it is, and says what came of it. It goes on if this command is ended.

use std::time::Duration;

use tokio::time::sleep;

use super::client::Client;
use super::print::{Lines, Printer};
use super::progress::Progress;
use super::{CliError, Code};
use crate::api::encode;
use crate::options::format_size;
use crate::service::{VerifyEnd, VerifyRequest, VerifyView};

/// Between looks at how far it is: the first and the longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

pub(super) async fn run(
    client: &Client,
    printer: &Printer,
    name: &str,
    request: &VerifyRequest,
    stop: bool,
) -> Result<Code, CliError> {
    let path = format!("/volumes/{}/verify", encode(name));
    if stop {
        client.delete(&path).await?;
    } else {
        let _: VerifyView = client.post(&path, request).await?;
    }
    let mut progress = Progress::new();
    let mut pause = PAUSES.0;
    let ended = loop {
        let at: VerifyView = client.get(&path).await?;
        if !at.running {
            break at;
        }
        progress.show(&format!(
            "comparing {name}: {} of {}",
            format_size(at.compared),
            format_size(at.size)
        ));
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    };
    drop(progress);
    printer.value(&ended, screen)?;
    Ok(code(&ended))
}

/// Well only if the whole volume was compared and all hold the same now.
fn code(ended: &VerifyView) -> Code {
    match ended.outcome {
        Some(VerifyEnd::Complete) if ended.differing == ended.mended => Code::Ok,
        Some(VerifyEnd::Complete) => Code::Unhealthy,
        _ => Code::Failed,
    }
}

fn screen(ended: &VerifyView) -> String {
    let mut lines = Lines::default();
    lines.line("Volume", &ended.volume);
    lines.line(
        "Compared",
        format!(
            "{} of {} on {}",
            format_size(ended.compared),
            format_size(ended.size),
            if ended.members.is_empty() {
                "nobody".to_owned()
            } else {
                ended.members.join(", ")
            }
        ),
    );
    for difference in &ended.differences {
        let mut words = format!(
            "{} bytes at {}: {} differ{}",
            difference.length,
            difference.offset,
            difference.differing.join(", "),
            if difference.differing.len() == 1 { "s" } else { "" }
        );
        if !difference.unreadable.is_empty() {
            words.push_str(&format!("; not readable on {}", difference.unreadable.join(", ")));
        }
        if difference.mended {
            words.push_str("; mended");
        }
        lines.line("Difference", words);
    }
    let shown = u64::try_from(ended.differences.len()).unwrap_or(u64::MAX);
    if ended.differing > shown {
        lines.line("", format!("and {} more", ended.differing - shown));
    }
    lines.line("Result", result(ended));
    lines.finish()
}

fn result(ended: &VerifyView) -> String {
    match ended.outcome {
        Some(VerifyEnd::Complete) if ended.differing == 0 => "all members hold the same".to_owned(),
        Some(VerifyEnd::Complete) if ended.differing == ended.mended => {
            format!("{} pieces differed, and all hold the same now", ended.differing)
        }
        Some(VerifyEnd::Complete) => format!(
            "{} pieces differ and {} were mended; `--repair` takes what more than half of the members hold, and `--repair --source NODE` what that one holds where there is no majority",
            ended.differing, ended.mended
        ),
        Some(VerifyEnd::Refused) => {
            "it was not done: the volume is not being served, or another one is under way".to_owned()
        }
        Some(VerifyEnd::Interrupted) | None => {
            "it was not completed: it was stopped, the volume was released, or fewer than two members are in sync".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::DifferenceView;
    use std::time::SystemTime;

    fn ended(differing: u64, mended: u64, outcome: VerifyEnd) -> VerifyView {
        VerifyView {
            volume: "v".to_owned(),
            running: false,
            started_at: SystemTime::UNIX_EPOCH,
            compared: 1 << 30,
            size: 1 << 30,
            differing,
            mended,
            outcome: Some(outcome),
            members: vec!["n1".to_owned(), "n2".to_owned()],
            differences: (0..differing.min(2))
                .map(|n| DifferenceView {
                    offset: n << 20,
                    length: 65536,
                    differing: vec!["n2".to_owned()],
                    unreadable: Vec::new(),
                    mended: n < mended,
                })
                .collect(),
        }
    }

    #[test]
    fn the_exit_code_says_whether_all_members_hold_the_same() {
        assert_eq!(code(&ended(0, 0, VerifyEnd::Complete)), Code::Ok);
        assert_eq!(code(&ended(3, 3, VerifyEnd::Complete)), Code::Ok);
        assert_eq!(code(&ended(3, 2, VerifyEnd::Complete)), Code::Unhealthy);
        assert_eq!(code(&ended(0, 0, VerifyEnd::Interrupted)), Code::Failed);
        assert_eq!(code(&ended(0, 0, VerifyEnd::Refused)), Code::Failed);
    }

    #[test]
    fn differences_are_shown_with_who_has_them() {
        let text = screen(&ended(5, 1, VerifyEnd::Complete));
        for part in [
            "1 GiB of 1 GiB on n1, n2",
            "65536 bytes at 0: n2 differs; mended\n",
            "65536 bytes at 1048576: n2 differs\n",
            "and 3 more",
            "5 pieces differ and 1 were mended",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(screen(&ended(0, 0, VerifyEnd::Complete)).contains("all members hold the same"));
    }
}
