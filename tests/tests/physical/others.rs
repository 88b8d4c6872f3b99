//! What is not for containers goes through a card that they share bit by bit, whatever it is.

use std::collections::HashSet;

use netpath_tests::capture::Capture;
use netpath_tests::inside::inside;
use netpath_tests::lab::{Lab, UPLINK, eventually};
use netpath_tests::wire::Wire;

use super::{mac_of, mac_on, ping};

/// Who sends: its frames are told from others by it.
const SENDER: [u8; 6] = [2, 0, 0, 0, 8, 8];
/// A frame without a tag and without a payload, in bytes.
const ETHERNET: usize = 14;
/// The largest packet of the card, in bytes.
const MTU: usize = 9000;

/// Where what comes by the card is seen behind its programs.
const BEHIND: &str = "behind0";

/// The card with containers of both kinds and of a VLAN on it, and large packets. `kind` is the
/// device that gets what the programs leave.
fn lab(kind: &[&str]) -> Lab {
    let mut lab = Lab::without_agent();
    let mtu = MTU.to_string();
    lab.host(&["ip", "link", "set", UPLINK, "mtu", &mtu]).ok();
    lab.outside(&["ip", "link", "set", "eth0", "mtu", &mtu])
        .ok();
    let add = ["ip", "link", "add", "link", UPLINK, "name", BEHIND];
    lab.host(&[&add[..], kind].concat()).ok();
    let up = ["ip", "link", "set", BEHIND, "allmulticast", "on", "up"];
    lab.host(&up).ok();
    lab.start_agent();
    let mode = match kind.contains(&"passthru") {
        // The kernel gives all of the card's frames to that device.
        true => "mode=l2",
        false => "mode=macvlan",
    };
    for (name, vlan, options) in [
        ("lan", "", &["--subnet", "10.24.0.0/24", "-o", mode][..]),
        ("tagged", ".101", &["--subnet", "10.25.0.0/24"]),
        ("routed", "", &["--subnet", "192.0.2.0/24", "-o", "mode=l3"]),
    ] {
        let parent = format!("parent={UPLINK}{vlan}");
        let create = ["network", "create", name, "-d", "underlay", "-o", &parent];
        lab.netpath(&[&create[..], options].concat()).ok();
        lab.run(name, &["--network", name], &["sleep", "600"]);
    }
    lab
}

/// What stands before a frame's payload: tags and type.
fn heads() -> Vec<Vec<u8>> {
    // Tags: priority and drop bit as well as the number, which is a container's VLAN in some.
    let (ours, other, priority) = (
        [0x81, 0x00, 0xb0, 101],
        [0x81, 0x00, 0x00, 102],
        [0x81, 0x00, 0xe0, 0],
    );
    let (provider, provider_of_ours) = ([0x88, 0xa8, 0x50, 101], [0x88, 0xa8, 0x0f, 0xfe]);
    let types: [[u8; 2]; 10] = [
        [0x08, 0x00],
        [0x08, 0x06],
        [0x86, 0xdd],
        // Experiments, LLDP, MPLS, PPPoE, MACsec, nobody's, and lengths of IEEE 802.3.
        [0x88, 0xb5],
        [0x88, 0xcc],
        [0x88, 0x47],
        [0x88, 0x64],
        [0x88, 0xe5],
        [0xff, 0xff],
        [0x00, 0x2e],
    ];
    let mut heads: Vec<Vec<u8>> = types.map(Vec::from).into();
    let tags: [&[[u8; 4]]; 7] = [
        &[ours],
        &[other],
        &[priority],
        &[provider],
        &[provider_of_ours, ours],
        &[ours, other],
        &[provider, ours, other],
    ];
    for tags in tags {
        for kind in [[0x08, 0x00], [0x86, 0xdd], [0x88, 0xb5]] {
            heads.push([&tags.concat()[..], &kind].concat());
        }
    }
    heads
}

/// All frames to these addresses; each has a number in it.
fn frames(targets: &[[u8; 6]]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for target in targets {
        for head in heads() {
            let before = [&target[..], &SENDER, &head].concat();
            for length in [60, 1514, MTU + ETHERNET] {
                let mut frame = before.clone();
                frame.extend((frames.len() as u32).to_be_bytes());
                let noise = (frame.len()..length).map(|i| (i / 3) as u8 ^ 0x45);
                frame.extend(noise);
                frames.push(frame);
            }
        }
    }
    frames
}

