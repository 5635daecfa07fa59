//! What the documentation says to type: each command line of Bulkhead's is one that the program understands, each target of
//! make's is there, and each block says whether it is run. Those that are, tests/cluster runs.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets what it does not expect has failed"
)]

use std::collections::BTreeSet;

use bulkhead::cli::Cli;
use bulkhead_lab::{docs, programs};
use clap::Parser;
use clap::error::ErrorKind;

/// What stands in a synopsis for something of a form of its own.
const PLACES: [(&str, &str); 9] = [
    ("DEVICE", "/dev/sdb"),
    ("FILE", "/srv/pool.img"),
    ("FILE=SIZE", "/srv/pool.img=10G"),
    ("NAME KEY=VALUE", "gold repl=2"),
    ("COUNT", "3"),
    ("N", "3"),
    ("SHELL", "bash"),
    ("SPAN", "5s"),
    ("n", "3"),
];

/// What begins with the program's name, and is what it says of itself.
const SAID: [&str; 1] = ["bulkhead is ready"];

/// The forms that a word of a synopsis stands for.
fn alternatives(word: &str) -> Vec<String> {
    let place = |word: &str| {
        let place = PLACES.iter().find(|(name, _)| *name == word);
        place.map_or(word, |(_, example)| example).to_owned()
    };
    word.split('|').map(place).collect()
}

/// All command lines that a synopsis, or a plain line, stands for.
fn lines(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\|", "|").replace('…', "");
    let mut all = Vec::new();
    for variant in docs::variants(&text) {
        // The bars are no pipes here.
        let words: Vec<Vec<String>> = docs::simple(&variant.replace('|', "\u{1}"))
            .into_iter()
            .flatten()
            .map(|word| alternatives(&word.replace('\u{1}', "|")))
            .collect();
        let most = words.iter().map(Vec::len).max().unwrap_or(0);
        all.extend((0..most).map(|turn| {
            let one = |words: &Vec<String>| words[turn.min(words.len() - 1)].clone();
            words.iter().map(one).collect()
        }));
    }
    all
}

/// What is wrong with a command line, as the program itself says it. One that is only named may be incomplete.
fn wrong(words: &[String], is_named: bool) -> Option<String> {
    let error = Cli::try_parse_from(words).err()?;
    let incomplete = [
        ErrorKind::MissingRequiredArgument,
        ErrorKind::MissingSubcommand,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    let fine = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion].contains(&error.kind())
        || is_named && incomplete.contains(&error.kind());
    (!fine).then(|| format!("{}: {error}", words.join(" ")))
}

/// Whether this is our program, by any of the names that the pages give it.
fn is_ours(word: &str) -> bool {
    word == "bulkhead" || word.starts_with("./bulkhead-") || word.ends_with("/bin/bulkhead")
}

#[test]
fn every_command_in_the_documentation_is_understood() {
    let makefile = std::fs::read_to_string(programs::workspace().unwrap().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(": ").map(|(name, _)| name))
        .collect();
    let (mut faults, mut seen, mut made) = (Vec::new(), 0, 0);
    let mut check = |at: &str, words: &[String], is_named: bool| {
        // What runs it elsewhere, and variables before it.
        let after = match words {
            [ssh, _, rest @ ..] if ssh == "ssh" => rest,
            [variable, rest @ ..] if variable.contains('=') => rest,
            all => all,
        };
        match after {
            [program, ..] if is_ours(program) => {
                seen += 1;
                faults.extend(wrong(after, is_named).map(|fault| format!("{at}: {fault}")));
            }
            [program, target, ..]
                if program == "make" && target.starts_with(|sign: char| sign.is_ascii_lowercase()) =>
            {
                made += 1;
                if !targets.contains(target.as_str()) {
                    faults.push(format!("{at}: there is no `make {target}`"));
                }
            }
            _ => {}
        }
    };
    for page in docs::pages().unwrap() {
        for block in &page.blocks {
            for words in block.lines.iter().flat_map(|line| docs::simple(line)) {
                check(&block.at, &words, false);
            }
        }
        for text in page.inline.iter().filter(|text| !SAID.contains(&text.as_str())) {
            if text.starts_with("bulkhead ") || text.starts_with("./bulkhead-") {
                lines(text)
                    .iter()
                    .for_each(|words| check(&page.name, words, true));
            } else {
                docs::simple(text)
                    .iter()
                    .for_each(|words| check(&page.name, words, true));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(
        seen > 150 && made > 20,
        "only {seen} commands and {made} targets were found"
    );
}

#[test]
fn what_is_wrong_is_found() {
    for line in [
        "bulkhead volume frobnicate v1",
        "bulkhead volume create v1 --colour red",
        "bulkhead pool add /dev/sdb --size much",
        "bulkhead statsu",
    ] {
        let words = &docs::simple(line)[0];
        assert!(
            wrong(words, false).is_some() && wrong(words, true).is_some(),
            "{line}"
        );
    }
    let named = &docs::simple("bulkhead volume inspect")[0];
    assert!(wrong(named, true).is_none() && wrong(named, false).is_some());
}
