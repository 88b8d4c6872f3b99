//! Frames made and damaged at random, and what must hold whatever the programs are given.
//!
//! What is kept to be damaged further grows by what showed something new: another action,
//! reason or counter for another kind of packet.

use std::collections::{HashMap as Seen, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use etherparse::{Ipv4Header, Ipv6Header};
use netpath_common::flow::Flow;
use netpath_common::policy::{GatewayMode, Policy};
use netpath_common::tuple::{OUTSIDE, Proto, Tuple};

use crate::packets::{
    ACK, COOKIE_ECHO, ETH, FIN, INIT, L4, RST, SYN, Sample, arp, fix_ipv4_checksum, icmpv6,
    insert_extensions, ip, make_fragment, solicitation, too_big,
};
use crate::progrun::{Action, At, FAMILIES, Host, MAC_A, MAC_B, MAC_GATEWAY, V4, V6};
use crate::verify;

/// Frames and where they come by.
pub type Input = (At, Vec<u8>);

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 33) as usize) % limit
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// What came of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    /// Frames that were run.
    pub runs: usize,
    /// Those that were redirected.
    pub redirected: usize,
    /// Those that showed something new.
    pub new: usize,
}

/// A host under fire.
pub struct Fuzzer<'a> {
    host: &'a mut Host,
    random: Random,
    inputs: Vec<Input>,
    first: usize,
    shown: HashSet<(String, Action, String, [u8; 3])>,
    sum: Sum,
    open: bool,
}

/// Inputs that are kept to go on from; beyond that a new one takes the place of an old one.
const KEPT: usize = 4096;

/// The whole flow table is looked at once in so many runs.
const LOOK: usize = 1024;

impl<'a> Fuzzer<'a> {
    /// Publishes ports, so that frames from outside get somewhere; `open` networks also take
    /// what is for a container's own address.
    pub fn new(host: &'a mut Host, seed: u64, open: bool) -> Self {
        for network in if open { 0..2 } else { 0..0 } {
            let policy = Policy {
                mode4: GatewayMode::NatUnprotected,
                mode6: GatewayMode::NatUnprotected,
                ..Policy::default()
            };
            host.set_policy(network, policy);
        }
        for family in FAMILIES {
            host.publish(Proto::Tcp, family.any, 8080, 0, 80);
            host.publish(Proto::Udp, family.any, 8080, 0, 80);
            host.publish(Proto::Sctp, family.any, 8080, 0, 8080);
        }
        let inputs = valid();
        Self {
            host,
            random: Random::new(seed),
            first: inputs.len(),
            inputs,
            shown: HashSet::new(),
            sum: Sum::default(),
            open,
        }
    }

    /// Makes a frame and runs it.
    pub fn step(&mut self) {
        let (at, mut frame) = self.random.pick(&self.inputs).clone();
        if self.random.below(8) > 0 {
            damage(&mut frame, &mut self.random);
        }
        if let Some((at, frame)) = self.judge(at, &frame) {
            self.judge(at, &frame);
        }
        if self.sum.runs.is_multiple_of(LOOK) {
            self.check_flows();
        }
        if self.sum.runs.is_multiple_of(64 * LOOK) {
            self.host.sweep();
        }
    }

    /// Runs a frame and checks all that must hold. Returns what the far side might say to it.
    pub fn judge(&mut self, at: At, frame: &[u8]) -> Option<Input> {
        let before = self.counts();
        let (action, out) = self.host.run_raw(at, frame);
        let after = self.counts();
        self.sum.runs += 1;
        let mut moved: Vec<&str> = after
            .iter()
            .filter(|(name, count)| before.get(*name) != Some(count))
            .map(|(name, _)| name.as_str())
            .collect();
        moved.sort_unstable();
        let shown = moved.join(" ");
        let to_uplink = moved.contains(&"container to_uplink");
        let by_flow = to_uplink || moved.contains(&"uplink to_container");
        self.learn(at, action, shown, frame);
        let hex = hex(frame);
        match action {
            Action::Pass | Action::Accept => {
                assert_eq!(out, frame, "{at:?} changes what it leaves alone: {hex}")
            }
            Action::Drop => {}
            Action::Redirect => {
                self.sum.redirected += 1;
                assert!(ip_is_whole(frame), "{at:?} redirects {hex}");
                if by_flow {
                    assert!(verify::is_well_formed(frame), "{at:?} translates {hex}");
                }
                if verify::checksums(frame).is_ok() {
                    let checked = verify::checksums(&out);
                    assert_eq!(checked, Ok(()), "{at:?} spoils {hex}");
                }
            }
        }
        if to_uplink {
            let own = FAMILIES.map(|family| ip(family.uplink));
            let source = source(&out).expect("what leaves can be read");
            // An open network's containers answer by their own addresses who came by them.
            assert!(self.open || own.contains(&source), "{source} leaves: {hex}");
        }
        (to_uplink && self.random.below(2) == 0).then(|| self.answer(&out))?
    }

