//! The idle times by their names, as flags, settings file and `status` have them.

use std::collections::BTreeMap;

use anyhow::Result;
use netpath_common::config::Timeouts;

use crate::problem::invalid;

/// Longest idle time, in seconds: 30 days. What is silent for longer is not coming back, and
/// its entries would fill the table.
const MAX: u32 = 30 * 24 * 3600;

/// One idle time.
struct Timeout {
    name: &'static str,
    field: fn(&mut Timeouts) -> &mut u32,
    /// What an RFC asks for at least, in seconds, and which. None is named for connections that
    /// open or close: RFC 5382 wants 240 s, which the defaults stay below on purpose, lest what
    /// floods and scans leave behind fills the table.
    least: Option<(u32, &'static str)>,
}

const ALL: [Timeout; 7] = [
    Timeout {
        name: "icmp",
        field: |timeouts| &mut timeouts.icmp,
        least: Some((60, "RFC 5508")),
    },
    Timeout {
        name: "tcp-closed",
        field: |timeouts| &mut timeouts.tcp_closed,
        least: None,
    },
    Timeout {
        name: "tcp-closing",
        field: |timeouts| &mut timeouts.tcp_closing,
        least: None,
    },
    Timeout {
        name: "tcp-established",
        field: |timeouts| &mut timeouts.tcp_established,
        least: Some((7440, "RFC 5382")),
    },
    Timeout {
        name: "tcp-opening",
        field: |timeouts| &mut timeouts.tcp_opening,
        least: None,
    },
    Timeout {
        name: "udp-one-way",
        field: |timeouts| &mut timeouts.udp_one_way,
        least: Some((120, "RFC 4787")),
    },
    Timeout {
        name: "udp-two-way",
        field: |timeouts| &mut timeouts.udp_two_way,
        least: Some((120, "RFC 4787")),
    },
];

/// Parses `NAME=SECONDS`.
///
/// # Errors
/// A sentence; whether there is such a name is for [`apply`] to say.
pub fn parse(text: &str) -> Result<(String, u32)> {
    text.split_once('=')
        .and_then(|(name, seconds)| Some((canonical(name), seconds.parse().ok()?)))
        .ok_or_else(|| {
            invalid(format!(
                "timeout \"{text}\" makes no sense, write NAME=SECONDS like tcp-established=8000"
            ))
        })
}

/// A name as `status` shows it: settings files, as is usual there, may have `_` for `-`.
pub fn canonical(name: &str) -> String {
    name.replace('_', "-")
}

/// The defaults with what was wished in their place.
///
/// # Errors
/// A sentence about a name that is none, or a value out of range.
pub fn apply(wishes: &BTreeMap<String, u32>) -> Result<Timeouts> {
    let mut timeouts = Timeouts::DEFAULT;
    for (name, &seconds) in wishes {
        let Some(timeout) = ALL.iter().find(|timeout| timeout.name == canonical(name)) else {
            let names = ALL.map(|timeout| timeout.name);
            return Err(invalid(format!(
                "there is no timeout {name}, choose one of {}",
                names.join(", ")
            )));
        };
        if !(1..=MAX).contains(&seconds) {
            return Err(invalid(format!(
                "timeout {name}={seconds} is out of range, choose 1 to {MAX} seconds"
            )));
        }
        *(timeout.field)(&mut timeouts) = seconds;
    }
    Ok(timeouts)
}

/// All idle times by name, in seconds.
pub fn by_name(timeouts: &Timeouts) -> BTreeMap<String, u32> {
    let mut timeouts = *timeouts;
    ALL.iter()
        .map(|timeout| (timeout.name.to_owned(), *(timeout.field)(&mut timeouts)))
        .collect()
}

/// What to say about idle times at which well-behaved programs lose their connections.
pub fn warnings(timeouts: &Timeouts) -> Vec<String> {
    let mut timeouts = *timeouts;
    ALL.iter()
        .filter_map(|timeout| {
            let (least, rfc) = timeout.least?;
            let seconds = *(timeout.field)(&mut timeouts);
            (seconds < least).then(|| {
                format!(
                    "timeout {}={seconds} is below the {least} s of {rfc}: connections that are \
                     only quiet will break",
                    timeout.name
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str, seconds: u32) -> Result<Timeouts> {
        apply(&BTreeMap::from([(name.to_owned(), seconds)]))
    }

    #[test]
    fn every_idle_time_has_a_name() {
        for name in by_name(&Timeouts::DEFAULT).keys() {
            let changed = wish(name, 12_345).unwrap();
            assert_ne!(changed, Timeouts::DEFAULT, "{name}");
            assert_eq!(by_name(&changed)[name], 12_345);
        }
        let words = size_of::<Timeouts>() / size_of::<u32>();
        assert_eq!(by_name(&Timeouts::DEFAULT).len(), words);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "icmp",
            "icmp=",
            "icmp=soon",
            "icmp=-1",
            "icmp=99999999999",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{text}\"")), "{error}");
        }
        assert_eq!(parse("tcp_closed=5").unwrap(), ("tcp-closed".into(), 5));
        let error = wish("tcp", 5).unwrap_err().to_string();
        assert!(
            error.contains("no timeout tcp, choose one of icmp, tcp-closed"),
            "{error}"
        );
        for seconds in [0, MAX + 1] {
            let error = wish("icmp", seconds).unwrap_err().to_string();
            assert!(error.contains("choose 1 to 2592000 seconds"), "{error}");
        }
    }

    #[test]
    fn values_below_an_rfc_warn() {
        assert!(warnings(&Timeouts::DEFAULT).is_empty());
        let warned = warnings(&wish("tcp-established", 3600).unwrap());
        assert_eq!(warned.len(), 1);
        assert!(warned[0].contains("7440 s of RFC 5382"), "{warned:?}");
        assert!(warnings(&wish("tcp-opening", 5).unwrap()).is_empty());
    }
}
