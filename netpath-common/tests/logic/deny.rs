//! The gate of an uplink: whom it lets in.

use std::cell::RefCell;

use etherparse::PacketHeaders;
use netpath_common::addr::Addr;
use netpath_common::deny::{self, Denied, Gate};
use netpath_common::packet::{Frame, Wire};
use netpath_common::reason::DropReason;
use proptest::prelude::*;

use crate::model::Bytes;
use crate::packets::{ACK, ETH, L4, Sample, ip};

/// Denied prefixes in the 128-bit form.
#[derive(Default)]
struct List(RefCell<Vec<(Addr, u8, Denied)>>);

impl List {
    fn of(prefixes: &[(&str, u8)]) -> Self {
        let entry = |&(text, bits): &(&str, u8)| {
            let v4 = ip(text).is_ipv4();
            let denied = Denied {
                v4: u8::from(v4),
                ..Denied::default()
            };
            (Addr::from(ip(text)), bits + if v4 { 96 } else { 0 }, denied)
        };
        Self(RefCell::new(prefixes.iter().map(entry).collect()))
    }

    fn counts(&self) -> Vec<(u64, u64)> {
        let all = self.0.borrow();
        all.iter().map(|(_, _, d)| (d.packets, d.bytes)).collect()
    }
}

impl Gate for List {
    fn denied<R>(&self, src: &Addr, f: impl FnOnce(&mut Denied) -> R) -> Option<R> {
        let mut all = self.0.borrow_mut();
        all.iter_mut()
            .filter(|(prefix, bits, _)| prefix.same_prefix(src, *bits))
            .max_by_key(|(_, bits, _)| *bits)
            .map(|(_, _, denied)| f(denied))
    }
}

/// A frame of which only the first piece can be read.
struct Pieces<'a>(&'a [u8], u32);

impl Frame for Pieces<'_> {
    fn load<T: Wire>(&self, offset: usize) -> Result<T, DropReason> {
        Bytes(self.0).load(offset)
    }

    fn len(&self) -> u32 {
        self.1
    }
}

fn admit(list: &List, frame: &[u8]) -> Result<(), DropReason> {
    deny::admit(list, &Bytes(frame))
}

fn from(src: &str) -> Vec<u8> {
    let dst = if ip(src).is_ipv4() {
        "192.0.2.1"
    } else {
        "2001:db8::1"
    };
    Sample::new(src, dst, L4::Udp(1000, 53)).bytes()
}

const DENIED: Result<(), DropReason> = Err(DropReason::DeniedSource);
const MALFORMED: Result<(), DropReason> = Err(DropReason::Malformed);

#[test]
fn denied_sources_stay_outside_and_are_counted_by_the_longest_prefix() {
    let list = List::of(&[
        ("203.0.113.0", 24),
        ("203.0.113.128", 25),
        ("2001:db8:bad::", 48),
    ]);
    for (src, verdict) in [
        ("203.0.113.1", DENIED),
        ("203.0.113.129", DENIED),
        ("203.0.114.1", Ok(())),
        ("2001:db8:bad::7", DENIED),
        ("2001:db8:bae::7", Ok(())),
    ] {
        assert_eq!(admit(&list, &from(src)), verdict, "{src}");
    }
    let len = from("203.0.113.1").len() as u64;
    let len6 = from("2001:db8:bad::7").len() as u64;
    assert_eq!(list.counts(), [(1, len), (1, len), (1, len6)]);
}

#[test]
fn all_of_one_family_is_not_all_of_the_other() {
    let list = List::of(&[("::", 0)]);
    assert_eq!(admit(&list, &from("203.0.113.1")), Ok(()));
    assert_eq!(admit(&list, &from("2001:db8::9")), DENIED);
    let list = List::of(&[("0.0.0.0", 0)]);
    assert_eq!(admit(&list, &from("203.0.113.1")), DENIED);
    assert_eq!(admit(&list, &from("2001:db8::9")), Ok(()));
    assert_eq!(list.counts(), [(1, from("203.0.113.1").len() as u64)]);
}