    /// Checks what must hold of the flow table as a whole.
    pub fn check_flows(&self) {
        let map = MapData::from_pin(self.host.folder().join("flows")).expect("the flow table");
        let flows: HashMap<_, Tuple, Flow> = Map::HashMap(map).try_into().expect("its records");
        let all: Seen<Tuple, Flow> = flows.iter().map(|entry| entry.expect("an entry")).collect();
        for (key, flow) in &all {
            let other_key = flow.other_key(key);
            let other = all.get(&other_key);
            let other = other.unwrap_or_else(|| panic!("{key:?} lost its other half"));
            // Each entry is reached by one tuple only: no two connections share one outside.
            assert_eq!(
                other.other_key(&other_key),
                *key,
                "two connections, one tuple"
            );
            assert_ne!(other.direction, flow.direction);
            assert_eq!(other.state, flow.state, "{key:?}");
            let outside = [key.network, other_key.network].map(|network| network == OUTSIDE);
            assert_ne!(outside, [true; 2], "{key:?} leads from outside to outside");
        }
    }

    /// What has been run so far.
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// Writes the inputs that showed something new, one a line, as long as they are not too many.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path, max_bytes: usize) -> std::io::Result<()> {
        let mut text = String::new();
        for (at, frame) in &self.inputs[self.first..] {
            let line = format!("{} {}\n", place(*at), hex(frame));
            if text.len() + line.len() <= max_bytes {
                text.push_str(&line);
            }
        }
        std::fs::write(path, text)
    }

    /// Counters and drops, by name.
    fn counts(&self) -> Seen<String, u64> {
        let counters = self.host.datapath.counters().expect("the counters");
        let drops = self.host.datapath.drops(false).expect("the drops");
        let counters = counters
            .into_iter()
            .filter(|row| row.counter != "seen" && row.counter != "dropped")
            .map(|row| (format!("{} {}", row.hook, row.counter), row.packets));
        let drops = drops
            .into_iter()
            .map(|row| (format!("{} drop {}", row.hook, row.reason), row.packets));
        counters.chain(drops).collect()
    }

    /// Keeps an input that showed something new.
    fn learn(&mut self, at: At, action: Action, shown: String, frame: &[u8]) {
        // Which header, whether with options or in parts, and what follows.
        let at_byte = |offset: usize| frame.get(offset).copied().unwrap_or_default();
        let known = |proto: u8| match proto {
            0 | 1 | 2 | 6 | 17 | 43 | 44 | 58 | 60 | 132 => proto,
            _ => u8::MAX,
        };
        let kind = match [at_byte(12), at_byte(13)] {
            [0x08, 0x00] => [
                4,
                u8::from(at_byte(ETH) != 0x45) | (at_byte(ETH + 6) & 0x20),
                known(at_byte(ETH + 9)),
            ],
            [0x86, 0xdd] => [6, 0, known(at_byte(ETH + 6))],
            _ => [0; 3],
        };
        if !self.shown.insert((place(at), action, shown, kind)) {
            return;
        }
        self.sum.new += 1;
        let input = (at, frame.to_vec());
        if self.inputs.len() < KEPT {
            self.inputs.push(input);
        } else {
            let place = self.first + self.random.below(KEPT - self.first);
            self.inputs[place] = input;
        }
    }

    /// An answer to what has left, or a router's error about it.
    fn answer(&mut self, out: &[u8]) -> Option<Input> {
        let sample = Sample::read(out);
        let mut frame = match sample {
            Some(sample) if self.random.below(2) == 0 => {
                let flags = [SYN | ACK, ACK, FIN | ACK, RST, 2, 10, 6, 7];
                sample.answer(*self.random.pick(&flags)).bytes()
            }
            _ => {
                let router = if out[12] == 8 {
                    "203.0.113.1"
                } else {
                    "2001:db8:ffff::1"
                };
                let quoted = 28 + self.random.below(out.len().max(30) - 28);
                let to = source(out)?.to_string();
                let macs = [[2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 0, 1]];
                too_big(macs, router, &to, &out[ETH..], quoted)
            }
        };
        if self.random.below(3) == 0 {
            damage(&mut frame, &mut self.random);
        }
        (frame.len() >= SHORTEST).then_some((At::Uplink, frame))
    }
}

