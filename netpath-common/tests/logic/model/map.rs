//! Hash maps in the place of BPF maps, and a frame's bytes in the place of a packet's.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;

use netpath_common::env::{InsertError, Table};
use netpath_common::packet::{Frame, Wire};
use netpath_common::reason::DropReason;

/// A hash map with a limit. Calling into the same map from within `with` panics.
pub struct Map<K, V> {
    entries: RefCell<HashMap<K, V>>,
    limit: Cell<usize>,
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self {
            entries: RefCell::default(),
            limit: Cell::new(usize::MAX),
        }
    }
}

impl<K: Eq + Hash + Copy, V: Copy> Map<K, V> {
    /// Lets it hold no more than `limit` entries.
    pub fn limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    pub fn entries(&self) -> Vec<(K, V)> {
        self.entries
            .borrow()
            .iter()
            .map(|(k, v)| (*k, *v))
            .collect()
    }

    pub fn put(&self, key: K, value: V) {
        self.entries.borrow_mut().insert(key, value);
    }
}

impl<K: Eq + Hash + Copy, V: Copy> Table<K, V> for Map<K, V> {
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        self.entries.borrow_mut().get_mut(key).map(f)
    }

    fn insert_new(&self, key: &K, value: &V) -> Result<(), InsertError> {
        if self.contains(key) {
            Err(InsertError::Exists)
        } else {
            self.replace(key, value)
        }
    }

    fn replace(&self, key: &K, value: &V) -> Result<(), InsertError> {
        if !self.contains(key) && self.len() >= self.limit.get() {
            return Err(InsertError::Full);
        }
        self.put(*key, *value);
        Ok(())
    }

    fn remove(&self, key: &K) {
        self.entries.borrow_mut().remove(key);
    }
}

/// A frame's bytes.
pub struct Bytes<'a>(pub &'a [u8]);

impl Frame for Bytes<'_> {
    fn load<T: Wire>(&self, offset: usize) -> Result<T, DropReason> {
        let bytes = self
            .0
            .get(offset..offset + size_of::<T>())
            .ok_or(DropReason::Malformed)?;
        // SAFETY: as many bytes as `T` has, and any bytes are a valid `T`.
        Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn len(&self) -> u32 {
        self.0.len() as u32
    }
}
