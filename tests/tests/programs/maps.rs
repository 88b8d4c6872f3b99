//! Maps: what an operator reads, what the next agent takes over, what is removed when.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use netpath::datapath::{Datapath, DatapathOptions, Keep};
use netpath_common::config::Config;
use netpath_common::tuple::Proto;
use netpath_tests::lab::eventually;
use netpath_tests::packets::{L4, Sample, ip};
use netpath_tests::progrun::{
    Action, At, FAMILIES, Host, MAC_A, MAC_GATEWAY, Options, SNAT_PORTS, V4, V6, on_host,
    on_host_with, sh, spare_folder,
};
use netpath_tests::wire::Wire;
use serde_json::Value;

/// Maps that outlive the agent, by their names.
const MAPS: [&str; 32] = [
    "cards",
    "card_addrs",
    "card_macs",
    "segments",
    "stacked",
    "policies",
    "open_ports",
    "trusted",
    "kernel_flows",
    "config",
    "counters",
    "denied",
    "drops",
    "endpoints",
    "flows",
    "slots",
    "host_addrs",
    "networks",
    "ports",
    "receivers",
    "resolvers",
    "senders",
    "snat_retries",
    "sock_nat",
    "subnets",
    "uplinks",
    "veths",
    "remotes",
    "tunnels",
    "vteps",
    "vnis",
    "vtep_counts",
];

fn bpftool(arguments: &str) -> Value {
    serde_json::from_str(&sh(&format!("bpftool -j {arguments}"))).expect("JSON")
}

/// The entries of a pinned map as `bpftool` formats them.
fn dump(host: &Host, map: &str) -> Vec<Value> {
    let path = host.folder().join(map);
    let Value::Array(rows) = bpftool(&format!("map dump pinned {}", path.display())) else {
        panic!("no list");
    };
    let formatted = |row: Value| row.get("formatted").expect("BTF is there").clone();
    rows.into_iter().map(formatted).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    names
}

/// The bytes of an address as the maps have it.
fn octets(text: &str) -> Value {
    let v6 = match ip(text) {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        std::net::IpAddr::V6(v6) => v6,
    };
    // In what form bpftool prints bytes depends on its version: compare numbers.
    Value::from(v6.octets().map(u64::from).to_vec())
}

/// The bytes of an address as bpftool prints them.
fn printed(value: &Value) -> Value {
    let number = |byte: &Value| match byte {
        Value::String(hex) => u64::from_str_radix(hex.trim_start_matches("0x"), 16).expect("hex"),
        other => other.as_u64().expect("a number"),
    };
    let bytes = value["octets"].as_array().expect("octets");
    Value::from(bytes.iter().map(number).collect::<Vec<_>>())
}

#[test]
fn every_pinned_map_has_its_name_and_type_information() {
    on_host(|host| {
        let mut expected: Vec<&str> = MAPS.to_vec();
        expected.push("links");
        expected.sort_unstable();
        let mut found = names(host.folder());
        let stages = found
            .iter()
            .filter(|name| name.starts_with("stages-"))
            .count();
        assert_eq!(stages, 1, "{found:?}");
        found.retain(|name| !name.starts_with("stages-"));
        assert_eq!(found, expected);
        for map in MAPS {
            let path = host.folder().join(map);
            let show = bpftool(&format!("map show pinned {}", path.display()));
            assert_eq!(show["name"], map);
            assert!(
                show["btf_id"].as_u64().is_some_and(|id| id > 0),
                "{map}: {show}"
            );
            // Whatever is in it can be formatted.
            dump(host, map);
        }
    });
}

#[test]
fn operators_read_flows_with_bpftool() {
    on_host(|host| {
        for family in FAMILIES {
            let sent = host.out(&Sample::new(family.a, family.remote, L4::Udp(1000, 53)));
            let port = sent.ports().0;
            let rows = dump(host, "flows");
            let find = |src: &str| {
                let own = |row: &&Value| printed(&row["key"]["src"]) == octets(src);
                rows.iter()
                    .find(own)
                    .unwrap_or_else(|| panic!("no {src} in {rows:?}"))
            };
            let out = find(family.a);
            assert_eq!(printed(&out["key"]["dst"]), octets(family.remote));
            assert_eq!(out["key"]["src_port"], 1000);
            assert_eq!(out["key"]["dst_port"], 53);
            assert_eq!(out["key"]["network"], 1);
            assert_eq!(out["key"]["proto"], "Udp");
            let value = &out["value"];
            assert_eq!(printed(&value["new_src"]), octets(family.uplink));
            assert_eq!(value["new_src_port"], port);
            assert_eq!(
                (&value["packets"], &value["kind"]),
                (&1.into(), &"Masquerade".into())
            );
            assert_eq!(value["state"], "OneWay");
            assert_eq!(
                (&value["to"], &value["direction"]),
                (&"Uplink".into(), &"Original".into())
            );
            assert_eq!(value["ifindex"], host.uplink);
            let back = find(family.remote);
            assert_eq!(
                (&back["key"]["dst_port"], &back["key"]["network"]),
                (&port.into(), &0.into())
            );
            assert_eq!(back["value"]["to"], "Container");
            assert_eq!(back["value"]["ifindex"], host.veths[0]);
        }
    });
}

