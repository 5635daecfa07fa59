//! Values that people write in more than one form: durations and percentages. Each takes a string too, as the environment
//! and flags have nothing else.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration: `90s`, `2m`, or a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Spans;
        impl Visitor<'_> for Spans {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"90s\" or \"2m\"")
            }

            fn visit_i64<E: Error>(self, seconds: i64) -> Result<Span, E> {
                u64::try_from(seconds)
                    .map(Span::seconds)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(seconds), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                if let Ok(seconds) = text.parse() {
                    return Ok(Span::seconds(seconds));
                }
                humantime::parse_duration(text)
                    .map(Span)
                    .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Spans)
    }
}

/// A percentage: `200` or `"200%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u32);

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Percents;
        impl Visitor<'_> for Percents {
            type Value = Percent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a percentage such as 200")
            }

            fn visit_i64<E: Error>(self, percent: i64) -> Result<Percent, E> {
                u32::try_from(percent)
                    .map(Percent)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(percent), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Percent, E> {
                text.trim()
                    .trim_end_matches('%')
                    .trim_end()
                    .parse()
                    .map(Percent)
                    .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Percents)
    }
}
