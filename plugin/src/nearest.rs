//! Names that may have been meant: for errors about names that there are not. Decides nothing.

/// How alike two names have to be, from 0 to 1.
const ALIKE: f64 = 0.78;
/// The most names that are listed in an error.
const LISTED: usize = 8;

/// The known name that is most like the given one, if one is like it at all.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&given, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// A sentence about a name that there is not: the one that may have been meant, and those that there are.
pub(crate) fn no_such(what: &str, given: &str, known: &[&str], command: &str) -> String {
    let hint = match nearest(given, known.iter().copied()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => ";".to_owned(),
    };
    let list = match known.len() {
        0 => "there is none yet".to_owned(),
        1..=LISTED => format!("there are: {}", known.join(", ")),
        more => format!("there are {more}: {}, …", known[..LISTED].join(", ")),
    };
    format!("there is no {what} {given:?}{hint} {list} (`{command}`)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_is_suggested() {
        assert_eq!(nearest("replicatd", ["plain", "replicated"]), Some("replicated"));
        assert_eq!(nearest("Plain", ["plain", "replicated"]), Some("plain"));
        assert_eq!(nearest("gold", ["plain", "replicated"]), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn what_there_is_is_listed_but_not_endlessly() {
        assert_eq!(
            no_such("node", "n9", &["alpha", "beta"], "bulkhead node list"),
            "there is no node \"n9\"; there are: alpha, beta (`bulkhead node list`)"
        );
        assert!(no_such("class", "gald", &["gold"], "c").contains("did you mean \"gold\"? there are: gold"));
        let many: Vec<String> = (0..30).map(|n| format!("node{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let text = no_such("node", "node31", &many, "c");
        assert!(text.contains("there are 30:") && text.len() < 200, "{text}");
    }
}
