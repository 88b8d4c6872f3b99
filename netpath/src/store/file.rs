//! The store's file: made as a whole, checked before it is used.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use redb::{Database, DatabaseError, ReadableTable, StorageError};

use super::cluster::CLUSTER;
use super::containers::{CONTAINERS, LEASES};
use super::{ADOPTED, CARDS, DENIED, IDS, META, NETWORKS, SCHEMA};
use crate::problem::conflict;

/// Opens the file, which is made if missing, and checks all of it.
///
/// # Errors
/// A sentence: it is no store, is damaged, cannot be written, or was made by a newer version.
pub(super) fn open(path: &Path) -> Result<Database> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => create(path)?,
        Err(error) => return Err(error).with_context(|| cannot_open(path)),
        Ok(found) if !found.is_file() => {
            return Err(conflict(format!(
                "the store {} is no file, move it away to begin anew",
                path.display()
            )));
        }
        // A store is made whole, so this was one, or never will be.
        Ok(found) if found.len() == 0 => return Err(damaged(path, "it is empty")),
        Ok(_) => {}
    }
    let database = read(path)?;
    prepare(path, &database)?;
    Ok(database)
}

/// Makes a store under another name first: whatever the power goes off at, there is a whole store
/// or none.
fn create(path: &Path) -> Result<()> {
    let failed = || format!("cannot make the store {}", path.display());
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(failed);
        }
        _ => {}
    }
    let database = Database::create(&new).with_context(failed)?;
    prepare(&new, &database)?;
    drop(database);
    fs::rename(&new, path).with_context(failed)?;
    let folder = path.parent().with_context(failed)?;
    let folder = fs::File::open(folder).with_context(failed)?;
    folder.sync_all().with_context(failed)
}

/// Opens a file that is there, and reads all of it once: a page that is damaged is found now and
/// not by some later request.
fn read(path: &Path) -> Result<Database> {
    // What is random may lead the library astray in ways that it has no error for.
    let opened = quietly(|| {
        let mut database = Database::open(path)?;
        let is_whole = database.check_integrity()?;
        Ok::<_, DatabaseError>((database, is_whole))
    });
    match opened {
        Some(Ok((database, true))) => Ok(database),
        Some(Ok((database, false))) => {
            log::warn!(
                "the store {} was damaged and is repaired, look whether all is there",
                path.display()
            );
            Ok(database)
        }
        Some(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(conflict(format!(
            "the store {} is open in another process, end that first",
            path.display()
        ))),
        Some(Err(DatabaseError::Storage(StorageError::Io(error))))
            if error.kind() != ErrorKind::InvalidData
                && error.kind() != ErrorKind::UnexpectedEof =>
        {
            Err(error).with_context(|| cannot_open(path))
        }
        Some(Err(error)) => Err(damaged(path, &error.to_string())),
        None => Err(damaged(path, "it makes no sense")),
    }
}

/// Checks the layout and makes what tables are missing.
fn prepare(path: &Path, database: &Database) -> Result<()> {
    let failed = || cannot_open(path);
    // What commands were started with may be a secret.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(failed)?;
    let transaction = database.begin_write().with_context(failed)?;
    {
        let mut meta = transaction.open_table(META).with_context(failed)?;
        let schema = meta
            .get("schema")
            .with_context(failed)?
            .map(|value| value.value());
        match schema {
            None => {
                meta.insert("schema", SCHEMA).with_context(failed)?;
            }
            Some(SCHEMA) => {}
            Some(other) => {
                return Err(anyhow!(
                    "the store {} was written by a newer netpath (layout {other}, this one \
                     knows {SCHEMA}): start that version, or move the file away to begin anew",
                    path.display()
                ));
            }
        }
        transaction.open_table(NETWORKS).with_context(failed)?;
        transaction.open_table(CONTAINERS).with_context(failed)?;
        transaction.open_table(LEASES).with_context(failed)?;
        transaction.open_table(DENIED).with_context(failed)?;
        transaction.open_table(CLUSTER).with_context(failed)?;
        transaction.open_table(ADOPTED).with_context(failed)?;
        transaction.open_table(IDS).with_context(failed)?;
        transaction.open_table(CARDS).with_context(failed)?;
    }
    transaction.commit().with_context(failed)
}

fn cannot_open(path: &Path) -> String {
    format!("cannot open the store {}", path.display())
}

fn damaged(path: &Path, how: &str) -> anyhow::Error {
    conflict(format!(
        "the store {} is damaged or none of netpath's ({how}): put a copy of it back, or move it \
         away to begin anew",
        path.display()
    ))
}

/// `None` if it panicked, without anything being printed about it.
fn quietly<T>(action: impl FnOnce() -> T) -> Option<T> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(action));
    panic::set_hook(hook);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_was_begun_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        fs::write(path.with_extension("new"), "half of one").unwrap();
        drop(open(&path).unwrap());
        assert!(!path.with_extension("new").exists());
        drop(open(&path).unwrap());
        fs::write(&path, "").unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("is empty"), "{error}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("is no file"), "{error}");
    }

    /// A damaged page, or a missing end, is found, or nobody needs it; it never leads to a panic, nor to a store that
    /// tells something else.
    #[test]
    fn damaged_pages_are_found_or_do_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(folder.path()).unwrap();
        let prefix = "192.0.2.0/24".parse().unwrap();
        store.put_denied(prefix, 1).unwrap();
        drop(store);
        let path = folder.path().join("state.redb");
        let whole = fs::read(&path).unwrap();
        let pages = whole.len().div_ceil(4096);
        let check = |contents: &[u8], what: &str| {
            fs::write(&path, contents).unwrap();
            if let Ok(store) = crate::store::Store::open(folder.path()) {
                assert_eq!(store.denied().unwrap(), [prefix], "{what}");
            }
        };
        for page in (0..pages).filter(|page| *page < 8 || page % 100 == 0) {
            for at in [0, 24] {
                let mut damaged = whole.clone();
                let bytes = damaged.iter_mut().skip(page * 4096 + at).take(32);
                bytes.for_each(|byte| *byte ^= 0xa5);
                check(&damaged, &format!("page {page} at {at}"));
            }
            check(&whole[..page * 4096 + 77], &format!("cut in page {page}"));
        }
    }

    #[test]
    fn two_cannot_have_it_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let _first = open(&path).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
    }
}
