//! How the model changes a frame.

use netpath_common::checksum::{TTL_DIFF, apply, fold};
use netpath_common::flow::Flow;
use netpath_common::packet::{Fragment, L3, Packet};
use netpath_common::tuple::Proto;

/// Rewrites a frame as the programs do: checksums by the flow's differences.
pub fn rewrite(frame: &mut [u8], packet: &Packet, flow: &Flow) {
    let l4 = packet.transport_offset();
    let header = packet.fragment != Fragment::Later;
    let mut patch = |offset: usize, diff: u16| {
        let field = u16::from_ne_bytes([frame[offset], frame[offset + 1]]);
        if packet.tuple.proto == Proto::Udp && offset > l4 && field == 0 {
            return;
        }
        let mut sum = apply(field, diff);
        if packet.tuple.proto == Proto::Udp && offset > l4 && sum == 0 {
            sum = 0xffff;
        }
        frame[offset..offset + 2].copy_from_slice(&sum.to_ne_bytes());
    };
    let pseudo = flow.addr_diff;
    let (checksum, addrs) = match packet.tuple.proto {
        Proto::Tcp => (16, pseudo),
        Proto::Udp => (6, pseudo),
        Proto::Icmpv6 => (2, pseudo),
        Proto::Icmp | Proto::Sctp => (2, 0),
    };
    if header && packet.tuple.proto != Proto::Sctp {
        patch(
            l4 + checksum,
            fold(u64::from(addrs) + u64::from(flow.port_diff)),
        );
    }
    let [src, dst] = [flow.new_src, flow.new_dst];
    if packet.tuple.dst.is_v4() {
        patch(
            L3 + 10,
            fold(u64::from(flow.addr_diff) + u64::from(TTL_DIFF)),
        );
        frame[L3 + 8] -= 1;
        frame[L3 + 12..L3 + 16].copy_from_slice(&src.v4_octets());
        frame[L3 + 16..L3 + 20].copy_from_slice(&dst.v4_octets());
    } else {
        frame[L3 + 7] -= 1;
        frame[L3 + 8..L3 + 24].copy_from_slice(&src.octets);
        frame[L3 + 24..L3 + 40].copy_from_slice(&dst.octets);
    }
    let ports = [
        flow.new_src_port.to_be_bytes(),
        flow.new_dst_port.to_be_bytes(),
    ]
    .concat();
    match packet.tuple.proto {
        _ if !header || packet.tuple.proto == Proto::Sctp => {}
        Proto::Tcp | Proto::Udp => frame[l4..l4 + 4].copy_from_slice(&ports),
        Proto::Icmp | Proto::Icmpv6 | Proto::Sctp => {
            let id = flow.new_src_port | flow.new_dst_port;
            frame[l4 + 4..l4 + 6].copy_from_slice(&id.to_be_bytes());
        }
    }
}
