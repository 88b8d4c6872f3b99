//! Who asks, and what they may know.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

/// A container on networks whose members have names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// The container's name.
    pub name: String,
    /// Its networks, the most important first.
    pub networks: Vec<Membership>,
    /// Names that it alone has for other containers: (name, container).
    pub links: Vec<(String, String)>,
    /// Where it asks.
    pub place: Place,
    /// Whom to ask what the tables do not say.
    pub forward: Forward,
}

/// A container in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Membership {
    /// Number of the network.
    pub id: u16,
    /// Name of the network.
    pub network: String,
    /// What the container is called there; its own name comes first.
    pub names: Vec<String>,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
}

/// The network namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// A file that names it.
    pub path: PathBuf,
    /// Device and inode number of the namespace, if it is somebody else's: the file may name
    /// another by now, and the server's sockets must not keep it alive.
    pub foreign: Option<(u64, u64)>,
    /// Whether port 53 itself must be listened at, because nobody exchanges ports on the way.
    pub port_53: bool,
}

impl Place {
    /// Whether it is on another host: it has no file here.
    pub fn is_elsewhere(&self) -> bool {
        self.path.as_os_str().is_empty()
    }
}

/// Whom to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Forward {
    /// Servers that were named for the container, asked from its own namespace; without any,
    /// those of the host are asked, from the host's.
    pub servers: Vec<IpAddr>,
    /// The host's servers are not to be asked: all networks are internal.
    pub internal: bool,
    /// Names of one label are not to be asked for (`ndots` was set, so they are meant to be
    /// completed).
    pub dotted_only: bool,
}

/// All that the server knows.
#[derive(Debug, Default)]
pub struct World {
    clients: HashMap<String, Arc<Client>>,
    networks: HashMap<u16, Network>,
}

/// The names of a network.
#[derive(Debug, Default)]
struct Network {
    name: String,
    names: HashMap<String, Addresses>,
    /// The container that has an address.
    owners: HashMap<IpAddr, String>,
}

/// The addresses of a name.
#[derive(Debug, Default)]
struct Addresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    /// How often each family was asked for: each answer begins with another address.
    turns: [AtomicUsize; 2],
}

/// What a name means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// IPv4 addresses, in the order of this answer.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6 addresses, in the order of this answer.
    pub v6: Vec<Ipv6Addr>,
}

/// Which addresses are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl World {
    /// A client.
    pub fn client(&self, name: &str) -> Option<&Arc<Client>> {
        self.clients.get(name)
    }

    /// All clients.
    pub fn clients(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.clients.values()
    }

    /// Inserts or replaces clients and removes others.
    pub fn change(&mut self, put: Vec<Client>, remove: &[String]) {
        for name in remove {
            self.remove(name);
        }
        for client in put {
            self.remove(&client.name);
            for membership in &client.networks {
                let network = self.networks.entry(membership.id).or_default();
                network.add(&client, membership);
            }
            self.clients.insert(client.name.clone(), Arc::new(client));
        }
    }

    fn remove(&mut self, name: &str) {
        let Some(client) = self.clients.remove(name) else {
            return;
        };
        for membership in &client.networks {
            if let Some(network) = self.networks.get_mut(&membership.id) {
                network.remove(membership);
                if network.names.is_empty() {
                    self.networks.remove(&membership.id);
                }
            }
        }
    }

    /// What `name` (lower case, without the last dot) means to a client; `None` if it means
    /// nothing here. A known name may have no address of the wanted family.
    pub fn find(&self, client: &Client, name: &str, wanted: Families) -> Option<Found> {
        let mut all = None;
        let link = client.links.iter().find(|(alias, _)| alias == name);
        if let Some((_, target)) = link
            && let Some(target) = self.clients.get(target)
        {
            let shared = |id| client.networks.iter().any(|own| own.id == id);
            for membership in target.networks.iter().filter(|other| shared(other.id)) {
                let found: &mut Found = all.get_or_insert_default();
                found.add(membership.addresses.iter().copied(), wanted);
            }
        }
        for membership in &client.networks {
            let Some(network) = self.networks.get(&membership.id) else {
                continue;
            };
            if let Some(addresses) = network.find(name) {
                let found: &mut Found = all.get_or_insert_default();
                // The first network that has a family decides: others may have other
                // containers of this alias.
                if wanted.v4 && found.v4.is_empty() {
                    found.v4 = addresses.turned(&addresses.v4, 0);
                }
                if wanted.v6 && found.v6.is_empty() {
                    found.v6 = addresses.turned(&addresses.v6, 1);
                }
            }
        }
        all
    }

    /// The name of the container in a network of the client's that has this address.
    pub fn owner(&self, client: &Client, address: IpAddr) -> Option<String> {
        client.networks.iter().find_map(|membership| {
            let network = self.networks.get(&membership.id)?;
            let owner = network.owners.get(&address)?;
            Some(format!("{owner}.{}", network.name))
        })
    }
}

