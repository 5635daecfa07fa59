//! Words for a shell, such that nothing in them means anything to it.

/// A word in quotes, if it needs them.
pub(super) fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Words, each in quotes if it needs them.
pub(super) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_takes_each_word_as_it_is() {
        for word in [
            "",
            "plain",
            "two words",
            "it's",
            "$HOME",
            "`id`",
            "a\\b",
            "\"",
            "*",
            "~",
            "#",
            "!x",
            ";",
        ] {
            let line = format!("printf %s {}", quote(word));
            let said = Command::new("sh").args(["-c", &line]).output().expect("a shell");
            assert_eq!(String::from_utf8_lossy(&said.stdout), word, "{line}");
        }
        assert_eq!(words(["a", "b c"]), "a 'b c'");
    }
}
