//! Options of a container's interface in a network (`--driver-opt`), by Docker's keys or their
//! short names.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::container::sysctls::{self, Setting};
use crate::policy::check_interface;
use crate::problem::invalid;
use crate::store::EndpointRecord;

/// What Docker's keys begin with.
const DOCKERS: &str = "com.docker.network.endpoint.";
/// The interface's name.
const NAME: &str = "ifname";
/// Settings of the kernel for it.
const SETTINGS: &str = "sysctls";

/// Checks the options of an interface. Returns the name that it is to have, if they say.
///
/// # Errors
/// A sentence: an option is unknown, or its value makes no sense.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<Option<&str>> {
    let mut name = None;
    for (key, value) in options {
        match key.strip_prefix(DOCKERS).unwrap_or(key) {
            NAME => {
                check_interface(value).map_err(invalid)?;
                name = Some(value.as_str());
            }
            SETTINGS => {
                sysctls::of_interface(value, "eth0")?;
            }
            _ => {
                return Err(invalid(format!(
                    "no interface has an option \"{}\", there are {NAME} and {SETTINGS} (or \
                     {DOCKERS}{NAME} and {DOCKERS}{SETTINGS})",
                    key.escape_debug()
                )));
            }
        }
    }
    Ok(name)
}

/// The settings of the kernel for an interface.
pub(super) fn settings(endpoint: &EndpointRecord) -> Result<Vec<Setting>> {
    let mut all = Vec::new();
    for (key, value) in &endpoint.options {
        if key.strip_prefix(DOCKERS).unwrap_or(key) == SETTINGS {
            all.extend(sysctls::of_interface(value, &endpoint.interface)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn options_have_two_names() {
        assert_eq!(check(&options(&[])).unwrap(), None);
        for key in ["ifname", "com.docker.network.endpoint.ifname"] {
            assert_eq!(check(&options(&[(key, "lan0")])).unwrap(), Some("lan0"));
        }
        for (key, value, part) in [
            ("ifname", "a/b", "a/b"),
            ("ifname", "", "\"\""),
            ("sysctls", "net.ipv4.ip_forward=1", "IFNAME"),
            (
                "com.docker.network.endpoint.exposedports",
                "80",
                "exposedports",
            ),
            ("banana", "1", "banana"),
        ] {
            let error = check(&options(&[(key, value)])).unwrap_err().to_string();
            assert!(error.contains(part), "{key}={value}: {error}");
        }
    }

    #[test]
    fn settings_are_those_of_the_interface() {
        let endpoint = EndpointRecord {
            interface: "eth3".into(),
            options: options(&[
                ("ifname", "eth3"),
                ("sysctls", "net.ipv4.conf.IFNAME.log_martians=1"),
            ]),
            ..EndpointRecord::default()
        };
        let expected = Setting::parse("net.ipv4.conf.eth3.log_martians", "1").unwrap();
        assert_eq!(settings(&endpoint).unwrap(), [expected]);
    }
}
