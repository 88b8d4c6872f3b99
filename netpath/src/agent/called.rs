//! What users call containers and networks: by a name, an id, or the beginning of an id.

use anyhow::Result;

use super::Agent;
use crate::container::names::could_be_id;
use crate::problem::{invalid, not_found};
use crate::store::ContainerRecord;

impl Agent {
    /// The container that a user's word means.
    ///
    /// # Errors
    /// It means none, or several.
    pub(super) fn called(&self, word: &str) -> Result<ContainerRecord> {
        match self.find_called(word)? {
            Some(record) => Ok(record),
            // For its sentence.
            None => self.store.container(word),
        }
    }

    /// The container that a user's word means, if it means any.
    ///
    /// # Errors
    /// It means several, or the store cannot be read.
    pub(super) fn find_called(&self, word: &str) -> Result<Option<ContainerRecord>> {
        // The usual word is a name, and no name is as long as an id.
        if let Some(record) = self.store.find_container(word)? {
            return Ok(Some(record));
        }
        if !could_be_id(word) {
            return Ok(None);
        }
        let known: Vec<(String, String)> = self
            .store
            .containers()?
            .iter()
            .map(|record| (record.name.clone(), record.uid.clone()))
            .collect();
        match pick("container", word, &known)? {
            Some(name) => self.store.find_container(name),
            None => Ok(None),
        }
    }
}

/// The name of the network that a word means among names and ids.
///
/// # Errors
/// It means none, or several.
pub(super) fn pick_network(word: &str, known: &[(String, String)]) -> Result<String> {
    let name = pick("network", word, known)?.ok_or_else(|| {
        not_found(format!(
            "no network is named {word}, see \"netpath network ls\""
        ))
    })?;
    Ok(name.to_owned())
}

/// The name that a word means among names and ids, if it means any: a whole id goes before a name,
/// and a name before the beginning of an id, as with Docker.
fn pick<'a>(what: &str, word: &str, known: &'a [(String, String)]) -> Result<Option<&'a str>> {
    let by_id = known.iter().find(|(_, id)| id == word);
    let exact = by_id.or_else(|| known.iter().find(|(name, _)| name == word));
    if let Some((name, _)) = exact {
        return Ok(Some(name));
    }
    let begins = |(_, id): &&(String, String)| !word.is_empty() && id.starts_with(word);
    let mut found = known.iter().filter(begins);
    match (found.next(), found.count()) {
        (Some((name, _)), 0) => Ok(Some(name)),
        (Some(_), more) => Err(invalid(format!(
            "{what} {word} is ambiguous: {} ids begin so, write more of the id, or the name",
            more + 1
        ))),
        (None, _) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_found_by_id_name_and_beginning() {
        let known = [
            ("bridge", "aabb01"),
            ("aa", "aacc02"),
            ("aacc02", "bbdd03"),
            ("web", "cc0004"),
        ]
        .map(|(name, id)| (name.to_owned(), id.to_owned()));
        for (word, name) in [
            ("aabb01", "bridge"),
            ("aa", "aa"),
            // An id goes before a name.
            ("aacc02", "aa"),
            ("bb", "aacc02"),
            ("cc0", "web"),
            ("aab", "bridge"),
        ] {
            assert_eq!(pick_network(word, &known).unwrap(), name, "{word}");
        }
        for (word, part) in [
            ("a", "2 ids begin so"),
            ("d", "no network is named d"),
            ("", "no network is named"),
            ("aabb012", "no network"),
        ] {
            let error = pick_network(word, &known).unwrap_err().to_string();
            assert!(error.contains(part), "{word}: {error}");
        }
    }
}
