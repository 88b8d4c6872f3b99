//! What the agent remembers: networks, containers, leases, denied sources.
//!
//! A [redb](https://docs.rs/redb) file. The store must be embedded (an agent that needs a
//! database server to give a host its networks would be upside down), transactional (an
//! endpoint and its leases appear together or not at all) and survive a power cut at any
//! moment. redb is all of it in plain Rust, one file, without a C library to link; SQLite
//! would bring one, and a folder of JSON files has no transactions over several of them.
//!
//! Records are JSON inside, so that an older file can be read by a newer agent as long as
//! fields are only added; anything else raises [`SCHEMA`].

mod cluster;
mod file;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use ipnet::IpNet;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use records::{
    Command, ContainerRecord, DockerNetwork, Driver, EndpointRecord, FlannelRecord, Mode,
    NetworkRecord, Origin, OverlayRecord, ProcessId, State,
};

use crate::container::names;
use crate::docker::adopt::Adoption;
use crate::physical::record::CardRecord;
use crate::problem::{conflict, not_found};

/// Version of the file's layout.
pub const SCHEMA: u64 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const NETWORKS: TableDefinition<&str, &[u8]> = TableDefinition::new("networks");
const CONTAINERS: TableDefinition<&str, &[u8]> = TableDefinition::new("containers");
/// Ids of what is there without a record: `network host`, `network none`.
const IDS: TableDefinition<&str, &str> = TableDefinition::new("ids");
/// Denied prefix → seconds since 1970 when it was.
const DENIED: TableDefinition<&str, u64> = TableDefinition::new("denied");
/// Owner and interface → an interface that was added to somebody.
const CARDS: TableDefinition<&str, &[u8]> = TableDefinition::new("cards");
/// Whose networks are adopted → what is adopted.
const ADOPTED: TableDefinition<&str, &[u8]> = TableDefinition::new("adopted");
/// (network id, address) → container; 4 or 16 bytes of address in network order.
const LEASES: TableDefinition<(u16, &[u8]), &str> = TableDefinition::new("leases");

/// The one whose networks can be adopted.
const DOCKER: &str = "docker";

/// The agent's store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` if it could not be opened again after a write had failed.
    database: RwLock<Option<Database>>,
    /// A write has failed: redb refuses all others until the file is opened anew.
    failed: AtomicBool,
    /// The containers as they are in the file, once somebody has asked for them: almost every
    /// operation looks at all of them. `None`: to be read anew.
    containers: RwLock<Option<Containers>>,
}

type Containers = BTreeMap<String, Arc<ContainerRecord>>;