#[test]
fn operators_read_ports_endpoints_and_drops_with_bpftool() {
    on_host(|host| {
        host.publish(Proto::Tcp, V4.any, 8080, 1, 80);
        let rows = dump(host, "ports");
        assert_eq!(rows.len(), 1);
        let (key, value) = (&rows[0]["key"], &rows[0]["value"]);
        assert_eq!((&key["port"], &key["proto"]), (&8080.into(), &"Tcp".into()));
        assert_eq!(printed(&key["addr"]), octets(V4.any));
        assert_eq!((&value["port"], &value["network"]), (&80.into(), &1.into()));
        assert_eq!(printed(&value["addr"]), octets(V4.b));

        let rows = dump(host, "endpoints");
        assert_eq!(rows.len(), 9, "three addresses a container");
        let own = |row: &&Value| printed(&row["key"]["addr"]) == octets(V6.a);
        let row = rows.iter().find(own).expect("container A");
        assert_eq!(row["value"]["ifindex"], host.veths[0]);
        assert_eq!(
            printed(&row["value"]["mac"]),
            Value::from(MAC_A.map(u64::from).to_vec())
        );

        let frame = Sample::new(V4.b, V4.a, L4::Udp(1, 2))
            .macs(MAC_A, MAC_GATEWAY)
            .bytes();
        host.run(At::Container(0), &frame).dropped("spoofed_source");
        // The kernel's own multicast listener reports are dropped at the gateways.
        let mut rows = dump(host, "drops");
        rows.retain(|row| row["key"]["hook"] == "Container");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["key"]["reason"], "SpoofedSource");
    });
}