/// Reads inputs that [`Fuzzer::save`] has written.
pub fn read(text: &str) -> Vec<Input> {
    let lines = text.lines().map(|line| {
        let (at, hex) = line.split_once(' ').expect("a place and a frame");
        let at = match at {
            "beyond" => At::Beyond(0),
            "container" => At::Container(0),
            "uplink" => At::Uplink,
            "gateway" => At::Gateway(false),
            "forwarded" => At::Gateway(true),
            other => panic!("{other} is no place"),
        };
        let bytes = hex.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hexadecimal digits")
        });
        (at, bytes.collect())
    });
    lines.collect()
}

fn place(at: At) -> String {
    match at {
        At::Beyond(_) => "beyond",
        At::Container(_) => "container",
        At::Uplink => "uplink",
        At::Gateway(false) => "gateway",
        At::Gateway(true) => "forwarded",
        At::Xdp => "xdp",
        At::Wire(true) => "wire-in",
        At::Wire(false) => "wire-out",
        At::Card(_) => "card",
        At::Guard(_) => "guard",
    }
    .to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The source address of a frame, whatever follows the IP header.
fn source(frame: &[u8]) -> Option<std::net::IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Ipv4Header::from_slice(&frame[ETH..])
            .ok()
            .map(|(header, _)| std::net::Ipv4Addr::from(header.source).into()),
        _ => Ipv6Header::from_slice(&frame[ETH..])
            .ok()
            .map(|(header, _)| std::net::Ipv6Addr::from(header.source).into()),
    }
}

/// Whether the frame's IP header, if it has one, is whole and its length true.
fn ip_is_whole(frame: &[u8]) -> bool {
    let rest = &frame[ETH..];
    match frame[12..14] {
        [0x08, 0x00] => Ipv4Header::from_slice(rest).is_ok_and(|(header, _)| {
            usize::from(header.total_len) >= header.header_len()
                && usize::from(header.total_len) <= rest.len()
        }),
        [0x86, 0xdd] => Ipv6Header::from_slice(rest)
            .is_ok_and(|(header, rest)| usize::from(header.payload_length) <= rest.len()),
        _ => true,
    }
}