#[test]
fn headers_that_contradict_themselves_stay_outside() {
    let list = List::default();
    let v4 = from("203.0.113.1");
    let v6 = from("2001:db8::9");
    let check = |good: &[u8], at: usize, byte: u8| {
        let mut frame = good.to_vec();
        frame[ETH + at] = byte;
        admit(&list, &frame)
    };
    for version in [0x05, 0x35, 0x55, 0x65, 0xf5] {
        assert_eq!(check(&v4, 0, version), MALFORMED, "{version:#x}");
    }
    for ihl in 0..5 {
        assert_eq!(check(&v4, 0, 0x40 | ihl), MALFORMED, "{ihl}");
    }
    // More than there is, and less than the header.
    assert_eq!(check(&v4, 3, v4[ETH + 3] + 1), MALFORMED);
    assert_eq!(check(&v4, 3, 19), MALFORMED);
    assert_eq!(check(&v4, 3, 20), Ok(()), "padding");
    assert_eq!(check(&v6, 0, 0x40), MALFORMED);
    assert_eq!(check(&v6, 5, v6[ETH + 5] + 1), MALFORMED);
    assert_eq!(check(&v6, 5, 0), Ok(()), "padding");
    for good in [v4, v6] {
        let least = if good[12] == 8 { 20 } else { 40 };
        for len in ETH..ETH + least {
            assert_eq!(admit(&list, &good[..len]), MALFORMED, "{len}");
        }
    }
    let mapped = Sample::new("::ffff:203.0.113.1", "2001:db8::1", L4::Udp(1, 2));
    assert_eq!(admit(&list, &mapped.bytes()), MALFORMED);
}

#[test]
fn what_cannot_be_judged_passes() {
    let list = List::of(&[("0.0.0.0", 0), ("::", 0)]);
    let v4 = from("203.0.113.1");
    for ether_type in [[0x81, 0x00], [0x88, 0xa8], [0x08, 0x06], [0x12, 0x34]] {
        let mut frame = v4.clone();
        frame[12..14].copy_from_slice(&ether_type);
        frame[ETH] = 0;
        assert_eq!(admit(&list, &frame), Ok(()), "{ether_type:x?}");
    }
    for len in 0..ETH {
        assert_eq!(admit(&list, &v4[..len]), Ok(()));
    }
    // The IP header lies in the second piece.
    let first = Pieces(&v4[..ETH + 4], v4.len() as u32);
    assert_eq!(deny::admit(&list, &first), Ok(()));
    // One who has no address yet asks whether it is free (RFC 4862).
    let mut unspecified = from("2001:db8::9");
    unspecified[ETH + 8..ETH + 24].fill(0);
    assert_eq!(admit(&list, &unspecified), Ok(()));
}

#[test]
fn aggregates_and_jumbograms_pass() {
    let list = List::default();
    let large = 100_000;
    // An aggregate that is longer than its length field can say.
    let mut v4 = from("203.0.113.1");
    v4[ETH + 2..ETH + 4].fill(0);
    assert_eq!(deny::admit(&list, &Pieces(&v4, large)), Ok(()));
    assert_eq!(admit(&list, &v4), MALFORMED);
    let mut v6 = from("2001:db8::9");
    v6[ETH + 4..ETH + 6].fill(0);
    assert_eq!(deny::admit(&list, &Pieces(&v6, large)), Ok(()));
    // RFC 2675.
    v6[ETH + 6] = 0;
    assert_eq!(deny::admit(&list, &Pieces(&v6, large)), Ok(()));
    // A usual aggregate.
    let mut v4 = from("203.0.113.1");
    v4[ETH + 2..ETH + 4].copy_from_slice(&60_000u16.to_be_bytes());
    assert_eq!(deny::admit(&list, &Pieces(&v4, 60_014)), Ok(()));
    assert_eq!(deny::admit(&list, &Pieces(&v4, 60_013)), MALFORMED);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// What another parser, which takes lengths at their word, finds whole, comes in.
    #[test]
    fn nothing_that_is_whole_is_malformed(
        v6: bool,
        flips in proptest::collection::vec((0usize..120, any::<u8>()), 0..4),
        cut in 0usize..120,
    ) {
        let src = if v6 { "2001:db8::9" } else { "203.0.113.1" };
        let dst = if v6 { "2001:db8::1" } else { "192.0.2.1" };
        let mut frame = Sample::new(src, dst, L4::Tcp(1, 2, ACK)).bytes();
        for (at, byte) in flips {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(frame.len() - cut.min(frame.len()) / 2);
        let verdict = admit(&List::default(), &frame);
        let whole = PacketHeaders::from_ethernet_slice(&frame);
        if let Ok(headers) = whole
            && let Some(etherparse::NetHeaders::Ipv6(ip, _)) = &headers.net
            && ip.source_addr().to_ipv4_mapped().is_some()
        {
            prop_assert_eq!(verdict, MALFORMED);
        } else if PacketHeaders::from_ethernet_slice(&frame).is_ok() {
            prop_assert_eq!(verdict, Ok(()));
        }
    }
}