impl Network {
    fn add(&mut self, client: &Client, membership: &Membership) {
        self.name = membership.network.to_ascii_lowercase();
        for name in membership.distinct_names() {
            let entry = self.names.entry(name).or_default();
            for address in &membership.addresses {
                match address {
                    IpAddr::V4(v4) => entry.v4.push(*v4),
                    IpAddr::V6(v6) => entry.v6.push(*v6),
                }
            }
        }
        let owner = membership.names.first().unwrap_or(&client.name);
        for address in &membership.addresses {
            self.owners.insert(*address, owner.clone());
        }
    }

    fn remove(&mut self, membership: &Membership) {
        for name in membership.distinct_names() {
            let Some(entry) = self.names.get_mut(&name) else {
                continue;
            };
            let gone = |ip: IpAddr| membership.addresses.contains(&ip);
            entry.v4.retain(|v4| !gone(IpAddr::V4(*v4)));
            entry.v6.retain(|v6| !gone(IpAddr::V6(*v6)));
            if entry.v4.is_empty() && entry.v6.is_empty() {
                self.names.remove(&name);
            }
        }
        for address in &membership.addresses {
            self.owners.remove(address);
        }
    }

    /// A name, or one with the network's behind it.
    fn find(&self, name: &str) -> Option<&Addresses> {
        self.names.get(name).or_else(|| {
            let name = name.strip_suffix(&*self.name)?.strip_suffix('.')?;
            self.names.get(name)
        })
    }
}

impl Membership {
    /// The names in lower case. An alias that is also the name counts once.
    fn distinct_names(&self) -> BTreeSet<String> {
        let names = self.names.iter();
        names.map(|name| name.to_ascii_lowercase()).collect()
    }
}

impl Addresses {
    /// The addresses, beginning with another one each time.
    fn turned<T: Copy>(&self, addresses: &[T], family: usize) -> Vec<T> {
        let mut addresses = addresses.to_vec();
        if addresses.len() > 1 {
            let turn = self.turns[family].fetch_add(1, Ordering::Relaxed);
            let first = turn % addresses.len();
            addresses.rotate_left(first);
        }
        addresses
    }
}