#[test]
fn the_next_agent_takes_over_what_is_there() {
    on_host(|host| {
        host.publish(Proto::Udp, V4.any, 8080, 0, 80);
        let outside = host.out(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        let frame = Sample::new(V4.b, V4.a, L4::Udp(1, 2))
            .macs(MAC_A, MAC_GATEWAY)
            .bytes();
        host.run(At::Container(0), &frame).dropped("spoofed_source");
        let rows = |host: &Host| {
            let flows = host.flows().into_iter().map(|mut row| {
                row.idle = 0;
                row
            });
            let datapath = &host.datapath;
            (
                flows.collect::<Vec<_>>(),
                datapath.ports().unwrap(),
                datapath.endpoints().unwrap(),
                host.drops("container"),
                names(&host.folder().join("links")),
            )
        };
        let before = rows(host);
        host.reopen();
        assert_eq!(rows(host), before);
        // It says again what there is to be; nothing changes.
        let (uplink, veths) = (host.uplink, host.veths);
        host.datapath.attach_uplink(uplink).unwrap();
        for network in host.networks() {
            host.datapath.add_network(&network).unwrap();
        }
        for spec in host.endpoints() {
            host.datapath.add_endpoint(&spec).unwrap();
        }
        assert_eq!(rows(host), before);
        // A new container does not get an old one's slot.
        let slots: Vec<u32> = host
            .datapath
            .endpoints()
            .unwrap()
            .iter()
            .map(|e| e.slot)
            .collect();
        assert_eq!(slots.iter().max(), Some(&2));
        // And what was attached by wire still is: one program, which counts once.
        let seen = host.counter("container", "seen");
        Wire::open("cont1").send(
            &Sample::new(V4.a, V4.b, L4::Udp(1, 2))
                .macs(MAC_A, MAC_A)
                .bytes(),
        );
        eventually("it is counted", || host.counter("container", "seen") > seen);
        assert_eq!(host.counter("container", "seen"), seen + 1);
        // The flow goes on.
        assert_eq!(host.inward(&outside.answer(0)).dst, ip(V4.a));
        assert_eq!(veths.len(), 3);
    });
}

#[test]
fn what_nobody_owns_any_more_is_removed() {
    on_host(|host| {
        host.publish(Proto::Udp, V4.any, 8080, 0, 80);
        host.publish(Proto::Udp, V4.any, 8081, 1, 80);
        host.open_port(Proto::Udp, 1, V4.b, 80);
        host.out(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        host.reopen();
        let keep = Keep {
            uplinks: vec![host.uplink],
            gateways: vec![host.gateways[0]],
            veths: vec![host.veths[1]],
            ports: vec![],
            ..Keep::default()
        };
        host.datapath.retain(&keep).unwrap();
        assert_eq!(host.datapath.ports().unwrap(), []);
        let rows = host.datapath.endpoints().unwrap();
        assert!(
            rows.iter().all(|row| row.ifindex == host.veths[1]),
            "{rows:?}"
        );
        assert_eq!(rows.len(), 3);
        let mut links = vec![
            format!("container-{}", host.veths[1]),
            format!("gateway-{}", host.gateways[0]),
            format!("uplink-{}", host.uplink),
        ];
        links.sort();
        assert_eq!(names(&host.folder().join("links")), links);
        assert_eq!(dump(host, "networks").len(), 1);
        assert_eq!(dump(host, "policies").len(), 1);
        assert_eq!(dump(host, "open_ports").len(), 0);
        assert_eq!(dump(host, "subnets").len(), 2);
        assert_eq!(dump(host, "veths").len(), 1);
        // The flow of the container that is gone goes with the next sweep.
        assert_eq!(host.sweep().removed, 1);
        assert_eq!(host.flows(), []);
    });
}

#[test]
fn maps_of_another_layout_are_refused_and_left_alone() {
    on_host(|_| {
        let folder = spare_folder();
        let path = folder.path();
        fs::create_dir(path).unwrap();
        let flows = path.join("flows");
        sh(&format!(
            "bpftool map create {} type hash key 40 value 104 entries 16 name flows",
            flows.display()
        ));
        let options = DatapathOptions {
            bpffs: path.to_path_buf(),
            max_flows: 64,
            max_flows_per_endpoint: None,
            timeouts: netpath_common::config::Timeouts::DEFAULT,
            snat_ports: SNAT_PORTS,
            log: None,
        };
        let error = Datapath::open(&options).err().expect("refused");
        let text = format!("{error:#}");
        assert!(
            text.contains("another version") && text.contains("flows"),
            "{text}"
        );
        assert_eq!(
            bpftool(&format!("map show pinned {}", flows.display()))["bytes_value"],
            104
        );
    });
}

#[test]
fn purging_leaves_nothing() {
    on_host(|host| {
        let folder = host.folder().to_path_buf();
        let wire = Wire::open("cont1");
        let frame = Sample::new(V4.a, V4.b, L4::Udp(1, 2))
            .macs(MAC_A, MAC_A)
            .bytes();
        wire.send(&frame);
        eventually("it is counted", || host.counter("container", "seen") == 1);
        Datapath::purge(&folder).unwrap();
        assert!(!folder.exists());
        // Our own descriptors still reach the counters. The kernel detaches in its own time.
        eventually("nothing is attached", || {
            let seen = host.counter("container", "seen");
            wire.send(&frame);
            sleep(Duration::from_millis(50));
            host.counter("container", "seen") == seen
        });
        // A second time is fine.
        Datapath::purge(&folder).unwrap();
    });
}

/// Gives flows that nobody has answered this many seconds.
fn set_udp_timeouts(host: &Host, one_way: u32) {
    let map = MapData::from_pin(host.folder().join("config")).unwrap();
    let mut config: Array<MapData, Config> = Array::try_from(Map::Array(map)).unwrap();
    let mut record = config.get(&0, 0).unwrap();
    record.timeouts.udp_one_way = one_way;
    config.set(0, record, 0).unwrap();
}

#[test]
fn the_sweep_removes_idle_flows_only() {
    on_host(|host| {
        let sample = |family: &netpath_tests::progrun::Family, port| {
            Sample::new(family.a, family.remote, L4::Udp(port, 53))
        };
        for family in &FAMILIES {
            host.out(&sample(family, 1));
            host.out(&sample(family, 2));
            let outside = host.out(&sample(family, 3));
            host.inward(&outside.answer(0));
        }
        assert_eq!(host.sweep().removed, 0);
        set_udp_timeouts(host, 1);
        sleep(Duration::from_millis(2_100));
        for family in &FAMILIES {
            host.out(&sample(family, 2));
        }
        let report = host.sweep();
        assert_eq!((report.entries, report.removed), (12, 2));
        let mut left: Vec<String> = host.flows().into_iter().map(|row| row.source).collect();
        left.sort();
        assert_eq!(
            left,
            ["10.1.0.2:2", "10.1.0.2:3", "[fd01::2]:2", "[fd01::2]:3"]
        );
        // Both halves are gone.
        assert_eq!(dump(host, "flows").len(), 8);
    });
}

#[test]
fn the_sweep_takes_as_many_as_there_are() {
    on_host_with(
        Options {
            max_flows: 512,
            ..Options::default()
        },
        |host| {
            for port in 0..400 {
                host.out(&Sample::new(V6.a, V6.remote, L4::Udp(30_000 + port, 53)));
            }
            set_udp_timeouts(host, 0);
            sleep(Duration::from_millis(1_100));
            let report = host.sweep();
            assert_eq!((report.entries, report.removed), (800, 400));
            assert_eq!(dump(host, "flows").len(), 0);
        },
    );
}

#[test]
fn a_programs_own_flow_table_can_be_any_size() {
    on_host_with(
        Options {
            max_flows: 3,
            ..Options::default()
        },
        |host| {
            let path = host.folder().join("flows");
            let show = bpftool(&format!("map show pinned {}", path.display()));
            assert_eq!(show["max_entries"], 6);
            for port in 1..=3 {
                host.out(&Sample::new(V4.a, V4.remote, L4::Udp(port, 53)));
            }
            let fourth = Sample::new(V4.a, V4.remote, L4::Udp(4, 53)).macs(MAC_A, MAC_GATEWAY);
            assert_eq!(
                host.run(At::Container(0), &fourth.bytes()).action,
                Action::Drop
            );
        },
    );
}

#[test]
fn a_device_is_free_as_soon_as_it_is_detached() {
    on_host(|host| {
        let (uplink, veth) = (host.uplink, host.veths[0]);
        let [spec, ..] = host.endpoints();
        for round in 0..25 {
            host.datapath.remove_endpoint(veth).unwrap();
            let again = host.datapath.add_endpoint(&spec);
            again.unwrap_or_else(|e| panic!("container, round {round}: {e:#}"));
            host.datapath.detach_uplink(uplink).unwrap();
            let again = host.datapath.attach_uplink(uplink);
            again.unwrap_or_else(|e| panic!("uplink, round {round}: {e:#}"));
        }
    });
}

#[test]
fn each_of_a_hundred_thousand_entries_is_seen_once_while_others_are_deleted() {
    use aya::maps::{HashMap, Map, MapData};
    use netpath_common::flow::Flow;
    use netpath_common::tuple::Tuple;

    const CONNECTIONS: u16 = 50_000;
    let options = Options {
        max_flows: 60_000,
        ..Options::default()
    };
    on_host_with(options, |host| {
        let table = |host: &Host| -> HashMap<MapData, Tuple, Flow> {
            let map = MapData::from_pin(host.folder().join("flows")).unwrap();
            Map::HashMap(map).try_into().unwrap()
        };
        host.out(&Sample::new(V4.a, V4.remote, L4::Udp(1000, 53)));
        let mut flows = table(host);
        let samples: Vec<(Tuple, Flow)> = flows.iter().map(Result::unwrap).collect();
        for (key, _) in &samples {
            flows.remove(key).unwrap();
        }
        // Connections that differ in the far port; those of odd ports have long been silent.
        let pair = |port: u16| {
            samples.iter().map(move |(key, flow)| {
                let (mut key, mut flow) = (*key, *flow);
                if key.dst_port == 53 {
                    (key.dst_port, flow.new_dst_port) = (port, port);
                } else {
                    (key.src_port, flow.new_src_port) = (port, port);
                }
                if port % 2 == 1 {
                    flow.last_seen = 0;
                }
                (key, flow)
            })
        };
        for (key, flow) in (0..CONNECTIONS).flat_map(pair) {
            flows.insert(key, flow, 0).unwrap();
        }
        let mut seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                for (key, _) in (0..CONNECTIONS).filter(|port| port % 4 == 1).flat_map(pair) {
                    flows.remove(&key).unwrap();
                }
            });
            host.flows()
        });
        seen.retain(|row| {
            let port = row.destination.rsplit(':').next().unwrap();
            port.parse::<u16>().unwrap() % 4 != 1
        });
        let mut distinct: Vec<_> = seen.iter().map(|row| &row.destination).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let kept = usize::from(CONNECTIONS) / 4 * 3;
        assert_eq!((seen.len(), distinct.len()), (kept, kept));
        // The sweep takes the silent ones that are left, and no other.
        let report = host.sweep();
        let silent = usize::from(CONNECTIONS) / 4;
        assert_eq!((report.entries, report.removed), (2 * kept, silent));
        assert_eq!(host.flows().len(), usize::from(CONNECTIONS) / 2);
    });
}
