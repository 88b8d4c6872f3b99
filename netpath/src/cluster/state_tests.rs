//! Tests of the copy: whatever order things happen in, it agrees with the store.

use proptest::prelude::*;

use super::*;

const LEASE: u64 = 10;

fn put(key: &str, value: &str, revision: i64) -> Change {
    Change {
        key: format!("{}{key}", schema::PREFIX),
        value: Some(value.as_bytes().to_vec()),
        revision,
        lease: 0,
    }
}

fn gone(key: &str, revision: i64) -> Change {
    Change {
        value: None,
        ..put(key, "", revision)
    }
}

fn node(name: &str, last: u8, revision: i64) -> Change {
    let value = format!(r#"{{"id":"{name}","address":"192.0.2.{last}"}}"#);
    put(&format!("nodes/{name}"), &value, revision)
}

fn endpoint(node: &str, last: u8, revision: i64) -> Change {
    let value =
        format!(r#"{{"node":"{node}","container":"c{last}","mac":"02:00:00:00:01:{last:02x}"}}"#);
    put(&format!("endpoints/blue/10.0.1.{last}"), &value, revision)
}

fn two_nodes() -> Vec<Change> {
    vec![
        node("a", 1, 1),
        node("b", 2, 2),
        endpoint("a", 11, 3),
        endpoint("b", 12, 4),
    ]
}

fn addresses(state: &State) -> Vec<String> {
    let remotes = state.remotes("blue", "me");
    remotes
        .iter()
        .map(|remote| remote.address.to_string())
        .collect()
}

#[test]
fn containers_of_other_nodes_are_found() {
    let mut state = State::default();
    let effect = state.replace(two_nodes(), 4, 0, LEASE);
    assert!(effect.malformed.is_empty(), "{effect:?}");
    assert_eq!(state.revision(), 4);
    let remotes = state.remotes("blue", "a");
    assert_eq!(remotes.len(), 1);
    assert_eq!(remotes[0].vtep.to_string(), "192.0.2.2");
    assert_eq!(remotes[0].mac.to_string(), "02:00:00:00:01:0c");
    let names = state.remote_names("blue", "b");
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].name, "c11");
}

#[test]
fn a_node_that_dies_takes_its_endpoints_along() {
    let mut state = State::default();
    state.replace(two_nodes(), 4, 0, LEASE);
    let died = vec![gone("endpoints/blue/10.0.1.12", 5), gone("nodes/b", 5)];
    let effect = state.apply(died, LEASE);
    assert_eq!(effect.networks, BTreeSet::from(["blue".to_owned()]));
    assert_eq!(addresses(&state), ["10.0.1.11"]);
}

#[test]
fn a_node_that_was_cut_off_with_this_one_is_waited_for() {
    let mut state = State::default();
    state.replace(two_nodes(), 4, 0, LEASE);
    // Back at 100: the lease of b has ended meanwhile.
    state.replace(vec![node("a", 1, 1), endpoint("a", 11, 3)], 9, 100, LEASE);
    assert_eq!(addresses(&state), ["10.0.1.11", "10.0.1.12"]);
    assert!(state.expire(109).networks.is_empty());
    // That of a ends while this node is settling.
    state.apply(
        vec![gone("endpoints/blue/10.0.1.11", 10), gone("nodes/a", 10)],
        105,
    );
    assert_eq!(addresses(&state).len(), 2);
    // a returns without its container, b does not.
    state.apply(vec![node("a", 1, 11)], 106);
    state.apply(vec![endpoint("a", 13, 12)], 107);
    state.expire(110);
    assert_eq!(addresses(&state), ["10.0.1.13"]);
}

#[test]
fn what_was_removed_during_an_outage_is_gone_after_it() {
    let mut state = State::default();
    state.replace(two_nodes(), 4, 0, LEASE);
    state.replace(
        vec![node("a", 1, 1), node("b", 2, 2), endpoint("b", 12, 4)],
        9,
        100,
        LEASE,
    );
    assert_eq!(addresses(&state), ["10.0.1.12"]);
}

