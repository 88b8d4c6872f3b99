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
mod containers;
mod file;
mod records;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use anyhow::{Context, Result};
use ipnet::IpNet;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use records::{
    Command, ContainerRecord, DockerNetwork, Driver, EndpointRecord, FlannelRecord, Mode,
    NetworkRecord, Origin, OverlayRecord, ProcessId, State,
};

use containers::Containers;

use crate::container::names;
use crate::docker::adopt::Adoption;
use crate::physical::record::CardRecord;
use crate::problem::not_found;

/// Version of the file's layout.
pub const SCHEMA: u64 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const NETWORKS: TableDefinition<&str, &[u8]> = TableDefinition::new("networks");
/// Ids of what is there without a record: `network host`, `network none`.
const IDS: TableDefinition<&str, &str> = TableDefinition::new("ids");
/// Denied prefix → seconds since 1970 when it was.
const DENIED: TableDefinition<&str, u64> = TableDefinition::new("denied");
/// Owner and interface → an interface that was added to somebody.
const CARDS: TableDefinition<&str, &[u8]> = TableDefinition::new("cards");
/// Whose networks are adopted → what is adopted.
const ADOPTED: TableDefinition<&str, &[u8]> = TableDefinition::new("adopted");

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

fn decode<T: DeserializeOwned>(name: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).with_context(|| format!("the record of {name} is damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
