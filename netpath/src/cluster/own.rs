//! What this node has in the store, and what it should have there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::schema::Endpoint;
use super::state::State;

/// A place in an overlay: network and address.
pub type Place = (String, IpAddr);

/// This node's endpoints.
#[derive(Clone, Debug, Default)]
pub struct Own {
    endpoints: BTreeMap<Place, Endpoint>,
    /// Asked for in the store, for a container that is being made: neither to be written nor to
    /// be deleted.
    asked: BTreeSet<Place>,
    /// Counts changes.
    version: u64,
}

/// What is to be done for the store to say the same as [`Own`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// To be written.
    pub write: Vec<(Place, Endpoint)>,
    /// To be deleted, if its last change is still this one.
    pub delete: Vec<(Place, i64)>,
}

impl Difference {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.delete.is_empty()
    }
}

impl Own {
    /// How often it was changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// These are all endpoints. What was asked for and is not among them is not wanted any more.
    pub fn set(&mut self, endpoints: BTreeMap<Place, Endpoint>) {
        if self.endpoints != endpoints || !self.asked.is_empty() {
            self.version += 1;
        }
        self.asked.clear();
        self.endpoints = endpoints;
    }

    /// Addresses of a network are about to be asked for; they are this node's until
    /// [`Self::set`] says more.
    pub fn ask(&mut self, places: &[Place]) {
        self.asked.extend(places.iter().cloned());
    }

    /// They were refused.
    pub fn give_up(&mut self, places: &[Place]) {
        for place in places {
            self.asked.remove(place);
        }
    }

    /// The addresses of a network that nobody can have: those in the store and this node's.
    pub fn taken(&self, state: &State, network: &str) -> BTreeSet<IpAddr> {
        let own = self.endpoints.keys().chain(&self.asked);
        own.filter(|(name, _)| name == network)
            .map(|(_, address)| *address)
            .chain(state.endpoints(network).map(|(address, _)| address))
            .collect()
    }

    /// What is to be done: every endpoint is to be in the store, as `node`'s, with `lease`, and
    /// no other one of `node`'s.
    pub fn difference(&self, state: &State, node: &str, lease: i64) -> Difference {
        let write = self
            .endpoints
            .iter()
            .filter(|((network, address), endpoint)| {
                state.endpoint(network, *address).is_none_or(|there| {
                    there.doubtful
                        || there.record.node == node
                            && (there.lease != lease || there.record != **endpoint)
                })
            });
        let delete = state
            .all_endpoints()
            .filter_map(|(network, address, there)| {
                let place = (network.to_owned(), address);
                let is_left = there.record.node == node
                    && !there.doubtful
                    && !self.endpoints.contains_key(&place)
                    && !self.asked.contains(&place);
                is_left.then_some((place, there.revision))
            });
        Difference {
            write: write.map(|(p, e)| (p.clone(), e.clone())).collect(),
            delete: delete.collect(),
        }
    }

    /// Own endpoints whose address is somebody else's by now, with that node: this node was
    /// dead for the others for too long.
    pub fn lost(&self, state: &State, node: &str) -> Vec<(Place, String)> {
        let lost = self.endpoints.keys().filter_map(|(network, address)| {
            let there = state.endpoint(network, *address)?;
            let other = &there.record.node;
            (other != node && !there.doubtful).then(|| ((network.clone(), *address), other.clone()))
        });
        lost.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::schema::{Key, encode};
    use crate::cluster::state::Change;

    const LEASE: i64 = 5;

    fn place(last: u8) -> Place {
        ("blue".into(), IpAddr::from([10, 0, 1, last]))
    }

    fn endpoint(node: &str) -> Endpoint {
        Endpoint {
            node: node.into(),
            container: "c".into(),
            mac: None,
            aliases: vec![],
        }
    }

    fn written(place: &Place, endpoint: &Endpoint, revision: i64, lease: i64) -> Change {
        let (network, address) = place.clone();
        Change {
            key: Key::Endpoint { network, address }.to_string(),
            value: Some(encode(endpoint).unwrap()),
            revision,
            lease,
        }
    }

    #[test]
    fn the_store_is_made_to_agree() {
        let mut state = State::default();
        let all = vec![
            written(&place(2), &endpoint("me"), 3, LEASE),
            written(&place(3), &endpoint("me"), 4, LEASE - 1),
            written(&place(4), &endpoint("other"), 5, 1),
            written(&place(5), &endpoint("me"), 6, LEASE),
            written(&place(6), &endpoint("me"), 7, LEASE),
        ];
        state.replace(all, 7, 0, 0);
        let mut own = Own::default();
        own.set(
            [2, 3, 4, 7]
                .map(|last| (place(last), endpoint("me")))
                .into(),
        );
        own.ask(&[place(6), place(8)]);
        let todo = own.difference(&state, "me", LEASE);
        let write: Vec<Place> = todo.write.into_iter().map(|(place, _)| place).collect();
        // 3 has the lease of an earlier life, 7 is not there at all; 4 is another's.
        assert_eq!(write, [place(3), place(7)]);
        assert_eq!(todo.delete, [(place(5), 6)]);
        assert_eq!(own.lost(&state, "me"), [(place(4), "other".to_owned())]);
        assert_eq!(own.taken(&state, "blue").len(), 7);
        // The container that 6 was for is not to be.
        own.set(own.endpoints.clone());
        assert_eq!(own.difference(&state, "me", LEASE).delete.len(), 2);
    }

    proptest! {
        /// After what is to be done was done there is nothing to do.
        #[test]
        fn it_converges(
            mine in proptest::collection::btree_set(0u8..20, 0..12),
            there in proptest::collection::btree_map(0u8..20, (any::<bool>(), 4i64..6), 0..12),
        ) {
            let mut own = Own::default();
            own.set(mine.into_iter().map(|last| (place(last), endpoint("me"))).collect());
            let mut state = State::default();
            let all = there.into_iter().map(|(last, (is_mine, lease))| {
                written(&place(last), &endpoint(if is_mine { "me" } else { "b" }), 3, lease)
            });
            state.replace(all.collect(), 3, 0, 0);
            let todo = own.difference(&state, "me", LEASE);
            let mut changes: Vec<Change> = todo
                .write
                .iter()
                .map(|(place, endpoint)| written(place, endpoint, 4, LEASE))
                .collect();
            changes.extend(todo.delete.iter().map(|(place, _)| Change {
                value: None,
                ..written(place, &endpoint("me"), 4, LEASE)
            }));
            state.apply(changes, 1);
            prop_assert!(own.difference(&state, "me", LEASE).is_empty());
        }
    }
}
