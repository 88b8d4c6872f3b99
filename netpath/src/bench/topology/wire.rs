//! Containers on the wire of the host's card: by netpath's programs, in a bridge that the card is
//! enslaved to, and by the kernel's macvlan, alone and with the programs.

use anyhow::Result;

use super::super::namespace::Namespace;
use super::super::site::Site;
use super::host::{Host, OUTSIDE, UPLINK};
use super::ours::{Agent, HOST_PROCESS, NETPATH};
use super::{Ends, Path, Variant};
use crate::api::types::{Attach, Connect, Container, CreateNetwork, Join, Network};

/// Name of [`bridge`].
pub const BRIDGE: &str = "bridge+card";
/// Name of [`underlay`] with mode `macvlan`.
pub const STACKED: &str = "netpath/macvlan";
/// Name of [`macvlan`].
pub const MACVLAN: &str = "macvlan";

/// The container's address on the wire.
const CONTAINER: [u8; 4] = [192, 0, 2, 10];

fn variant(name: &str, what: &str, container: &Namespace, host: &Host) -> Variant {
    let mut variant = Variant::new(name, what);
    let ends = Ends::direct(container, &host.outside, OUTSIDE);
    variant.paths.insert(Path::Wire, ends);
    variant.host = Some(host.host.clone());
    variant
}

/// Driver `underlay`; `stacked`: with mode `macvlan`.
pub fn underlay(site: &Site, stacked: bool) -> Result<Variant> {
    let (shown, file, mode, what) = match stacked {
        false => (
            NETPATH,
            "wire",
            "l2",
            "netpath: an address of the card's own network, by programs on the card",
        ),
        true => (
            STACKED,
            "stacked",
            "macvlan",
            "netpath: the same with mode=macvlan, the kernel's device with programs",
        ),
    };
    let name = format!("{NETPATH}-{file}");
    let mut agent = Agent::start(site, &name)?;
    let container = site.namespace(&format!("{name}.c1"))?;
    let network = CreateNetwork {
        name: "lan".into(),
        driver: Some("underlay".into()),
        subnets: vec!["192.0.2.0/24".into()],
        options: [("parent", UPLINK), ("mode", mode)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..CreateNetwork::default()
    };
    let _: Network = agent.client.post("/v1/networks", &network)?;
    let attach = Attach {
        connect: Connect {
            name: Some("c1".into()),
            networks: vec![Join {
                network: "lan".into(),
                ip: Some(CONTAINER.into()),
                ..Join::default()
            }],
            ..Connect::default()
        },
        netns: Some(container.path().to_owned()),
        ..Attach::default()
    };
    let _: Container = agent.client.post("/v1/attach", &attach)?;
    let host = Host {
        host: agent.host.clone(),
        outside: agent.outside.clone(),
    };
    let mut variant = variant(shown, what, &container, &host);
    variant.services.extend(agent.take_service());
    Ok(variant)
}

/// A bridge with the card in it, and the host's address moved to it.
pub fn bridge(site: &Site) -> Result<Variant> {
    let name = BRIDGE;
    let host = Host::new(site, name)?;
    let container = site.namespace(&format!("{name}.c1"))?;
    let inside = container.path().display();
    host.host.ip(&format!(
        "link add br0 type bridge forward_delay 0
         addr flush dev {UPLINK}
         link set {UPLINK} master br0
         link set br0 up
         addr add 192.0.2.1/24 dev br0
         link add veth1 type veth peer name eth0 netns {inside}
         link set veth1 master br0 up"
    ))?;
    up(&container)?;
    let what = "a Linux bridge that the card is a port of; no firewall";
    Ok(variant(name, what, &container, &host))
}

/// A process of a host, on the card itself: the limit.
pub fn process(site: &Site) -> Result<Variant> {
    let host = Host::new(site, "host-process-wire")?;
    let what = "a process of the host itself: the limit";
    Ok(variant(HOST_PROCESS, what, &host.host, &host))
}

/// The kernel's macvlan, in mode bridge.
pub fn macvlan(site: &Site) -> Result<Variant> {
    let name = MACVLAN;
    let host = Host::new(site, name)?;
    let container = site.namespace(&format!("{name}.c1"))?;
    let inside = container.path().display();
    host.host.ip(&format!(
        "link add link {UPLINK} name eth0 netns {inside} type macvlan mode bridge"
    ))?;
    up(&container)?;
    let what = "the kernel's macvlan on the card, in mode bridge";
    Ok(variant(name, what, &container, &host))
}

fn up(container: &Namespace) -> Result<()> {
    container.ip("addr add 192.0.2.10/24 dev eth0
         link set eth0 up")?;
    Ok(())
}
