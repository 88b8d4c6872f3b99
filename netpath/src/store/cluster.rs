//! What the agent remembers of its cluster, for a start without the cluster's store.

use anyhow::{Context, Result};
use redb::{ReadableTable, TableDefinition};

use super::Store;
use crate::cluster::{Identity, Unsaved};
use crate::container::names;

/// Key of the cluster's store → value, as it is there.
pub(super) const CLUSTER: TableDefinition<&str, &[u8]> = TableDefinition::new("cluster");
/// Where this node's identity is: a key that the cluster's store does not have.
const IDENTITY: &str = "identity";

impl Store {
    /// Who this node is; chosen at the first call.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn identity(&self) -> Result<Identity> {
        self.write(|transaction| {
            let mut table = transaction.open_table(CLUSTER)?;
            if let Some(value) = table.get(IDENTITY)? {
                return serde_json::from_slice(value.value())
                    .context("the record of this node's identity is damaged");
            }
            let id: String = names::random::<8>()?
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let identity = Identity { id };
            table.insert(IDENTITY, serde_json::to_vec(&identity)?.as_slice())?;
            Ok(identity)
        })
    }

    /// The copy of the cluster's store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn cluster(&self) -> Result<Vec<(String, Vec<u8>)>> {
        self.read(|transaction| {
            let table = transaction.open_table(CLUSTER)?;
            let mut entries = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                if key.value() != IDENTITY {
                    entries.push((key.value().to_owned(), value.value().to_vec()));
                }
            }
            Ok(entries)
        })
    }

    /// Notes what has changed in the cluster's store.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn save_cluster(&self, unsaved: &Unsaved) -> Result<()> {
        if !unsaved.from_scratch && unsaved.changes.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut table = transaction.open_table(CLUSTER)?;
            if unsaved.from_scratch {
                table.retain(|key, _| key == IDENTITY)?;
            }
            for (key, value) in &unsaved.changes {
                match value {
                    Some(value) => drop(table.insert(key.as_str(), value.as_slice())?),
                    None => drop(table.remove(key.as_str())?),
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_remembers_who_it_is_and_what_it_knew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let identity = store.identity().unwrap();
        let change = |key: &str, value: Option<&str>| {
            (key.to_owned(), value.map(|value| value.as_bytes().to_vec()))
        };
        let mut unsaved = Unsaved {
            from_scratch: false,
            changes: [change("/a", Some("1")), change("/b", Some("2"))].into(),
        };
        store.save_cluster(&unsaved).unwrap();
        unsaved.changes = [change("/a", None), change("/c", Some("3"))].into();
        store.save_cluster(&unsaved).unwrap();
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.identity().unwrap(), identity);
        let keys: Vec<String> = store.cluster().unwrap().into_iter().map(|e| e.0).collect();
        assert_eq!(keys, ["/b", "/c"]);
        unsaved.from_scratch = true;
        store.save_cluster(&unsaved).unwrap();
        assert_eq!(store.cluster().unwrap().len(), 1);
        assert_eq!(store.identity().unwrap(), identity);
    }
}
