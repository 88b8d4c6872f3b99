//! `--filter KEY=VALUE` of `network ls` and `network prune`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::api::types::Network;
use crate::policy::switch;
use crate::problem::invalid;

/// Keys, each with what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Name of the driver.
    Driver,
    /// Part of the id.
    Id,
    /// A label, with its value or without; `label!=` admits those that do not have it.
    Label,
    /// Part of the name; `^` and `$` are its ends.
    Name,
    /// `local`, as all are.
    Scope,
    /// `custom` or `builtin`.
    Type,
    /// Whether nobody is in it.
    Dangling,
    /// Made before a time.
    Until,
}

impl Known {
    fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Id => "id",
            Self::Label => "label",
            Self::Name => "name",
            Self::Scope => "scope",
            Self::Type => "type",
            Self::Dangling => "dangling",
            Self::Until => "until",
        }
    }
}

/// What some filters ask for together: of one key any value is enough, but all labels are wanted.
#[derive(Debug, Default)]
pub(super) struct Filter {
    wanted: Vec<(Known, String)>,
    unwanted_labels: Vec<String>,
    until: Option<Timestamp>,
}

impl Filter {
    /// Reads filters of which `known` are allowed.
    ///
    /// # Errors
    /// A sentence about the first that makes no sense.
    pub(super) fn parse(filters: &[String], known: &[Known]) -> Result<Self> {
        let mut filter = Self::default();
        for text in filters {
            let Some((key, value)) = text.split_once('=') else {
                return Err(invalid(format!(
                    "filter \"{}\" makes no sense, write KEY=VALUE",
                    text.escape_debug()
                )));
            };
            let key = key.trim().to_lowercase();
            let (name, negated) = match key.strip_suffix('!') {
                Some(name) => (name, true),
                None => (key.as_str(), false),
            };
            let found = known.iter().find(|known| known.name() == name);
            let Some(known) = found.filter(|known| !negated || **known == Known::Label) else {
                let names: Vec<&str> = known.iter().map(|known| known.name()).collect();
                return Err(invalid(format!(
                    "there is no filter {}, there are: {}",
                    key.escape_debug(),
                    names.join(", ")
                )));
            };
            filter.add(*known, negated, value.trim())?;
        }
        Ok(filter)
    }

    fn add(&mut self, known: Known, negated: bool, value: &str) -> Result<()> {
        let choices: &[&str] = match known {
            Known::Type => &["custom", "builtin"],
            Known::Scope => &["local", "global", "swarm"],
            _ => &[],
        };
        if !choices.is_empty() && !choices.contains(&value) {
            return Err(invalid(format!(
                "filter {}={}: choose one of {}",
                known.name(),
                value.escape_debug(),
                choices.join(", ")
            )));
        }
        match known {
            Known::Label if negated => self.unwanted_labels.push(value.to_owned()),
            Known::Dangling => {
                let dangling = switch(value)
                    .map_err(|reason| invalid(format!("filter dangling={value}: {reason}")))?;
                self.wanted.push((known, dangling.to_string()));
            }
            Known::Until => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
                let until = moment(value, now).ok_or_else(|| {
                    invalid(format!(
                        "filter until={}: write a time like 2026-01-31T12:00:00Z, or how long ago \
                         like 24h",
                        value.escape_debug()
                    ))
                })?;
                self.until = Some(self.until.map_or(until, |other| other.min(until)));
            }
            _ => self.wanted.push((known, value.to_owned())),
        }
        Ok(())
    }

    /// Whether a network is one of those that are asked for.
    pub(super) fn admits(&self, network: &Network) -> bool {
        let values = |known: Known| {
            let of = self.wanted.iter().filter(move |(other, _)| *other == known);
            of.map(|(_, value)| value.as_str())
        };
        let any = |known: Known, holds: &dyn Fn(&str) -> bool| {
            values(known).next().is_none() || values(known).any(holds)
        };
        let kind = if is_builtin(network) {
            "builtin"
        } else {
            "custom"
        };
        let dangling = kind == "custom" && network.containers.is_empty();
        let created = i64::try_from(network.created).unwrap_or(i64::MAX);
        any(Known::Driver, &|value| value == network.driver)
            && any(Known::Id, &|value| is_part(value, &network.id))
            && any(Known::Name, &|value| is_part(value, &network.name))
            && any(Known::Scope, &|value| value == network.scope)
            && any(Known::Type, &|value| value == kind)
            && any(Known::Dangling, &|value| value == dangling.to_string())
            && values(Known::Label).all(|label| has_label(network, label))
            && !self
                .unwanted_labels
                .iter()
                .any(|label| has_label(network, label))
            && self.until.is_none_or(|until| created < until.as_second())
    }
}

/// Whether it is always there.
pub(super) fn is_builtin(network: &Network) -> bool {
    ["bridge", "host", "none"].contains(&network.name.as_str())
}

