//! The documentation's commands: the blocks of its pages, what is to be done with each, and the command lines in them.
//!
//! It owns how a page marks its blocks. The line before a block of commands (`sh` or `console`) is `<!-- run -->` or
//! `<!-- not run: WHY -->`; every other block names another language, such as `text`. It must never guess: a block without
//! either is an error.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::programs;

/// A page.
#[derive(Debug)]
pub struct Page {
    /// Where it is, from the workspace's root on.
    pub name: String,
    /// Its blocks of commands.
    pub blocks: Vec<Block>,
    /// What stands between backquotes in its text.
    pub inline: Vec<String>,
}

/// A block of commands.
#[derive(Debug)]
pub struct Block {
    /// Its page and line.
    pub at: String,
    /// Why it is not run, if it is not.
    pub not_run: Option<String>,
    /// The commands, each whole, without prompts and without what they print.
    pub lines: Vec<String>,
}

/// Reads README.md and all pages of docs/.
pub fn pages() -> Result<Vec<Page>> {
    let root = programs::workspace()?;
    let mut names = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root.join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    let read = |name: String| {
        let text = fs::read_to_string(root.join(&name)).context(name.clone())?;
        page(name, &text)
    };
    names.into_iter().map(read).collect()
}

/// Takes a page apart.
pub fn page(name: String, text: &str) -> Result<Page> {
    let (mut blocks, mut inline, mut before) = (Vec::new(), Vec::new(), "");
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            inline.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
            before = line;
            continue;
        };
        let at = format!("{name}:{}", number + 1);
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| !line.starts_with("```"))
            .collect();
        ensure!(
            !language.is_empty(),
            "{at}: the block names no language; write ```sh for commands, ```text for a drawing"
        );
        if !["sh", "console"].contains(&language) {
            continue;
        }
        let mark = before
            .strip_prefix("<!-- ")
            .and_then(|rest| rest.strip_suffix(" -->"));
        let why = mark.and_then(|mark| mark.strip_prefix("not run: "));
        let not_run = match (mark, why) {
            (Some("run"), _) => None,
            (_, Some(why)) if !why.is_empty() => Some(why.to_owned()),
            _ => bail!("{at}: write <!-- run --> or <!-- not run: WHY --> on the line before the block"),
        };
        blocks.push(Block {
            not_run,
            lines: commands(&body, language == "console").with_context(|| at.clone())?,
            at,
        });
    }
    Ok(Page { name, blocks, inline })
}

/// The commands of a block. On a console each has a prompt, and what has none is what was printed.
fn commands(body: &[&str], is_console: bool) -> Result<Vec<String>> {
    let mut commands = Vec::new();
    let mut lines = body.iter();
    while let Some(line) = lines.next() {
        let mut command = match line.split_once("# ").or_else(|| line.split_once("$ ")) {
            Some((host, command)) if is_console && host.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                command.to_owned()
            }
            _ if is_console => continue,
            _ => (*line).to_owned(),
        };
        while let Some(first) = command.strip_suffix('\\') {
            let next = lines.next().context("its last line goes on, but where?")?;
            command = format!("{first}{}", next.trim_start());
        }
        if !command.trim().is_empty() {
            commands.push(command);
        }
    }
    ensure!(!commands.is_empty(), "there is no command in it");
    Ok(commands)
}

/// The simple commands in a line of shell, each as its words; redirections and comments are left out.
pub fn simple(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut signs = line.chars().peekable();
    // The next word is a file that something goes to or comes from.
    let mut is_file = false;
    loop {
        let sign = signs.next();
        match sign {
            Some(quote @ ('\'' | '"')) => {
                let quoted: String = signs.by_ref().take_while(|&sign| sign != quote).collect();
                word.get_or_insert_default().push_str(&quoted);
                continue;
            }
            Some('#') if word.is_none() => signs = "".chars().peekable(),
            Some(sign) if !" ;&|<>()".contains(sign) => {
                word.get_or_insert_default().push(sign);
                continue;
            }
            _ => {}
        }
        if let Some(word) = word.take()
            && !std::mem::take(&mut is_file)
            && let Some(last) = all.last_mut()
        {
            last.push(word);
        }
        match sign {
            Some(';' | '&' | '|' | '(' | ')') => all.push(Vec::new()),
            Some('<' | '>') => is_file = true,
            None => break,
            _ => {}
        }
    }
    all.retain(|words| !words.is_empty());
    all
}

/// What a synopsis stands for: without anything in brackets, and with each of the brackets once.
pub fn variants(synopsis: &str) -> Vec<String> {
    let Some(open) = synopsis.find('[') else {
        return vec![synopsis.to_owned()];
    };
    let mut depth = 0;
    let close = synopsis[open..].find(|sign| {
        depth += i32::from(sign == '[') - i32::from(sign == ']');
        depth == 0
    });
    let Some(close) = close.map(|close| open + close) else {
        return vec![synopsis.to_owned()];
    };
    let (before, inside, after) = (
        &synopsis[..open],
        &synopsis[open + 1..close],
        &synopsis[close + 1..],
    );
    let rest = variants(after);
    let mut all: Vec<String> = rest.iter().map(|rest| format!("{before}{rest}")).collect();
    let bare = rest[0].clone();
    for alternative in inside.split(" | ") {
        all.extend(
            variants(alternative)
                .iter()
                .map(|inside| format!("{before}{inside}{bare}")),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_to_say_what_is_done_with_it() {
        let read = |text: &str| page("page".to_owned(), text);
        for (text, why) in [
            ("```\nls\n```", "names no language"),
            ("```sh\nls\n```", "write <!-- run -->"),
            ("<!-- run -->\n\n```sh\nls\n```", "write <!-- run -->"),
            ("<!-- not run: -->\n```sh\nls\n```", "write <!-- run -->"),
            ("<!-- run -->\n```console\nls\n```", "no command"),
            ("<!-- run -->\n```sh\nls \\\n```", "goes on"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
        let page = read("Do `ls -l`:\n<!-- run -->\n```console\nn1# ls \\\n    -l\nfile\n$ ls\n```\n```toml\nx = 1\n```\n").unwrap();
        assert_eq!(page.inline, ["ls -l"]);
        assert_eq!(page.blocks[0].lines, ["ls -l", "ls"]);
        assert_eq!(page.blocks[0].not_run, None);
    }

    #[test]
    fn a_line_falls_into_its_commands() {
        let words = simple("A=1 ls 'a b' >out && cat <in \"c;d\" | wc; x#y   # ls");
        let as_text: Vec<String> = words.iter().map(|words| words.join("_")).collect();
        assert_eq!(as_text, ["A=1_ls_a b", "cat_c;d", "wc", "x#y"]);
    }

    #[test]
    fn a_synopsis_stands_for_each_of_its_options() {
        assert_eq!(
            variants("a [-b [-c]] X[=Y] [D | -e]"),
            ["a  X ", "a  X D", "a  X -e", "a  X=Y ", "a -b  X ", "a -b -c X "]
        );
    }
}
