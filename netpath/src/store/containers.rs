//! Containers and the addresses that they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use anyhow::Result;
use redb::{ReadableTable as _, TableDefinition};

use super::{ContainerRecord, Store, decode, put};
use crate::problem::{conflict, not_found};

pub(super) const CONTAINERS: TableDefinition<&str, &[u8]> = TableDefinition::new("containers");
/// (network id, address) → container; 4 or 16 bytes of address in network order.
pub(super) const LEASES: TableDefinition<(u16, &[u8]), &str> = TableDefinition::new("leases");

/// What the file has, by name.
pub(super) type Containers = BTreeMap<String, Arc<ContainerRecord>>;

impl Store {
    /// All containers, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn containers(&self) -> Result<Vec<Arc<ContainerRecord>>> {
        self.with_containers(|all| all.values().cloned().collect())
    }

    /// One container, if there.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn find_container(&self, name: &str) -> Result<Option<ContainerRecord>> {
        self.with_containers(|all| all.get(name).map(|record| (**record).clone()))
    }

    /// One container.
    ///
    /// # Errors
    /// A [`Problem`](crate::problem::Problem) if there is none of this name.
    pub fn container(&self, name: &str) -> Result<ContainerRecord> {
        self.find_container(name)?.ok_or_else(|| {
            not_found(format!(
                "no container is named {name}, see \"netpath ps -a\""
            ))
        })
    }

    /// Inserts or replaces a container together with the leases of its endpoints.
    ///
    /// # Errors
    /// An address is another container's, or the store cannot be written.
    pub fn put_container(&self, container: &ContainerRecord) -> Result<()> {
        self.change_containers(|all| {
            self.write_container(container)?;
            all.insert(container.name.clone(), Arc::new(container.clone()));
            Ok(())
        })
    }

    fn write_container(&self, container: &ContainerRecord) -> Result<()> {
        self.write(|transaction| {
            give_back(transaction, &container.name)?;
            put(transaction, CONTAINERS, &container.name, container)?;
            let mut leases = transaction.open_table(LEASES)?;
            for endpoint in &container.endpoints {
                for address in endpoint.addresses() {
                    let holder = leases.insert(
                        lease_key(endpoint.network_id, &octets(address)),
                        &*container.name,
                    )?;
                    if let Some(holder) = holder {
                        return Err(conflict(format!(
                            "address {address} belongs to container {}",
                            holder.value()
                        )));
                    }
                }
            }
            Ok(())
        })
    }

    /// Removes a container and its leases, if there.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove_container(&self, name: &str) -> Result<()> {
        self.change_containers(|all| {
            self.write(|transaction| {
                give_back(transaction, name)?;
                transaction.open_table(CONTAINERS)?.remove(name)?;
                Ok(())
            })?;
            all.remove(name);
            Ok(())
        })
    }

    fn read_containers(&self) -> Result<Containers> {
        let records: Vec<ContainerRecord> = self.all(CONTAINERS)?;
        let named = records.into_iter().map(|r| (r.name.clone(), Arc::new(r)));
        Ok(named.collect())
    }

    fn with_containers<T>(&self, look: impl FnOnce(&Containers) -> T) -> Result<T> {
        {
            let known = self.containers.read();
            let known = known.unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = &*known {
                return Ok(look(known));
            }
        }
        let mut known = self
            .containers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let all = match known.take() {
            Some(all) => all,
            None => self.read_containers()?,
        };
        Ok(look(known.insert(all)))
    }

    /// Changes the file and what is known of it; if that fails it is read anew.
    fn change_containers(&self, change: impl FnOnce(&mut Containers) -> Result<()>) -> Result<()> {
        let mut known = self
            .containers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut all = match known.take() {
            Some(all) => all,
            None => self.read_containers()?,
        };
        change(&mut all)?;
        *known = Some(all);
        Ok(())
    }

    /// The addresses of a network that containers hold.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn leases(&self, network: u16) -> Result<BTreeSet<IpAddr>> {
        self.read(|transaction| {
            let leases = transaction.open_table(LEASES)?;
            let mut held = BTreeSet::new();
            for entry in leases.range(lease_key(network, &[])..)? {
                let (key, _) = entry?;
                let (of, octets) = key.value();
                if of != network {
                    break;
                }
                held.extend(address(octets));
            }
            Ok(held)
        })
    }
}