impl Store {
    /// The store's file in a state folder.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("state.redb")
    }

    /// Opens the store of a state folder, which is made if missing.
    ///
    /// # Errors
    /// The file cannot be opened, is no store or a damaged one, or was written by a newer version.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let path = Self::path(state_dir);
        let database = file::open(&path)?;
        Ok(Self {
            path,
            database: RwLock::new(Some(database)),
            failed: AtomicBool::new(false),
            containers: RwLock::new(None),
        })
    }

    /// After a full disk or the like: the file as it was before the write that failed.
    fn open_again(&self) -> Result<()> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if self.failed.load(Ordering::Relaxed) || database.is_none() {
            // The file is locked as long as it is open.
            *database = None;
            *database = Some(file::open(&self.path)?);
            self.failed.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Calls `action` with the open database.
    fn with_database<T>(&self, action: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        action(database.as_ref().context("the store is not open")?)
    }

    /// A number that was never returned before.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn next_id(&self, counter: &str) -> Result<u64> {
        self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let id = meta.get(counter)?.map_or(0, |value| value.value()) + 1;
            meta.insert(counter, id)?;
            Ok(id)
        })
    }

    /// The number of this name: the one that was noted when it was first asked for.
    ///
    /// # Errors
    /// The store cannot be written, or `first` fails.
    pub fn constant(&self, name: &str, first: impl FnOnce() -> Result<u64>) -> Result<u64> {
        self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            if let Some(known) = meta.get(name)?.map(|value| value.value()) {
                return Ok(known);
            }
            let value = first()?;
            meta.insert(name, value)?;
            Ok(value)
        })
    }

    /// The number of this name, if one was noted.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn noted(&self, name: &str) -> Result<Option<u64>> {
        self.read(|transaction| {
            let meta = transaction.open_table(META)?;
            Ok(meta.get(name)?.map(|value| value.value()))
        })
    }

    /// All networks, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn networks(&self) -> Result<Vec<NetworkRecord>> {
        self.all(NETWORKS)
    }

    /// One network.
    ///
    /// # Errors
    /// A [`Problem`](crate::problem::Problem) if there is none of this name.
    pub fn network(&self, name: &str) -> Result<NetworkRecord> {
        self.find(NETWORKS, name)?.ok_or_else(|| {
            not_found(format!(
                "no network is named {name}, see \"netpath network ls\""
            ))
        })
    }

    /// The id of something that has no record, which is made when it is first asked for.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn id_of(&self, what: &str) -> Result<String> {
        let known = self.read(|transaction| {
            let ids = transaction.open_table(IDS)?;
            Ok(ids.get(what)?.map(|id| id.value().to_owned()))
        })?;
        if let Some(id) = known {
            return Ok(id);
        }
        let id = names::uid()?;
        self.write(|transaction| {
            transaction.open_table(IDS)?.insert(what, &*id)?;
            Ok(())
        })?;
        Ok(id)
    }

    /// Inserts or replaces a network.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_network(&self, network: &NetworkRecord) -> Result<()> {
        self.write(|transaction| put(transaction, NETWORKS, &network.name, network))
    }

    /// Removes a network, if there.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove_network(&self, name: &str) -> Result<()> {
        self.write(|transaction| {
            transaction.open_table(NETWORKS)?.remove(name)?;
            Ok(())
        })
    }

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

    /// All cards, by owner and interface.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn cards(&self) -> Result<Vec<CardRecord>> {
        self.all(CARDS)
    }

    /// One card by its key, if there.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn find_card(&self, key: &str) -> Result<Option<CardRecord>> {
        self.find(CARDS, key)
    }

    /// Inserts or replaces a card.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_card(&self, card: &CardRecord) -> Result<()> {
        self.write(|transaction| put(transaction, CARDS, &card.key(), card))
    }

    /// Removes a card by its key, if there.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove_card(&self, key: &str) -> Result<()> {
        self.write(|transaction| {
            transaction.open_table(CARDS)?.remove(key)?;
            Ok(())
        })
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

    /// The denied prefixes.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn denied(&self) -> Result<Vec<IpNet>> {
        self.read(|transaction| {
            let mut prefixes = Vec::new();
            for entry in transaction.open_table(DENIED)?.iter()? {
                let (prefix, _) = entry?;
                let text = prefix.value();
                let prefix = text.parse();
                prefixes.push(prefix.with_context(|| format!("{text} is no prefix"))?);
            }
            Ok(prefixes)
        })
    }

    /// Notes a denied prefix, with the seconds since 1970.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_denied(&self, prefix: IpNet, since: u64) -> Result<()> {
        self.write(|transaction| {
            let mut table = transaction.open_table(DENIED)?;
            table.insert(&*prefix.to_string(), since)?;
            Ok(())
        })
    }

    /// Forgets a denied prefix; true if it was there.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove_denied(&self, prefix: IpNet) -> Result<bool> {
        self.write(|transaction| {
            let mut table = transaction.open_table(DENIED)?;
            let removed = table.remove(&*prefix.to_string())?;
            Ok(removed.is_some())
        })
    }

    /// What is adopted of Docker.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn adoption(&self) -> Result<Option<Adoption>> {
        self.find(ADOPTED, DOCKER)
    }

    /// Notes what is adopted of Docker.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_adoption(&self, adoption: &Adoption) -> Result<()> {
        self.write(|transaction| put(transaction, ADOPTED, DOCKER, adoption))
    }

    /// Forgets what is adopted of Docker.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove_adoption(&self) -> Result<()> {
        self.write(|transaction| {
            transaction.open_table(ADOPTED)?.remove(DOCKER)?;
            Ok(())
        })
    }

    fn all<T: DeserializeOwned>(&self, table: TableDefinition<&str, &[u8]>) -> Result<Vec<T>> {
        self.read(|transaction| {
            let table = transaction.open_table(table)?;
            let mut records = Vec::new();
            for entry in table.iter()? {
                let (name, value) = entry?;
                records.push(decode(name.value(), value.value())?);
            }
            Ok(records)
        })
    }

    fn find<T: DeserializeOwned>(
        &self,
        table: TableDefinition<&str, &[u8]>,
        name: &str,
    ) -> Result<Option<T>> {
        self.read(|transaction| {
            let table = transaction.open_table(table)?;
            table
                .get(name)?
                .map(|value| decode(name, value.value()))
                .transpose()
        })
    }

    fn read<T>(&self, action: impl FnOnce(&redb::ReadTransaction) -> Result<T>) -> Result<T> {
        let failed = "cannot read the store";
        if self.is_closed() {
            self.open_again().context(failed)?;
        }
        self.with_database(|database| action(&database.begin_read()?))
            .context(failed)
    }

    fn is_closed(&self) -> bool {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.is_none()
    }

    /// One transaction: all of `action`, or, if it fails, nothing.
    fn write<T>(&self, action: impl FnOnce(&redb::WriteTransaction) -> Result<T>) -> Result<T> {
        let failed = "cannot write the store";
        if self.failed.load(Ordering::Relaxed) || self.is_closed() {
            self.open_again().context(failed)?;
        }
        let written = self.with_database(|database| {
            let transaction = database.begin_write()?;
            let value = action(&transaction)?;
            transaction.commit()?;
            Ok(value)
        });
        match written {
            // A user's mistake stays the user's sentence.
            Err(error) if crate::problem::kind_of(&error).is_some() => Err(error),
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                Err(error.context(failed))
            }
            Ok(value) => Ok(value),
        }
    }
}

fn put<T: Serialize>(
    transaction: &redb::WriteTransaction,
    table: TableDefinition<&str, &[u8]>,
    name: &str,
    record: &T,
) -> Result<()> {
    let value = serde_json::to_vec(record)?;
    transaction
        .open_table(table)?
        .insert(name, value.as_slice())?;
    Ok(())
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

fn decode<T: DeserializeOwned>(name: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).with_context(|| format!("the record of {name} is damaged"))
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

    #[test]
    fn ids_are_never_reused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.next_id("endpoint").unwrap(), 1);
        assert_eq!(store.next_id("endpoint").unwrap(), 2);
        assert_eq!(store.next_id("network").unwrap(), 1);
        drop(store);
        assert_eq!(
            Store::open(folder.path())
                .unwrap()
                .next_id("endpoint")
                .unwrap(),
            3
        );
    }

    #[test]
    fn a_newer_store_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store
            .write(|transaction| {
                transaction.open_table(META)?.insert("schema", 9)?;
                Ok(())
            })
            .unwrap();
        drop(store);
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("newer netpath (layout 9"), "{error}");
    }
}
