//! Fragments, one at a time and in any order.

use netpath_common::tuple::Proto;
use netpath_tests::packets::{ETH, L4, Sample, make_fragment};
use netpath_tests::progrun::{Action, At, Host, V4, from_a, on_host};
use netpath_tests::verify;

const A: At = At::Container(0);

/// The first and the last part of a UDP datagram of 24 + 16 bytes.
fn parts(sample: &Sample, id: u16) -> [Vec<u8>; 2] {
    let whole = sample.clone().payload(&[0x5a; 32]).bytes();
    let (header, data) = whole.split_at(ETH + 20);
    [(true, 0u16, &data[..24]), (false, 3, &data[24..])].map(|(more, offset, data)| {
        let mut part = [header, data].concat();
        let length = u16::try_from(20 + data.len()).unwrap();
        part[ETH + 2..ETH + 4].copy_from_slice(&length.to_be_bytes());
        part[ETH + 4..ETH + 6].copy_from_slice(&id.to_be_bytes());
        make_fragment(&mut part, more, offset);
        part
    })
}

/// The datagram that two parts make, as one frame with a checksum to verify.
fn joined(first: &[u8], last: &[u8]) -> Vec<u8> {
    let mut whole = [first, &last[ETH + 20..]].concat();
    let length = u16::try_from(whole.len() - ETH).unwrap();
    whole[ETH + 2..ETH + 4].copy_from_slice(&length.to_be_bytes());
    make_fragment(&mut whole, false, 0);
    whole
}

fn redirected(host: &mut Host, at: At, frame: &[u8]) -> Vec<u8> {
    let (action, frame) = host.run_raw(at, frame);
    assert_eq!(action, Action::Redirect);
    frame
}

#[test]
fn parts_of_a_datagram_are_translated_alike() {
    on_host(|host| {
        let sample = from_a(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        let [first, last] = parts(&sample, 7);
        let (first, last) = (redirected(host, A, &first), redirected(host, A, &last));
        let out = joined(&first, &last);
        verify::checksums(&out).unwrap();
        let sent = Sample::read(&out).unwrap();
        assert_eq!(sent.src, V4.uplink.parse::<std::net::IpAddr>().unwrap());
        assert_eq!(first[ETH + 12..ETH + 20], last[ETH + 12..ETH + 20]);
        assert_eq!(last[ETH + 20..], [0x5a; 16], "data is not taken for ports");
        // And the answer.
        let [first, last] = parts(&sent.answer(0), 8);
        let first = redirected(host, At::Uplink, &first);
        let last = redirected(host, At::Uplink, &last);
        let back = joined(&first, &last);
        verify::checksums(&back).unwrap();
        assert_eq!(Sample::read(&back).unwrap().ports(), (53, 1000));
        assert_eq!(host.flows().len(), 1);
    });
}

#[test]
fn a_part_that_overtakes_the_first_is_dropped_by_name() {
    on_host(|host| {
        let sample = from_a(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        let [first, last] = parts(&sample, 7);
        host.run(A, &last).dropped("fragment");
        redirected(host, A, &first);
        redirected(host, A, &last);
        // Of another datagram, and of another sender.
        let [_, foreign] = parts(&sample, 8);
        host.run(A, &foreign).dropped("fragment");
        // From outside it is left to the host, which may be whom it is for.
        host.publish(Proto::Udp, V4.any, 53, 0, 53);
        let dialled = Sample::new(V4.remote, V4.uplink, L4::Udp(9, 53));
        let [first, last] = parts(&dialled, 9);
        assert_eq!(host.run_raw(At::Uplink, &last).0, Action::Pass);
        redirected(host, At::Uplink, &first);
        redirected(host, At::Uplink, &last);
    });
}