/// Removes the leases of a container, as its record has them. (All leases would have to be read
/// to find them by their holder, and there may be thousands.)
fn give_back(transaction: &redb::WriteTransaction, name: &str) -> Result<()> {
    let containers = transaction.open_table(CONTAINERS)?;
    let Some(value) = containers.get(name)? else {
        return Ok(());
    };
    let record: ContainerRecord = decode(name, value.value())?;
    let mut leases = transaction.open_table(LEASES)?;
    for endpoint in &record.endpoints {
        for address in endpoint.addresses() {
            let octets = octets(address);
            let key = lease_key(endpoint.network_id, &octets);
            let own = leases
                .get(key)?
                .is_some_and(|holder| holder.value() == name);
            if own {
                leases.remove(key)?;
            }
        }
    }
    Ok(())
}

fn lease_key(network: u16, octets: &[u8]) -> (u16, &[u8]) {
    (network, octets)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::store::{EndpointRecord, Origin};

    fn container(name: &str, address: Option<Ipv4Addr>) -> ContainerRecord {
        let endpoint = |address| EndpointRecord {
            network_id: 7,
            addr4: Some(address),
            ..EndpointRecord::default()
        };
        ContainerRecord {
            endpoints: address.into_iter().map(endpoint).collect(),
            ..ContainerRecord::new(name, Origin::Own)
        }
    }

    #[test]
    fn leases_follow_their_container() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let address = Ipv4Addr::new(10, 0, 0, 2);
        store.put_container(&container("a", Some(address))).unwrap();
        assert_eq!(
            store.leases(7).unwrap(),
            BTreeSet::from([IpAddr::V4(address)])
        );
        assert!(store.leases(6).unwrap().is_empty());

        let error = store
            .put_container(&container("b", Some(address)))
            .unwrap_err();
        assert_eq!(error.to_string(), "address 10.0.0.2 belongs to container a");
        assert!(
            store.find_container("b").unwrap().is_none(),
            "nothing of it is left"
        );

        store.put_container(&container("a", None)).unwrap();
        assert!(store.leases(7).unwrap().is_empty());
        store.put_container(&container("b", Some(address))).unwrap();
        store.remove_container("b").unwrap();
        assert!(store.leases(7).unwrap().is_empty());
        assert_eq!(store.containers().unwrap().len(), 1);
        assert!(
            store
                .container("b")
                .unwrap_err()
                .to_string()
                .contains("no container is named b")
        );
    }

    #[test]
    fn a_container_of_several_networks_holds_leases_in_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let address = Ipv4Addr::new(10, 0, 0, 2);
        let mut record = container("a", Some(address));
        record.endpoints.push(EndpointRecord {
            network_id: 8,
            addr4: Some(address),
            ..EndpointRecord::default()
        });
        store.put_container(&record).unwrap();
        let leases = |network| store.leases(network).unwrap().len();
        assert_eq!((leases(7), leases(8)), (1, 1));
        record.endpoints.remove(0);
        store.put_container(&record).unwrap();
        assert_eq!((leases(7), leases(8)), (0, 1));
        record.endpoints[0].network_id = 7;
        store.put_container(&record).unwrap();
        assert_eq!((leases(7), leases(8)), (1, 0));
    }

    proptest! {
        // Each step is a transaction on disk.
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// However containers come, move and go, an address has one holder, and it is
        /// leased exactly as long as its holder has it.
        #[test]
        fn leases_are_what_containers_hold(
            steps in proptest::collection::vec((0u8..6, proptest::option::of(0u8..8)), 1..40),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            let mut model: HashMap<String, Ipv4Addr> = HashMap::new();
            for (which, wanted) in steps {
                let name = format!("c{which}");
                let Some(last) = wanted else {
                    store.remove_container(&name).unwrap();
                    model.remove(&name);
                    continue;
                };
                let address = Ipv4Addr::new(10, 0, 0, last);
                let taken = model.iter().any(|(n, a)| *n != name && *a == address);
                let put = store.put_container(&container(&name, Some(address)));
                prop_assert_eq!(put.is_err(), taken);
                if !taken {
                    model.insert(name, address);
                }
                let held: BTreeSet<IpAddr> = model.values().copied().map(IpAddr::V4).collect();
                prop_assert_eq!(store.leases(7).unwrap(), held);
            }
        }
    }
}