/// Valid frames of all kinds.
fn valid() -> Vec<Input> {
    let mut all = Vec::new();
    for family in FAMILIES {
        let v4 = ip(family.a).is_ipv4();
        for l4 in [
            L4::Tcp(1000, 443, SYN),
            L4::Tcp(1000, 443, ACK),
            L4::Tcp(1000, 443, FIN | ACK),
            L4::Tcp(1000, 443, RST),
            L4::Udp(1000, 53),
            L4::Request(9),
            L4::Reply(9),
            L4::Sctp(1000, 443, INIT),
            L4::Sctp(1000, 443, COOKIE_ECHO),
        ] {
            for dst in [
                family.remote,
                family.b,
                family.gateway,
                family.uplink,
                family.red,
            ] {
                let sample = Sample::new(family.a, dst, l4).macs(MAC_A, MAC_GATEWAY);
                all.push((At::Container(0), sample.bytes()));
                all.push((At::Beyond(0), sample.clone().macs(MAC_A, MAC_B).bytes()));
                let mut other = sample.bytes();
                if v4 {
                    other = sample.with_options(3);
                } else {
                    insert_extensions(&mut other, &[0, 60]);
                }
                all.push((At::Container(0), other));
                if v4 {
                    for (more, offset) in [(true, 0), (true, 3), (false, 3)] {
                        let mut part = sample.bytes();
                        make_fragment(&mut part, more, offset);
                        all.push((At::Container(0), part));
                    }
                } else {
                    let mut part = sample.bytes();
                    insert_extensions(&mut part, &[44]);
                    all.push((At::Container(0), part));
                }
                // A tag within the frame, as of a VLAN in a VLAN.
                let mut tagged = sample.bytes();
                tagged.splice(12..12, [0x81, 0, 0, 7]);
                all.push((At::Container(0), tagged));
            }
            // A container's error about what it was sent.
            let wrote = Sample::new(family.remote, family.a, l4).bytes();
            let macs = [MAC_A, MAC_GATEWAY];
            let error = too_big(macs, family.a, family.remote, &wrote[ETH..], 64);
            all.push((At::Container(0), error));
            let sample = Sample::new(family.gateway, family.a, l4).macs(MAC_GATEWAY, MAC_A);
            all.push((At::Gateway(false), sample.bytes()));
        }
        for l4 in [
            L4::Tcp(5000, 8080, SYN),
            L4::Tcp(5000, 8080, ACK),
            L4::Udp(5000, 8080),
            L4::Reply(9),
            L4::Sctp(5000, 8080, INIT),
        ] {
            for dst in [family.uplink, family.a] {
                let sample = Sample::new(family.remote, dst, l4);
                all.push((At::Uplink, sample.bytes()));
                if v4 {
                    all.push((At::Uplink, sample.with_options(10)));
                }
            }
        }
    }
    // By containers' own addresses; each way with a client of its own.
    for family in FAMILIES {
        for l4 in [
            L4::Tcp(6000, 80, SYN),
            L4::Tcp(6000, 80, ACK),
            L4::Udp(6000, 80),
            L4::Request(6),
            L4::Sctp(6000, 80, INIT),
        ] {
            let out = Sample::new(family.a, family.red, l4).macs(MAC_A, MAC_GATEWAY);
            all.push((At::Container(0), out.bytes()));
            let inward = Sample::new(family.remote, family.red, l4).bytes();
            all.push((At::Uplink, inward));
            let forwarded = Sample::new(family.remote, family.a, l4).bytes();
            all.push((At::Gateway(true), forwarded));
        }
    }
    all.push((At::Container(0), arp(1, MAC_A, V4.a, [0; 6], V4.gateway)));
    let body = solicitation(V6.b, &[1, 1, 2, 0, 0, 0, 0, 2]);
    let frame = icmpv6([MAC_A, MAC_B], V6.a, "ff02::1:ff00:3", 135, &body);
    all.push((At::Container(0), frame));
    all
}

/// The kernel runs no program on less than the headers it expects.
const SHORTEST: usize = 55;

/// Bytes that mean something in a header: lengths, versions, protocols, chunks.
const TELLING: [u8; 20] = [
    0, 1, 2, 4, 5, 6, 8, 17, 43, 44, 58, 60, 132, 0x20, 0x45, 0x4f, 0x60, 0x7f, 0x80, 0xff,
];

/// Flips, overwrites, moves, cuts and grows; keeps the MAC addresses, or nothing would get far.
fn damage(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = 12 + random.below(frame.len() - 12);
        // Headers are the interesting part.
        let at = if random.below(4) > 0 {
            at.min(12 + random.below(70))
        } else {
            at
        };
        match random.below(8) {
            0 | 1 => frame[at] ^= 1 << random.below(8),
            2 => frame[at] = random.below(256) as u8,
            3 => frame[at] = *random.pick(&TELLING),
            4 => {
                let keep = frame.len() - random.below(frame.len() / 2);
                frame.truncate(keep.max(SHORTEST));
            }
            5 => {
                let from = 12 + random.below(frame.len() - 12);
                let len = (1 + random.below(16)).min(frame.len() - at.max(from));
                frame.copy_within(from..from + len, at);
            }
            6 => {
                // Ports and addresses of others who are there.
                let port = *random.pick(&[53u16, 80, 443, 1000, 5000, 8080, 30_000]);
                if let Some(place) = frame.get_mut(at..at + 2) {
                    place.copy_from_slice(&port.to_be_bytes());
                }
            }
            _ => frame.extend(std::iter::repeat_n(0xa5, random.below(40))),
        }
    }
    // Half of the time with a right header checksum, so that only the damage itself shows.
    if random.below(2) == 0 && frame[12..14] == [8, 0] {
        fix_ipv4_checksum(frame);
    }
    if random.below(2) == 0 {
        verify::fix_udp(frame);
    }
}
