//! The text form in which Prometheus reads figures. Owns its grammar; knows no figure.

use std::fmt::{Display, Write};

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only goes up, and begins anew from zero.
    Counter,
    /// Counts in classes.
    Histogram,
}

/// Figures as text.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: String,
}

impl Exposition {
    /// Begins with a family of figures: all that have this name.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let word = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        name.clone_into(&mut self.family);
        self.text
            .push_str(&format!("# HELP {name} {help}\n# TYPE {name} {word}\n"));
    }

    /// One figure of the family.
    pub fn figure(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// A figure for each of some states, one for the one that is so and zero for the others.
    pub fn one_hot(&mut self, labels: &[(&str, &str)], states: &[&str], is: &str) {
        for state in states {
            let of_it = u8::from(*state == is);
            self.line("", labels, Some(("state", state)), of_it);
        }
    }

    /// A histogram of the family: how many are in each class, the last one without a bound, bounds in seconds.
    pub fn histogram(&mut self, labels: &[(&str, &str)], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut all = 0_u64;
        for (n, count) in counts.iter().enumerate() {
            all = all.saturating_add(*count);
            let bound = bounds
                .get(n)
                .map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            self.line("_bucket", labels, Some(("le", &bound)), all);
        }
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, all);
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.text
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        more: Option<(&str, &str)>,
        value: impl Display,
    ) {
        self.text.push_str(&self.family);
        self.text.push_str(suffix);
        let mut first = true;
        for (label, text) in labels.iter().copied().chain(more) {
            self.text.push(if first { '{' } else { ',' });
            first = false;
            self.text.push_str(label);
            self.text.push_str("=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if !first {
            self.text.push('}');
        }
        // Writing to a String does not fail.
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_that_of_prometheus() {
        let mut text = Exposition::default();
        text.family("a_bytes", Kind::Gauge, "Some bytes.");
        text.figure(&[], 5);
        text.figure(&[("name", "a \"b\"\\\n")], 1.5);
        text.family("b", Kind::Gauge, "A state.");
        text.one_hot(&[("v", "x")], &["up", "down"], "down");
        text.family("c_seconds", Kind::Histogram, "Spans.");
        text.histogram(&[("v", "x")], &[0.1, 1.0], &[2, 0, 3], 7.5);
        assert_eq!(
            text.finish(),
            "# HELP a_bytes Some bytes.\n# TYPE a_bytes gauge\na_bytes 5\na_bytes{name=\"a \\\"b\\\"\\\\\\n\"} 1.5\n\
             # HELP b A state.\n# TYPE b gauge\nb{v=\"x\",state=\"up\"} 0\nb{v=\"x\",state=\"down\"} 1\n\
             # HELP c_seconds Spans.\n# TYPE c_seconds histogram\n\
             c_seconds_bucket{v=\"x\",le=\"0.1\"} 2\nc_seconds_bucket{v=\"x\",le=\"1\"} 2\n\
             c_seconds_bucket{v=\"x\",le=\"+Inf\"} 5\nc_seconds_sum{v=\"x\"} 7.5\nc_seconds_count{v=\"x\"} 5\n"
        );
    }
}