#[test]
fn an_address_that_somebody_else_took_is_theirs() {
    let mut state = State::default();
    state.replace(two_nodes(), 4, 0, LEASE);
    state.replace(vec![node("a", 1, 1), endpoint("a", 12, 8)], 9, 100, LEASE);
    let holder = state
        .endpoint("blue", "10.0.1.12".parse().unwrap())
        .unwrap();
    assert_eq!(holder.record.node, "a");
    assert!(!holder.doubtful);
}

#[test]
fn malformed_entries_are_named_and_passed_over() {
    let mut state = State::default();
    let mut all = two_nodes();
    all.push(put("endpoints/blue/10.0.1.13", "{", 5));
    all.push(put("endpoints/blue/banana", "{}", 5));
    all.push(put("what/is/this", "{}", 5));
    let effect = state.replace(all, 5, 0, LEASE);
    assert_eq!(effect.malformed.len(), 3);
    assert!(effect.malformed[0].contains("10.0.1.13"), "{effect:?}");
    assert_eq!(addresses(&state).len(), 2);
    // A good one that becomes a bad one is no longer what it was.
    let effect = state.apply(vec![put("endpoints/blue/10.0.1.12", "x", 6)], 50);
    assert_eq!(effect.malformed.len(), 1);
    assert_eq!(addresses(&state), ["10.0.1.11"]);
}

#[test]
fn own_changes_show_once() {
    let mut state = State::default();
    state.replace(two_nodes(), 4, 0, LEASE);
    state.apply_own(endpoint("a", 14, 6));
    assert_eq!(addresses(&state).len(), 3);
    state.apply(vec![endpoint("b", 15, 5), endpoint("a", 14, 6)], 50);
    state.apply(vec![gone("endpoints/blue/10.0.1.14", 7)], 50);
    // The answer to the own change was slower than what came of it.
    state.apply_own(endpoint("a", 14, 6));
    assert_eq!(addresses(&state).len(), 3);
}

proptest! {
    /// A copy that followed the events is the copy that reading everything would give.
    #[test]
    fn following_is_as_good_as_reading(
        steps in proptest::collection::vec((0u8..6, any::<bool>(), 0u8..3), 0..60),
    ) {
        let mut store: BTreeMap<String, Change> = BTreeMap::new();
        let mut followed = State::default();
        followed.replace(vec![], 1, 0, 0);
        let mut revision = 1;
        for (which, is_put, owner) in steps {
            revision += 1;
            let name = ["a", "b", "c"][usize::from(owner)];
            let change = match (which, is_put) {
                (0, true) => node(name, owner + 1, revision),
                (0, false) => gone(&format!("nodes/{name}"), revision),
                (_, true) => endpoint(name, which, revision),
                (_, false) => gone(&format!("endpoints/blue/10.0.1.{which}"), revision),
            };
            match &change.value {
                Some(_) => { store.insert(change.key.clone(), change.clone()); }
                None => { store.remove(&change.key); }
            }
            followed.apply(vec![change], 1);
        }
        let mut read = State::default();
        read.replace(store.into_values().collect(), followed.revision(), 0, 0);
        prop_assert_eq!(read, followed);
    }

    #[test]
    fn nothing_that_happens_is_a_panic(
        steps in proptest::collection::vec(
            ("(/netpath/v1/)?(nodes|endpoints/b|vnis)?/?[a-c0-9./:]{0,9}", any::<Option<Vec<u8>>>(),
             any::<i64>(), any::<u64>()),
            0..30,
        ),
    ) {
        let mut state = State::default();
        for (key, value, revision, now) in steps {
            state.apply(vec![Change { key, value, revision, lease: 0 }], now);
            state.expire(now);
            state.remotes("b", "a");
            state.remote_names("b", "a");
        }
    }
}
