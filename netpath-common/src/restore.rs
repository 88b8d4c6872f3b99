//! Making a lost half of a connection anew.
//!
//! Each entry of the flow table knows the other's key and rewrite; what it does not know, the
//! way of the other's packets, comes from the maps that the way was made of. So the next packet
//! of the surviving direction brings the other one back, with the same outside port.

use crate::checksum::{addr_diff, port_diff};
use crate::endpoint::EndpointKey;
use crate::env::{Env, InsertError, Scratch, Table};
use crate::flow::{Direction, Flow, FlowKind, Toward};
use crate::snat::{self, Opening};
use crate::tcp;
use crate::tuple::{OUTSIDE, Tuple};

/// Makes the other half of the entry `key` anew. False if that cannot be: the entry is gone,
/// the table is full, or the way back is no more.
#[inline(always)]
pub fn lost_half<E: Env>(env: &E, key: &Tuple) -> bool {
    env.with_scratch(|Scratch { opening, flow }| other_half(env, key, opening, flow))
        .unwrap_or(false)
}

/// As [`lost_half`], in memory that is lent already. True also if it is there.
// Out of line, for what it keeps on the stack.
#[inline(never)]
pub fn other_half<E: Env>(env: &E, key: &Tuple, opening: &mut Opening, flow: &mut Flow) -> bool {
    if env.flows().with(key, |own| *flow = *own).is_none() {
        return false;
    }
    let other_key = flow.other_key(key);
    // The other half's packets go to whoever sends this one's.
    let way = &mut opening.back;
    if key.network == OUTSIDE {
        let found = env.route(flow.gateway_ifindex, &key.dst, &key.src, &mut way.route);
        if found.is_err() {
            return false;
        }
        if env.uplinks().contains(&way.route.ifindex) {
            way.out(flow.slot);
        } else if flow.kind as u8 == FlowKind::Direct as u8 {
            way.by_stack(flow.slot, flow.gateway_ifindex);
        } else {
            return false;
        }
    } else {
        let sender = EndpointKey::new(key.network, key.src);
        let found = env
            .endpoints()
            .with(&sender, |endpoint| way.into_container(endpoint));
        if found.is_none() {
            return false;
        }
        if flow.to as u8 == Toward::Stack as u8 {
            // The answers come by the host's stack as well.
            way.to = Toward::Forwarded;
        }
    }
    let own_flags = flow.tcp_flags;
    flow.direction = match flow.direction {
        Direction::Original => Direction::Reply,
        Direction::Reply => Direction::Original,
    };
    flow.tcp_flags = tcp::likely(flow.state, flow.direction, own_flags);
    flow.new_src = key.dst;
    flow.new_dst = key.src;
    flow.new_src_port = key.dst_port;
    flow.new_dst_port = key.src_port;
    flow.addr_diff = addr_diff([&other_key.src, &other_key.dst], [&key.dst, &key.src]);
    flow.port_diff = port_diff(
        [other_key.src_port, other_key.dst_port],
        [key.dst_port, key.src_port],
    );
    flow.other_network = key.network;
    flow.packets = 0;
    flow.bytes = 0;
    flow.last_seen = env.now();
    snat::direct(env, flow, &opening.back);
    !matches!(
        env.flows().insert_new(&other_key, flow),
        Err(InsertError::Full)
    )
}
