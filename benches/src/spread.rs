//! Median and tail of a number of durations.

use std::time::Duration;

/// How a number of durations are spread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    /// Half of them are shorter.
    pub median: Duration,
    /// All but one in a hundred are shorter.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Spread {
    /// Of these; all zero if there are none.
    pub fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |share: usize| {
            let index = (durations.len() * share / 100).min(durations.len().saturating_sub(1));
            durations.get(index).copied().unwrap_or_default()
        };
        Self {
            median: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_of_a_hundred() {
        let spread = Spread::of((1..=100).map(Duration::from_millis).collect());
        assert_eq!(spread.median, Duration::from_millis(51));
        assert_eq!(spread.p99, Duration::from_millis(100));
        assert_eq!(spread.max, Duration::from_millis(100));
        assert_eq!(Spread::of(Vec::new()).max, Duration::ZERO);
    }
}
