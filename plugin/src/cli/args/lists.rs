//! What lists have in common: which of all are shown, and whether they are shown again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

/// Whether something is shown once, or again and again.
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Show it again and again, until ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// Between looks
    #[arg(long, default_value = "2s", value_name = "SPAN", value_parser = humantime::parse_duration)]
    pub interval: Duration,
}

/// Which of all are shown.
#[derive(Args, Clone, Debug, Default)]
pub struct FilterArgs {
    /// Only those of which something is wrong
    #[arg(long)]
    pub unhealthy: bool,
    /// Only those in this state
    #[arg(long)]
    pub state: Option<String>,
    /// Only those with this label, KEY or KEY=VALUE; may be repeated
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    pub labels: Vec<String>,
}

impl FilterArgs {
    /// Whether something is to be shown.
    pub fn fits(&self, healthy: bool, state: &str, labels: &BTreeMap<String, String>) -> bool {
        let has = |label: &String| match label.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|has| has == value),
            None => labels.contains_key(label),
        };
        !(self.unhealthy && healthy)
            && self.state.as_ref().is_none_or(|wanted| wanted == state)
            && self.labels.iter().all(has)
    }
}

/// Which volumes are shown.
#[derive(Args, Clone, Debug)]
pub struct VolumeListArgs {
    /// Which of all.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Only those of this storage class
    #[arg(long)]
    pub class: Option<String>,
    /// Only those with a replica on this node, or in use there
    #[arg(long)]
    pub node: Option<String>,
    /// Again and again.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Which nodes are shown.
#[derive(Args, Clone, Debug)]
pub struct NodeListArgs {
    /// Which of all.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Again and again.
    #[command(flatten)]
    pub watch: WatchArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_leaves_fewer() {
        let labels = BTreeMap::from([("app".to_owned(), "shop".to_owned())]);
        let fits = |unhealthy: bool, state: &str, label: &str| {
            let filter = FilterArgs {
                unhealthy,
                state: (!state.is_empty()).then(|| state.to_owned()),
                labels: label.split_whitespace().map(str::to_owned).collect(),
            };
            filter.fits(false, "degraded", &labels)
        };
        assert!(fits(false, "", "") && fits(true, "degraded", "app app=shop"));
        assert!(!fits(false, "attached", "") && !fits(false, "", "app=blog") && !fits(false, "", "app tier"));
        let all = FilterArgs::default();
        assert!(all.fits(true, "attached", &BTreeMap::new()));
        let unhealthy = FilterArgs {
            unhealthy: true,
            ..all
        };
        assert!(!unhealthy.fits(true, "attached", &BTreeMap::new()));
    }
}
