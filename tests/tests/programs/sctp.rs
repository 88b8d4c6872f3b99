//! SCTP: addresses are translated, ports and checksum stay.
//!
//! Whether checksums are right is checked by the laboratory after each packet, by an
//! implementation of its own.

use netpath_common::tuple::Proto;
use netpath_tests::packets::{
    ABORT, COOKIE_ECHO, DATA, INIT, INIT_ACK, L4, SHUTDOWN, SHUTDOWN_ACK, Sample, ip,
};
use netpath_tests::progrun::{Action, At, FAMILIES, Host, from_a, on_host};
use netpath_tests::verify;

const A: At = At::Container(0);

fn state(host: &Host) -> String {
    let rows = host.flows();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0].proto, "sctp");
    rows[0].state.clone()
}

#[test]
fn an_association_goes_out_with_its_port_and_unchanged_checksum() {
    for family in FAMILIES {
        on_host(|host| {
            let sample = |chunk| Sample::new(family.a, family.remote, L4::Sctp(1000, 2000, chunk));
            let outside = host.out(&sample(INIT));
            assert_eq!(
                (outside.src, outside.ports()),
                (ip(family.uplink), (1000, 2000))
            );
            verify::checksums(&outside.bytes()).unwrap();
            assert_eq!(state(host), "syn_sent");
            let inside = host.inward(&outside.answer(INIT_ACK));
            assert_eq!((inside.dst, inside.ports()), (ip(family.a), (2000, 1000)));
            assert_eq!(state(host), "syn_received");
            host.out(&sample(COOKIE_ECHO));
            assert_eq!(state(host), "established");
            host.inward(&outside.answer(DATA));
            assert_eq!(state(host), "established");
            host.out(&sample(SHUTDOWN));
            assert_eq!(state(host), "closing");
            host.inward(&outside.answer(SHUTDOWN_ACK));
            assert_eq!(state(host), "closed");
            // The same ports again.
            host.out(&sample(INIT));
            assert_eq!(state(host), "syn_sent");
            host.inward(&outside.answer(ABORT));
            assert_eq!(state(host), "reset");
        });
    }
}

#[test]
fn strays_make_no_association() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Sctp, family.any, 8080, 0, 8080);
            for chunk in [INIT_ACK, COOKIE_ECHO, DATA, ABORT, SHUTDOWN, SHUTDOWN_ACK] {
                let out = Sample::new(family.a, family.remote, L4::Sctp(1000, 2000, chunk));
                host.run(A, &from_a(&out).bytes()).dropped("no_flow");
                let l4 = L4::Sctp(1000, 8080, chunk);
                let inward = Sample::new(family.remote, family.uplink, l4);
                let run = host.run(At::Uplink, &inward.bytes());
                assert_eq!(run.action, Action::Pass);
            }
            // An INIT whose tag is not 0 is none (RFC 9260, 8.5.1).
            let out = Sample::new(family.a, family.remote, L4::Sctp(1000, 2000, INIT));
            let mut frame = from_a(&out).bytes();
            let tag = frame.len() - out.payload.len() - 28;
            frame[tag] = 1;
            host.run(A, &frame).dropped("malformed");
        }
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn two_containers_cannot_have_one_sctp_port() {
    on_host(|host| {
        for family in FAMILIES {
            let l4 = L4::Sctp(1000, 2000, INIT);
            host.out(&Sample::new(family.a, family.remote, l4));
            let b = Sample::new(family.b, family.remote, l4).macs(
                netpath_tests::progrun::MAC_B,
                netpath_tests::progrun::MAC_GATEWAY,
            );
            host.run(At::Container(1), &b.bytes()).dropped("port_fixed");
            // To another destination the port is free.
            let elsewhere = L4::Sctp(1000, 2001, INIT);
            let b = Sample::new(family.b, family.remote, elsewhere).macs(
                netpath_tests::progrun::MAC_B,
                netpath_tests::progrun::MAC_GATEWAY,
            );
            assert_eq!(
                host.run(At::Container(1), &b.bytes()).sent().ports().0,
                1000
            );
        }
    });
}

#[test]
fn a_published_sctp_port_keeps_its_number() {
    on_host(|host| {
        for family in FAMILIES {
            host.publish(Proto::Sctp, family.any, 8080, 0, 8080);
            host.publish(Proto::Sctp, family.any, 8081, 0, 80);
            let dial =
                |port, chunk| Sample::new(family.remote, family.uplink, L4::Sctp(700, port, chunk));
            let inside = host.inward(&dial(8080, INIT));
            assert_eq!((inside.dst, inside.ports()), (ip(family.a), (700, 8080)));
            let outside = host.out(&inside.answer(INIT_ACK));
            assert_eq!(
                (outside.src, outside.ports()),
                (ip(family.uplink), (8080, 700))
            );
            // Another number would need another checksum.
            host.run(At::Uplink, &dial(8081, INIT).bytes())
                .dropped("port_fixed");
        }
        assert_eq!(host.flows().len(), 2);
    });
}