/// Sends frames from a device, and checks that a capture of another has them as they are.
#[track_caller]
fn check(frames: &[Vec<u8>], from: (&str, &str), to: (&str, &str)) {
    let sender = SENDER.map(|byte| format!("{byte:02x}")).join(":");
    let capture = Capture::start(to.0, to.1, &format!("ether src {sender}"));
    let wire = inside(from.0, || Wire::open(from.1));
    // Nobody waits between them but for each other: no queue is longer than a few.
    for some in frames.chunks(16) {
        let before = capture.frames().len();
        some.iter().for_each(|frame| wire.send(frame));
        eventually("all frames are there", || {
            capture.frames().len() >= before + some.len()
        });
    }
    let got = capture.frames();
    assert_eq!(got.len(), frames.len(), "one of each");
    // Groups may overtake others: they are copied later.
    let got: HashSet<Vec<u8>> = got.into_iter().map(|frame| frame.bytes).collect();
    for frame in frames {
        let head = &frame[..ETHERNET + 8];
        assert!(
            got.contains(frame),
            "{head:02x?}… ({}) has changed",
            frame.len()
        );
    }
}

fn octets(text: &str) -> [u8; 6] {
    let parts = text.split(':');
    let parts = parts.map(|part| u8::from_str_radix(part, 16).expect("a MAC address"));
    parts.collect::<Vec<u8>>().try_into().expect("six of them")
}

/// Somebody's on the wire.
const SOMEBODY: [u8; 6] = [2, 0, 0, 0, 9, 9];
/// Groups that switches keep to themselves and others, and everybody.
const GROUPS: [[u8; 6]; 4] = [
    [1, 0x80, 0xc2, 0, 0, 0],
    [1, 0, 0x5e, 0, 0, 0xfb],
    [0x33, 0x33, 0, 0, 0, 1],
    [0xff; 6],
];

#[test]
fn tagged_large_and_unknown_frames_of_others_arrive_bit_by_bit() {
    let lab = lab(&["type", "macvlan", "mode", "passthru"]);
    let own = octets(&mac_on(&lab, UPLINK));
    let all = frames(&[&[own, SOMEBODY][..], &GROUPS].concat());
    let (host, outside) = (lab.host_netns(), lab.outside_netns());
    // What the host sends is seen on the other end of the cable.
    check(&all, (&host, UPLINK), (&outside, "eth0"));
    check(&all, (&outside, "eth0"), (&host, BEHIND));
    lab.host(&["ip", "link", "del", BEHIND]).ok();
    // A provider's tag with a container's VLAN is another one than the VLAN's.
    let mac = octets(&mac_of(&lab, "tagged", "eth0"));
    let to_ours: Vec<Vec<u8>> = frames(&[mac])
        .into_iter()
        .filter(|frame| frame[12..14] == [0x88, 0xa8])
        .collect();
    check(&to_ours, (&host, UPLINK), (&outside, "eth0"));
    lab.host(&ping("192.0.2.2")).ok();
}

#[test]
fn frames_of_others_arrive_bit_by_bit_beside_stacked_devices() {
    let address = SOMEBODY.map(|byte| format!("{byte:02x}")).join(":");
    let lab = lab(&["address", &address, "type", "macvlan", "mode", "vepa"]);
    let inside = lab.exec("lan", &["ip", "-d", "link", "show", "eth0"]).ok();
    assert!(inside.contains("macvlan"), "{inside}");
    let own = octets(&mac_on(&lab, UPLINK));
    let (host, outside) = (lab.host_netns(), lab.outside_netns());
    let all = frames(&[&[own, SOMEBODY][..], &GROUPS].concat());
    check(&all, (&host, UPLINK), (&outside, "eth0"));
    let all = frames(&[&[SOMEBODY][..], &GROUPS].concat());
    check(&all, (&outside, "eth0"), (&host, BEHIND));
    lab.host(&ping("192.0.2.2")).ok();
}
