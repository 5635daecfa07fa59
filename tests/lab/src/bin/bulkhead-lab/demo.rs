//! The founding story, told step by step with times, and its summary.
//!
//! It owns the last line, which is printed only when every row was counted on another node.

use anyhow::Result;
use bulkhead_lab::StoreKind;
use bulkhead_lab::story::{Fall, Scene, Setting, Stage};

/// Tells the story.
pub(super) fn tell(store: StoreKind) -> Result<()> {
    println!("PostgreSQL survives the loss of its node\n");
    let mut stage = Stage::set(Setting {
        aloud: true,
        ..Setting::new(store)
    })?;
    for line in bulkhead_lab::cuts::STORY {
        stage.tell(&format!("{} # {line}", stage.home_name()));
    }
    let outcome = stage.play(Scene {
        fall: Fall::Cut,
        load: false,
    })?;
    println!("\nFrom the cut to the first query");
    let division = outcome.division;
    for (what, took) in [
        ("detection by Swarm", division.detection),
        ("takeover of the volume", division.takeover),
        ("replicas and file system", division.file_system),
        ("start of the container", division.docker),
        ("recovery of PostgreSQL", division.recovery),
        ("all", outcome.total),
    ] {
        println!("  {what:<28} {:>6.1} s", took.as_secs_f64());
    }
    if let Some(zombie) = outcome.zombie {
        println!(
            "On {} the old PostgreSQL had ended {:.1} s after the cut, and its mount was gone.",
            outcome.from,
            zombie.as_secs_f64()
        );
    }
    if let Some(whole) = outcome.whole {
        println!(
            "{} was a whole replica again {:.1} s after its return.",
            outcome.from,
            whole.as_secs_f64()
        );
    }
    drop(stage);
    println!(
        "\n{} rows on {} after {:.1} s",
        thousands(outcome.rows),
        outcome.to,
        outcome.total.as_secs_f64()
    );
    Ok(())
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