impl Found {
    fn add(&mut self, addresses: impl Iterator<Item = IpAddr>, wanted: Families) {
        for address in addresses {
            match address {
                IpAddr::V4(v4) if wanted.v4 => self.v4.push(v4),
                IpAddr::V6(v6) if wanted.v6 => self.v6.push(v6),
                _ => {}
            }
        }
    }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` (lower case, without the last dot)
/// stands for.
pub fn address_of_pointer(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut labels = labels.split('.');
        for octet in octets.iter_mut().rev() {
            let label = labels.next()?;
            // parse would take "+1" and "01".
            let plain = label.bytes().all(|byte| byte.is_ascii_digit())
                && (label == "0" || !label.starts_with('0'));
            *octet = plain.then(|| label.parse().ok())??;
        }
        return labels.next().is_none().then(|| IpAddr::from(octets));
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let mut value = 0u128;
    let mut count = 0;
    for (place, label) in labels.split('.').enumerate() {
        let &[digit] = label.as_bytes() else {
            return None;
        };
        let nibble = char::from(digit).to_digit(16)?;
        if place >= 32 {
            return None;
        }
        value |= u128::from(nibble) << (4 * place);
        count = place + 1;
    }
    (count == 32).then(|| IpAddr::V6(value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Families = Families { v4: true, v6: true };

    fn membership(id: u16, names: &[&str], addresses: &[&str]) -> Membership {
        Membership {
            id,
            network: format!("net{id}"),
            names: names.iter().map(ToString::to_string).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        }
    }

    fn client(name: &str, networks: Vec<Membership>) -> Client {
        Client {
            name: name.into(),
            networks,
            ..Client::default()
        }
    }

    fn find(world: &World, who: &str, name: &str) -> Option<Vec<String>> {
        let client = world.client(who).unwrap();
        let found = world.find(client, name, BOTH)?;
        let v4 = found.v4.iter().map(ToString::to_string);
        Some(v4.chain(found.v6.iter().map(ToString::to_string)).collect())
    }

    /// Three networks in a chain, as a (1), b (1, 2), c (2, 3), d (3).
    fn chain() -> World {
        let mut world = World::default();
        world.change(
            vec![
                client("a", vec![membership(1, &["a"], &["10.1.0.2"])]),
                client(
                    "b",
                    vec![
                        membership(1, &["b", "web"], &["10.1.0.3", "fd01::3"]),
                        membership(2, &["b"], &["10.2.0.3"]),
                    ],
                ),
                client(
                    "c",
                    vec![
                        membership(2, &["c"], &["10.2.0.4"]),
                        membership(3, &["C", "web"], &["10.3.0.4"]),
                    ],
                ),
                client("d", vec![membership(3, &["d"], &["10.3.0.5"])]),
            ],
            &[],
        );
        world
    }

    #[test]
    fn names_are_known_on_shared_networks_only() {
        let world = chain();
        assert_eq!(find(&world, "a", "b").unwrap(), ["10.1.0.3", "fd01::3"]);
        assert_eq!(find(&world, "c", "b").unwrap(), ["10.2.0.3"]);
        assert_eq!(find(&world, "d", "b"), None);
        assert_eq!(find(&world, "d", "c").unwrap(), ["10.3.0.4"]);
        assert_eq!(find(&world, "a", "c"), None);
        // Aliases belong to a network.
        assert_eq!(find(&world, "a", "web").unwrap(), ["10.1.0.3", "fd01::3"]);
        assert_eq!(find(&world, "d", "web").unwrap(), ["10.3.0.4"]);
    }

    #[test]
    fn names_may_have_their_networks_behind_them() {
        let world = chain();
        assert_eq!(find(&world, "b", "c.net2").unwrap(), ["10.2.0.4"]);
        assert_eq!(find(&world, "b", "a.net1").unwrap(), ["10.1.0.2"]);
        assert_eq!(find(&world, "b", "c.net3"), None);
        assert_eq!(find(&world, "b", "cnet2"), None);
        assert_eq!(find(&world, "b", "net2"), None);
    }

    #[test]
    fn a_known_name_without_the_family_is_known() {
        let world = chain();
        let a = world.client("a").unwrap();
        let only = |v4| Families { v4, v6: !v4 };
        assert_eq!(world.find(a, "a", only(false)), Some(Found::default()));
        assert_eq!(world.find(a, "b", only(false)).unwrap().v6.len(), 1);
        assert_eq!(world.find(a, "nobody", only(true)), None);
    }

    #[test]
    fn shared_aliases_take_turns_and_gone_ones_are_gone() {
        let mut world = World::default();
        let member = |n: u8| {
            let (name, address) = (format!("c{n}"), format!("10.1.0.{n}"));
            client(
                &name,
                vec![membership(1, &[&name, "all"], &[address.as_str()])],
            )
        };
        world.change((1..=3).map(member).collect(), &[]);
        let mut firsts = BTreeSet::new();
        for _ in 0..3 {
            let all = find(&world, "c1", "all").unwrap();
            assert_eq!(all.len(), 3);
            firsts.insert(all[0].clone());
        }
        assert_eq!(firsts.len(), 3);
        world.change(Vec::new(), &["c2".into()]);
        let all = find(&world, "c1", "all").unwrap();
        assert!(all.len() == 2 && !all.contains(&"10.1.0.2".into()));
        world.change(Vec::new(), &["c1".into(), "c3".into()]);
        assert!(world.networks.is_empty());
    }

    #[test]
    fn links_are_ones_own() {
        let mut world = chain();
        let mut a = (**world.client("a").unwrap()).clone();
        a.links = vec![("db".into(), "b".into()), ("far".into(), "d".into())];
        world.change(vec![a], &[]);
        assert_eq!(find(&world, "a", "db").unwrap(), ["10.1.0.3", "fd01::3"]);
        assert_eq!(find(&world, "b", "db"), None);
        // No network is shared.
        assert_eq!(find(&world, "a", "far"), None);
    }

    #[test]
    fn pointers() {
        let world = chain();
        let owner = |who: &str, pointer: &str| {
            let address = address_of_pointer(pointer)?;
            world.owner(world.client(who).unwrap(), address)
        };
        assert_eq!(
            owner("a", "3.0.1.10.in-addr.arpa").as_deref(),
            Some("b.net1")
        );
        assert_eq!(owner("d", "3.0.1.10.in-addr.arpa"), None);
        let nibbles = format!("3.{}1.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(owner("a", &nibbles).as_deref(), Some("b.net1"));
        for odd in [
            "1.10.in-addr.arpa",
            "1.2.3.4.5.in-addr.arpa",
            "256.0.0.1.in-addr.arpa",
            "+3.0.1.10.in-addr.arpa",
            "03.0.1.10.in-addr.arpa",
            "in-addr.arpa",
            "ip6.arpa",
            "0.ip6.arpa",
            "example.org",
        ] {
            assert_eq!(address_of_pointer(odd), None, "{odd}");
        }
        let long = format!("{}ip6.arpa", "0.".repeat(33));
        assert_eq!(address_of_pointer(&long), None);
    }
}