fn is_part(pattern: &str, text: &str) -> bool {
    let (begins, pattern) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    match (begins, pattern.strip_suffix('$')) {
        (true, Some(all)) => text == all,
        (true, None) => text.starts_with(pattern),
        (false, Some(end)) => text.ends_with(end),
        (false, None) => text.contains(pattern),
    }
}

fn has_label(network: &Network, label: &str) -> bool {
    match label.split_once('=') {
        Some((key, value)) => network.labels.get(key).is_some_and(|v| v == value),
        None => network.labels.contains_key(label),
    }
}

/// A time as Docker takes it: how long ago (Go's durations), seconds since 1970, or a date with
/// or without time of day and zone.
fn moment(text: &str, now: i64) -> Option<Timestamp> {
    if let Some(seconds) = go_duration(text) {
        return Timestamp::from_second(now.checked_sub(seconds)?).ok();
    }
    if let Ok(seconds) = text.split('.').next()?.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    if let Ok(stamp) = text.parse::<Timestamp>() {
        return Some(stamp);
    }
    let local = text.parse::<DateTime>().ok().or_else(|| {
        let date = text.parse::<jiff::civil::Date>().ok()?;
        Some(date.at(0, 0, 0, 0))
    })?;
    let zoned = local.to_zoned(TimeZone::system()).ok()?;
    Some(zoned.timestamp())
}

/// `1h30m`, in seconds.
fn go_duration(text: &str) -> Option<i64> {
    let mut seconds = 0.0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let (factor, length) = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
            .iter()
            .find(|(name, _)| unit.starts_with(name))
            .map(|(name, factor)| (*factor, name.len()))?;
        seconds += number * factor;
        rest = unit.get(length..)?;
    }
    // More than anybody's clock has seen is no duration.
    (seconds < 1e12).then_some(seconds as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Known] = &[
        Known::Driver,
        Known::Id,
        Known::Label,
        Known::Name,
        Known::Scope,
        Known::Type,
        Known::Dangling,
        Known::Until,
    ];

    fn network() -> Network {
        Network {
            name: "web-net".into(),
            id: "aabbcc".into(),
            scope: "local".into(),
            driver: "bridge".into(),
            labels: [("tier", "web"), ("empty", "")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            created: 1_700_000_000,
            ..Network::default()
        }
    }

    fn admits(filters: &[&str]) -> bool {
        let filters: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
        Filter::parse(&filters, ALL).unwrap().admits(&network())
    }

    #[test]
    fn filters_are_joined_as_in_docker() {
        for filters in [
            &[][..],
            &["name=web"],
            &["name=^web", "name=nothing"],
            &["name=net$", "driver=bridge"],
            &["name=^web-net$"],
            &["id=bb"],
            &["label=tier"],
            &["label=tier=web", "label=empty"],
            &["label!=other"],
            &["type=custom"],
            &["dangling=true"],
            &["scope=local"],
            &["until=2023-12-01"],
            &["until=1h"],
        ] {
            assert!(admits(filters), "{filters:?}");
        }
        for filters in [
            &["name=^net"][..],
            &["name=web$"],
            &["driver=overlay"],
            &["label=tier=db"],
            &["label=tier", "label=missing"],
            &["label!=tier"],
            &["type=builtin"],
            &["dangling=0"],
            &["scope=swarm"],
            &["until=2023-11-01T00:00:00Z"],
        ] {
            assert!(!admits(filters), "{filters:?}");
        }
    }

    #[test]
    fn filters_that_make_no_sense_are_refused() {
        for (filter, part) in [
            ("web", "write KEY=VALUE"),
            ("color=blue", "there is no filter color"),
            ("name!=web", "there is no filter name!"),
            ("type=large", "custom, builtin"),
            ("dangling=maybe", "true or false"),
            ("until=soon", "like 24h"),
            ("until=", "like 24h"),
        ] {
            let error = Filter::parse(&[filter.to_owned()], ALL).unwrap_err();
            assert!(error.to_string().contains(part), "{filter}: {error}");
        }
    }

    #[test]
    fn moments() {
        let second = |text: &str| moment(text, 100_000).map(|stamp| stamp.as_second());
        assert_eq!(second("1h30m"), Some(100_000 - 5400));
        assert_eq!(second("1.5h"), Some(100_000 - 5400));
        assert_eq!(second("90s"), Some(100_000 - 90));
        assert_eq!(second("1700000000"), Some(1_700_000_000));
        assert_eq!(second("1700000000.5"), Some(1_700_000_000));
        assert_eq!(second("2023-11-14T22:13:20Z"), Some(1_700_000_000));
        assert_eq!(second("2023-11-14T23:13:20+01:00"), Some(1_700_000_000));
        assert!(second("2023-11-14T22:13:20").is_some());
        assert!(second("2023-11-14").is_some());
        for text in ["", "h", "1", "5x", "99999999999999999h", "é"] {
            assert!(text == "1" || second(text).is_none(), "{text}");
        }
    }
}
