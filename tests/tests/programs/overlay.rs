//! Networks across hosts: outer headers that the programs write and take off themselves.

use std::thread;
use std::time::Duration;

use netpath::datapath::tunnels::{OverlaySpec, TunnelSpec};
use netpath_common::policy::{OVERLAY, Policy};
use netpath_tests::command::eventually;
use netpath_tests::packets::{ETH, L4, Sample, ip};
use netpath_tests::progrun::{
    Action, At, FAMILIES, Family, Host, MAC_A, MAC_GATEWAY, V4, from_a, on_host,
};
use netpath_tests::verify;

/// The other host.
const VTEP: &str = "192.0.2.2";
const VNI: u32 = 77;
const PORT: u16 = 4789;
/// The VXLAN device. No program is on it, and nothing is sent there.
const DEVICE: u32 = 4711;
/// MAC addresses of both hosts' devices.
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];

/// Tells the host that another one is the router of `10.9.0.0/24` and `fd09::/64`.
fn tunnel(host: &mut Host) {
    let policy = Policy {
        flags: OVERLAY,
        ..Policy::default()
    };
    host.set_policy(0, policy);
    let tunnels = ["10.9.0.0/24", "fd09::/64"].map(|net| TunnelSpec {
        destination: net.parse().expect("a subnet"),
        vtep: ip(VTEP),
        vni: VNI,
        ifindex: DEVICE,
        mac: THEIR_MAC,
        own_mac: OWN_MAC,
        local: Some(ip(V4.uplink)),
        port: PORT,
        mtu: 1450,
    });
    let spec = OverlaySpec {
        network: 1,
        gateway_ifindex: host.gateways[0],
        gateway_mac: MAC_GATEWAY,
        flags: OVERLAY,
        vni: VNI,
        ifindex: DEVICE,
        tunnels: tunnels.to_vec(),
    };
    let datapath = &mut host.datapath;
    datapath.set_tunnels(&spec, true).expect("the tunnels");
    datapath
        .set_tunnel_ports(&[(PORT, DEVICE)])
        .expect("the port");
}

/// An address behind the other host.
fn far(family: &Family) -> &'static str {
    if family.a.contains(':') {
        "fd09::5"
    } else {
        "10.9.0.5"
    }
}

/// What stands between the outer and the inner headers (RFC 7348, section 5).
fn header() -> [u8; 8] {
    let [_, a, b, c] = VNI.to_be_bytes();
    [8, 0, 0, 0, a, b, c, 0]
}

/// A frame of the other host's in its outer headers, without a UDP checksum.
fn wrapped(src_port: u16, inner: &[u8]) -> Vec<u8> {
    let payload = [&header(), inner].concat();
    let outer = Sample::new(VTEP, V4.uplink, L4::Udp(src_port, PORT));
    let mut frame = outer.payload(&payload).bytes();
    frame[ETH + 26..ETH + 28].fill(0);
    frame
}

#[test]
fn packets_get_outer_headers() {
    on_host(|host| {
        tunnel(host);
        for family in FAMILIES {
            let packet = from_a(&Sample::new(family.a, far(&family), L4::Udp(1000, 2000)));
            let (action, mut frame) = host.run_raw(At::Container(0), &packet.bytes());
            assert_eq!(action, Action::Redirect);
            // The outer Ethernet header is the kernel's to write, who knows the next hop.
            frame[ETH - 2..ETH].copy_from_slice(&[8, 0]);
            verify::checksums(&frame).unwrap_or_else(|e| panic!("{e}"));
            let outer = Sample::read(&frame).expect("a packet");
            assert_eq!((outer.src, outer.dst), (ip(V4.uplink), ip(VTEP)));
            let L4::Udp(src_port, PORT) = outer.l4 else {
                panic!("{outer:?}");
            };
            assert!(src_port >= 32_768, "{src_port}");
            assert_eq!(outer.payload[..8], header());
            let inner = &outer.payload[8..];
            verify::checksums(inner).unwrap_or_else(|e| panic!("{e}"));
            let inner = Sample::read(inner).expect("a packet");
            assert_eq!(inner, packet.macs(OWN_MAC, THEIR_MAC).ttl(63));
        }
    });
}

#[test]
fn packets_lose_their_outer_headers() {
    on_host(|host| {
        tunnel(host);
        for family in FAMILIES {
            let packet = Sample::new(far(&family), family.a, L4::Udp(1000, 2000));
            let inner = packet.clone().macs(THEIR_MAC, OWN_MAC).bytes();
            let (action, out) = host.run_raw(At::Uplink, &wrapped(50_000, &inner));
            assert_eq!(action, Action::Redirect);
            verify::checksums(&out).unwrap_or_else(|e| panic!("{e}"));
            let got = Sample::read(&out).expect("a packet");
            assert_eq!(got, packet.macs(MAC_GATEWAY, MAC_A));
            // Who lies about where it is goes nowhere.
            let liar = Sample::new(family.b, family.a, L4::Udp(1000, 2000));
            let liar = liar.macs(THEIR_MAC, OWN_MAC).bytes();
            let (action, _) = host.run_raw(At::Uplink, &wrapped(50_000, &liar));
            assert_eq!(action, Action::Drop);
        }
        assert_eq!(host.drops("overlay")["spoofed_tunnel"], 2);
        // With a checksum, or from somebody unknown, it is the device's.
        let inner = Sample::new("10.9.0.5", V4.a, L4::Udp(1000, 2000)).bytes();
        let mut summed = wrapped(50_000, &inner);
        assert!(verify::fix_udp(&mut summed));
        let mut stranger = wrapped(50_000, &inner);
        // The last byte of the outer source.
        stranger[ETH + 15] ^= 1;
        for frame in [summed, stranger] {
            let (action, out) = host.run_raw(At::Uplink, &frame);
            assert_eq!((action, out), (Action::Pass, frame));
        }
    });
}

#[test]
fn nothing_overtakes_an_aggregate() {
    on_host(|host| {
        tunnel(host);
        let inner = Sample::new("10.9.0.5", V4.a, L4::Udp(1000, 2000));
        let inner = inner.macs(THEIR_MAC, OWN_MAC).bytes();
        let (flow, other) = (wrapped(50_000, &inner), wrapped(50_001, &inner));
        assert_eq!(host.run_raw(At::Uplink, &flow).0, Action::Redirect);
        let (action, out) = host.run_aggregate(At::Uplink, &flow, 1000);
        assert_eq!((action, &out), (Action::Pass, &flow));
        let begin = std::time::Instant::now();
        let (action, out) = host.run_raw(At::Uplink, &flow);
        if begin.elapsed() < Duration::from_millis(4) {
            assert_eq!((action, &out), (Action::Pass, &flow));
        }
        // Other connections are none the slower for it, nor is this one after a while.
        assert_eq!(host.run_raw(At::Uplink, &other).0, Action::Redirect);
        thread::sleep(Duration::from_millis(20));
        eventually("the flow is as before", || {
            host.run_raw(At::Uplink, &flow).0 == Action::Redirect
        });
    });
}
