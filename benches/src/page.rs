//! The measured part of a page of the documentation: what stands between two marks is written anew, and what people wrote
//! around it stays.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

/// Writes the part of a name.
pub fn write(page: &Path, name: &str, part: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("{} cannot be read", page.display()))?;
    let text = spliced(&text, name, part).with_context(|| page.display().to_string())?;
    fs::write(page, text).with_context(|| format!("{} cannot be written", page.display()))
}

fn spliced(text: &str, name: &str, part: &str) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- measured: {name} -->"), "<!-- end -->");
    let Some((before, rest)) = text.split_once(&begin) else {
        bail!("has no line `{begin}`");
    };
    let Some((_, after)) = rest.split_once(end) else {
        bail!("has no line `{end}` after `{begin}`");
    };
    Ok(format!("{before}{begin}\n{}\n{end}{after}", part.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_changes() -> anyhow::Result<()> {
        let page = "a\n<!-- measured: x -->\nold\n<!-- end -->\nb\n<!-- measured: y -->\n<!-- end -->\n";
        let once = spliced(page, "x", "new\n")?;
        assert_eq!(
            once,
            "a\n<!-- measured: x -->\nnew\n<!-- end -->\nb\n<!-- measured: y -->\n<!-- end -->\n"
        );
        assert_eq!(spliced(&once, "x", "new")?, once);
        assert!(spliced(page, "z", "new").is_err());
        assert!(spliced("<!-- measured: x -->", "x", "new").is_err());
        Ok(())
    }
}
