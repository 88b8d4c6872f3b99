//! Removal of flows that fell silent.

use crate::env::{Env, Table};
use crate::track;
use crate::tuple::Tuple;

/// Removes the connection of `key` if it has been silent for too long in both directions,
/// or if its container is gone. True if it was removed.
///
/// The agent proposes keys that looked idle to it; this runs in the kernel and looks
/// again, so that a flow which woke up in between stays.
#[inline(always)]
pub fn remove_if_idle<E: Env>(env: &E, key: &Tuple) -> bool {
    let flows = env.flows();
    let Some((last_seen, state, gone)) = flows.with(key, |flow| {
        let gone = env.generation(flow.slot) != flow.generation;
        (flow.last_seen, flow.state, gone)
    }) else {
        return false;
    };
    let other_seen = track::with_other(env, key, |other| other.last_seen);
    let last_seen = last_seen.max(other_seen.unwrap_or(0));
    let idle = env.now().saturating_sub(last_seen);
    if !gone && idle <= env.config().timeouts.of(state) {
        return false;
    }
    track::remove(env, key);
    true
}
