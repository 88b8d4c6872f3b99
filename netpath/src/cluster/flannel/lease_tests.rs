//! Tests of flannel's leases.

use proptest::prelude::*;

use super::*;

fn config() -> Config {
    Config::parse(br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap()
}

fn attributes(last: u8) -> Attributes {
    Attributes {
        public_ip: Ipv4Addr::new(192, 0, 2, last),
        public_ipv6: None,
        backend_type: BACKEND.into(),
        backend_data: Some(BackendData {
            vni: 1,
            vtep_mac: Mac([2, 0, 0, 0, 0, last]),
        }),
        backend_v6_data: None,
    }
}

fn lease(subnet: &str, last: u8) -> Lease {
    Lease {
        subnets: vec![subnet.parse().unwrap()],
        attributes: attributes(last),
        revision: i64::from(last),
        lease: 1,
    }
}

#[test]
fn leases_are_read_as_flannel_writes_them() {
    let value = br#"{"PublicIP":"192.168.0.2","PublicIPv6":null,"BackendType":"vxlan",
        "BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}}"#;
    let lease = Lease::parse("10.5.34.0-24", value, 3, 4).unwrap();
    let peers = lease.peers().unwrap();
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].subnet.to_string(), "10.5.34.0/24");
    assert_eq!(peers[0].vtep.to_string(), "192.168.0.2");
    assert_eq!(peers[0].mac.to_string(), "aa:bb:cc:dd:ee:ff");

    let value = br#"{"PublicIP":"192.168.0.2","PublicIPv6":"fd00::2","BackendType":"vxlan",
        "BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"},
        "BackendV6Data":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:fe"}}"#;
    let lease = Lease::parse("10.5.34.0-24&fc00:0:0:22::-64", value, 3, 4).unwrap();
    let peers = lease.peers().unwrap();
    assert_eq!(peers[1].subnet.to_string(), "fc00:0:0:22::/64");
    assert_eq!(peers[1].vtep.to_string(), "fd00::2");
    assert_eq!(key_of(&lease.subnets), "10.5.34.0-24&fc00:0:0:22::-64");
}

#[test]
fn leases_that_lead_nowhere_are_named() {
    let other = br#"{"PublicIP":"192.168.0.2","BackendType":"host-gw"}"#;
    let error = Lease::parse("10.5.34.0-24", other, 1, 1).unwrap().peers();
    assert!(error.unwrap_err().to_string().contains("host-gw"));
    let bare = br#"{"PublicIP":"192.168.0.2","BackendType":"vxlan"}"#;
    assert!(
        Lease::parse("10.5.34.0-24", bare, 1, 1)
            .unwrap()
            .peers()
            .is_err()
    );
    for key in [
        "",
        "10.5.34.0",
        "10.5.34.1-24",
        "fc00::-64",
        "10.5.0.0-24&10.6.0.0-24",
        "x-24",
    ] {
        assert!(Lease::parse(key, bare, 1, 1).is_err(), "{key}");
    }
}

#[test]
fn a_host_keeps_its_subnet() {
    let leases = [lease("10.5.3.0/24", 1), lease("10.5.4.0/24", 2)];
    let step = choose(&config(), &leases, &attributes(2), &[], 0).unwrap();
    assert_eq!(step, Step::Renew(vec!["10.5.4.0/24".parse().unwrap()], 2));
    // Lost, and still free: the same again.
    let previous = ["10.5.4.0/24".parse().unwrap()];
    let step = choose(&config(), &leases[..1], &attributes(2), &previous, 0).unwrap();
    assert_eq!(step, Step::Take(previous.to_vec()));
    // Lost, and somebody else's by now: another one.
    let step = choose(&config(), &leases, &attributes(3), &previous, 0).unwrap();
    assert_eq!(step, Step::Take(vec!["10.5.1.0/24".parse().unwrap()]));
    // The network was changed.
    let leases = [lease("10.9.4.0/24", 2)];
    let step = choose(&config(), &leases, &attributes(2), &[], 0).unwrap();
    assert!(matches!(step, Step::GiveBack(..)));
}

#[test]
fn the_lease_of_flanneld_on_this_host_is_left_alone() {
    let mut theirs = lease("10.5.3.0/24", 2);
    theirs.attributes.backend_data = Some(BackendData {
        vni: 1,
        vtep_mac: Mac([2, 9, 9, 9, 9, 9]),
    });
    let error = choose(&config(), &[theirs], &attributes(2), &[], 0).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("10.5.3.0-24") && text.contains("192.0.2.2"),
        "{text}"
    );
}

#[test]
fn tools_find_what_they_look_for() {
    let text = subnet_env(&config(), &["10.5.34.0/24".parse().unwrap()], 1450, false);
    assert_eq!(
        text,
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\nFLANNEL_MTU=1450\n\
         FLANNEL_IPMASQ=false\n"
    );
}

proptest! {
    /// However hosts come and go, no subnet has two of them, until none is free.
    #[test]
    fn subnets_are_unique(steps in proptest::collection::vec((0u8..40, any::<bool>(), any::<u64>()), 0..120)) {
        let text = br#"{"Network":"10.5.0.0/24","SubnetLen":28,"Backend":{"Type":"vxlan"}}"#;
        let config = Config::parse(text).unwrap();
        let mut leases: Vec<Lease> = Vec::new();
        for (host, leaves, random) in steps {
            if leaves {
                leases.retain(|lease| lease.attributes != attributes(host));
                continue;
            }
            match choose(&config, &leases, &attributes(host), &[], random) {
                Ok(Step::Take(subnets)) => {
                    prop_assert!(config.ranges[0].has(&subnets[0]));
                    prop_assert!(leases.iter().all(|other| other.subnets != subnets));
                    leases.push(Lease { subnets, ..lease("10.5.0.0/28", host) });
                }
                Ok(Step::Renew(subnets, _)) => {
                    prop_assert!(leases.iter().any(|l| l.subnets == subnets && l.attributes == attributes(host)));
                }
                Ok(Step::GiveBack(..)) => prop_assert!(false, "nothing was out of range"),
                Err(_) => prop_assert_eq!(leases.len(), 15),
            }
        }
    }

    #[test]
    fn anything_is_read_without_a_panic(
        key in "[0-9a-f.:&/-]{0,24}",
        value in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        if let Ok(lease) = Lease::parse(&key, &value, 0, 0) {
            let _ = lease.peers();
        }
        let _ = Config::parse(&value);
        let _ = parse_key(&key);
    }
}
