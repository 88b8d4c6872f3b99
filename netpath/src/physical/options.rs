//! Options of networks on a card of the host.

use std::collections::BTreeMap;

use anyhow::Result;

use super::record::{Flag, Mode};
use crate::problem::invalid;
use crate::store::Driver;

/// What a network asks of a card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The card; `None` for none.
    pub parent: Option<String>,
    /// Of macvlan and ipvlan; and of underlay, whether its containers are routed.
    pub mode: Mode,
    /// Of ipvlan.
    pub flag: Flag,
}

/// Keys of the MTU, which all networks have.
const MTU: [&str; 2] = ["mtu", "com.docker.network.driver.mtu"];

/// Takes the options of a network on a card out of `options`; what is left is for all networks.
///
/// # Errors
/// A sentence about the first option that the driver does not have or that makes no sense.
pub fn take(driver: Driver, options: &mut BTreeMap<String, String>) -> Result<Wanted> {
    let mut wanted = Wanted {
        mode: match driver {
            Driver::Ipvlan => Mode::L2,
            _ => Mode::Bridge,
        },
        ..Wanted::default()
    };
    let known: &[&str] = match driver {
        Driver::Macvlan => &["parent", "macvlan_mode"],
        Driver::Ipvlan => &["parent", "ipvlan_mode", "ipvlan_flag"],
        _ => &["parent", "mode"],
    };
    for (key, value) in options.iter() {
        if MTU.contains(&key.as_str()) {
            continue;
        }
        if !known.contains(&key.as_str()) {
            return Err(invalid(format!(
                "option {key} is unknown to driver {driver}, there are: {}, mtu",
                known.join(", ")
            )));
        }
        let understood = match key.as_str() {
            "mode" => underlay(value).map(|mode| wanted.mode = mode),
            "macvlan_mode" => macvlan(value).map(|mode| wanted.mode = mode),
            "ipvlan_mode" => ipvlan(value).map(|mode| wanted.mode = mode),
            "ipvlan_flag" => flag(value).map(|flag| wanted.flag = flag),
            _ => {
                wanted.parent = Some(value.clone()).filter(|name| !name.is_empty());
                Ok(())
            }
        };
        understood
            .map_err(|there| invalid(format!("option {key}={value}: choose one of {there}")))?;
    }
    if wanted.mode == Mode::Passthru && wanted.parent.is_none() {
        return Err(invalid(
            "macvlan_mode=passthru gives a container a card, name it with -o parent=",
        ));
    }
    if driver == Driver::Underlay && wanted.parent.is_none() {
        return Err(invalid(
            "a network of driver underlay shares a card of the host, name it with -o parent=",
        ));
    }
    options.retain(|key, _| MTU.contains(&key.as_str()));
    Ok(wanted)
}

/// The error is what there is.
fn underlay(text: &str) -> Result<Mode, &'static str> {
    Ok(match text {
        "" | "l2" => Mode::Bridge,
        "l3" => Mode::L3,
        "macvlan" => Mode::Stacked,
        _ => return Err("l2, l3, macvlan"),
    })
}

/// As [`underlay`].
fn macvlan(text: &str) -> Result<Mode, &'static str> {
    Ok(match text {
        "" | "bridge" => Mode::Bridge,
        "private" => Mode::Private,
        "vepa" => Mode::Vepa,
        "passthru" => Mode::Passthru,
        _ => return Err("bridge, private, vepa, passthru"),
    })
}

fn ipvlan(text: &str) -> Result<Mode, &'static str> {
    Ok(match text {
        "" | "l2" => Mode::L2,
        "l3" => Mode::L3,
        "l3s" => Mode::L3s,
        _ => return Err("l2, l3, l3s"),
    })
}

fn flag(text: &str) -> Result<Flag, &'static str> {
    Ok(match text {
        "" | "bridge" => Flag::Bridge,
        "private" => Flag::Private,
        "vepa" => Flag::Vepa,
        _ => return Err("bridge, private, vepa"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(driver: Driver, pairs: &[(&str, &str)]) -> Result<(Wanted, usize)> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut options: BTreeMap<_, _> = pairs.collect();
        let wanted = take(driver, &mut options)?;
        Ok((wanted, options.len()))
    }

    #[test]
    fn each_driver_has_its_options() {
        let (wanted, left) = of(
            Driver::Macvlan,
            &[
                ("parent", "eth0"),
                ("macvlan_mode", "vepa"),
                ("mtu", "1400"),
            ],
        )
        .unwrap();
        assert_eq!(wanted.parent.as_deref(), Some("eth0"));
        assert_eq!((wanted.mode, left), (Mode::Vepa, 1));
        let ipvlan = [
            ("parent", "eth0"),
            ("ipvlan_mode", "l3s"),
            ("ipvlan_flag", "private"),
        ];
        let (wanted, _) = of(Driver::Ipvlan, &ipvlan).unwrap();
        assert_eq!((wanted.mode, wanted.flag), (Mode::L3s, Flag::Private));
        assert_eq!(of(Driver::Ipvlan, &[]).unwrap().0.mode, Mode::L2);
        let routed = [("parent", "eth0"), ("mode", "l3")];
        assert_eq!(of(Driver::Underlay, &routed).unwrap().0.mode, Mode::L3);
        let stacked = [("parent", "eth0"), ("mode", "macvlan")];
        assert_eq!(
            of(Driver::Underlay, &stacked).unwrap().0.mode,
            Mode::Stacked
        );
        for (driver, pairs, part) in [
            (
                Driver::Macvlan,
                &[("macvlan_mode", "l2")][..],
                "choose one of bridge",
            ),
            (
                Driver::Macvlan,
                &[("ipvlan_mode", "l2")],
                "unknown to driver macvlan",
            ),
            (
                Driver::Macvlan,
                &[("icc", "false")],
                "unknown to driver macvlan",
            ),
            (
                Driver::Macvlan,
                &[("macvlan_mode", "passthru")],
                "-o parent=",
            ),
            (
                Driver::Ipvlan,
                &[("ipvlan_flag", "x")],
                "choose one of bridge",
            ),
            (Driver::Underlay, &[("mode", "l4")], "choose one of l2, l3"),
            (
                Driver::Macvlan,
                &[("mode", "l3")],
                "unknown to driver macvlan",
            ),
            (Driver::Underlay, &[], "-o parent="),
            (Driver::Underlay, &[("parent", "")], "-o parent="),
        ] {
            let error = of(driver, pairs).unwrap_err().to_string();
            assert!(error.contains(part), "{pairs:?}: {error}");
        }
    }
}
