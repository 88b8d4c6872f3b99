//! Membership in a flannel network. The other hosts are configured as flanneld does it: a vxlan
//! device, and for each lease a neighbour, a forwarding entry and a route.

use std::fs;
use std::path::Path;

use netpath_tests::command::{finish_within, run, start};
use netpath_tests::inside::serve;
use netpath_tests::lab::eventually;

use super::world::{World, talk};

const PREFIX: &str = "/coreos.com/network";
const CONFIG: &str =
    r#"{"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":1}}"#;
/// A network of both families.
const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fd05::/48","IPv6SubnetLen":64,"Backend":{"Type":"vxlan","VNI":1}}"#;
/// The MAC addresses of the devices of the host that runs flannel, one a family.
const THEIR_MAC: &str = "aa:bb:cc:dd:ee:0e";
/// See [`THEIR_MAC`].
const THEIR_MAC6: &str = "aa:bb:cc:dd:ee:06";
/// A lease lasts a day.
const DAY: i64 = 86_400;

/// Two hosts, the first a node, the second one that flanneld serves.
struct Flannel {
    world: World,
    subnet_file: String,
}

impl Flannel {
    #[track_caller]
    fn new(config: &str) -> Self {
        let mut world = World::without_agents(2, &["--cluster-lease", "5"]);
        world
            .etcd
            .ctl(&["put", &format!("{PREFIX}/config"), config])
            .ok();
        world.node("a").start_agent();
        let file = world.etcd.folder().join("subnet.env");
        Self {
            world,
            subnet_file: file.display().to_string(),
        }
    }

    /// Makes node a's network `f`.
    #[track_caller]
    fn join(&mut self) {
        let file = format!("subnet_file={}", self.subnet_file);
        let create = ["network", "create", "-d", "flannel", "--opt", &file, "f"];
        self.world.node("a").netpath(&create).ok();
    }

    /// The key and the value of node a's lease.
    #[track_caller]
    fn lease(&self) -> Option<(String, serde_json::Value)> {
        let keys = self.world.etcd.keys(&format!("{PREFIX}/subnets/"));
        keys.into_iter().find_map(|key| {
            let value = self.world.etcd.get(&key);
            let value: serde_json::Value = serde_json::from_str(&value).ok()?;
            (value["PublicIP"] == "192.0.2.1").then_some((key, value))
        })
    }

    /// The subnets that the key of node a's lease names, without their lengths.
    #[track_caller]
    fn own_subnets(&self) -> Vec<String> {
        let (key, _) = self.lease().expect("a lease");
        let subnets = key.rsplit('/').next().expect("subnets").split('&');
        let address = |subnet: &str| {
            subnet
                .rsplit_once('-')
                .map(|(address, _)| address.to_owned())
        };
        subnets.filter_map(address).collect()
    }

    /// A command on the host of flannel.
    #[track_caller]
    fn theirs(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        self.world.hosts[1].host(&words).ok()
    }

    /// Has flannel's host do what flanneld does: its lease, its device, and the way to node a's.
    #[track_caller]
    fn start_theirs(&mut self, subnet: &str) {
        let value = format!(
            r#"{{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{THEIR_MAC}"}}}}"#
        );
        let key = format!("{PREFIX}/subnets/{subnet}-24");
        self.world.etcd.ctl(&["put", &key, &value]).ok();
        self.start_devices(subnet);
    }

    /// See [`Self::start_theirs`].
    #[track_caller]
    fn start_devices(&mut self, subnet: &str) {
        for line in [
            "ip link add flannel.1 type vxlan id 1 dev uplink0 local 192.0.2.2 dstport 8472 \
             nolearning",
            &format!("ip link set flannel.1 address {THEIR_MAC}"),
            "ip link set flannel.1 mtu 1450 up",
            &format!("ip addr add {subnet}/32 dev flannel.1"),
            "sysctl -qw net.ipv4.ip_forward=1",
        ] {
            self.theirs(line);
        }
        // A pod, by a bridge as the CNI plugin makes one.
        let pod = self.pod();
        let first = first_of(subnet, 1);
        run(command(&["ip", "netns", "add", &pod])).ok();
        for line in [
            "ip link add cni0 type bridge".to_owned(),
            format!("ip addr add {first}/24 dev cni0"),
            "ip link set cni0 mtu 1450 up".into(),
            format!("ip link add pod0 mtu 1450 type veth peer name eth0 netns {pod} mtu 1450"),
            "ip link set pod0 master cni0 up".into(),
        ] {
            self.theirs(&line);
        }
        for line in [
            "ip link set lo up".to_owned(),
            format!("ip addr add {}/24 dev eth0", first_of(subnet, 2)),
            "ip link set eth0 up".into(),
            format!("ip route add default via {first}"),
        ] {
            self.in_pod(&line);
        }
        let (_, ours) = self.lease().expect("a lease");
        let ours_subnet = self.own_subnets().swap_remove(0);
        let mac = ours["BackendData"]["VtepMAC"]
            .as_str()
            .expect("a MAC address");
        for line in [
            format!("ip neigh replace {ours_subnet} lladdr {mac} dev flannel.1 nud permanent"),
            format!("bridge fdb replace {mac} dev flannel.1 dst 192.0.2.1 self permanent"),
            format!("ip route replace {ours_subnet}/24 via {ours_subnet} dev flannel.1 onlink"),
        ] {
            self.theirs(&line);
        }
    }

    /// The same for a network of both families, where flannel has a second device.
    #[track_caller]
    fn start_theirs_dual(&mut self, subnet: &str, subnet6: &str) {
        let value = format!(
            r#"{{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8:1::2","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{THEIR_MAC}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{THEIR_MAC6}"}}}}"#
        );
        let key = format!("{PREFIX}/subnets/{subnet}-24&{subnet6}-64");
        self.world.etcd.ctl(&["put", &key, &value]).ok();
        self.start_devices(subnet);
        let (_, ours) = self.lease().expect("a lease");
        assert_eq!(ours["PublicIPv6"], "2001:db8:1::1");
        let mac = ours["BackendV6Data"]["VtepMAC"].as_str();
        let mac = mac.expect("a MAC address");
        let ours_subnet = self.own_subnets().swap_remove(1);
        for line in [
            "ip link add flannel-v6.1 type vxlan id 1 dev uplink0 local 2001:db8:1::2 \
             dstport 8472 nolearning",
            &format!("ip link set flannel-v6.1 address {THEIR_MAC6}"),
            "ip link set flannel-v6.1 mtu 1430 up",
            &format!("ip addr add {subnet6}/128 dev flannel-v6.1 nodad"),
            &format!("ip addr add {subnet6}1/64 dev cni0 nodad"),
            "sysctl -qw net.ipv6.conf.all.forwarding=1",
            &format!("ip neigh replace {ours_subnet} lladdr {mac} dev flannel-v6.1 nud permanent"),
            &format!("bridge fdb replace {mac} dev flannel-v6.1 dst 2001:db8:1::1 self permanent"),
            &format!("ip route replace {ours_subnet}/64 via {ours_subnet} dev flannel-v6.1 onlink"),
        ] {
            self.theirs(line);
        }
        for line in [
            format!("ip addr add {subnet6}2/64 dev eth0 nodad"),
            format!("ip -6 route add default via {subnet6}1"),
        ] {
            self.in_pod(&line);
        }
    }

    fn pod(&self) -> String {
        let netns = self.world.hosts.switch_netns();
        let switch = Path::new(&netns).file_name().expect("a name");
        format!("{}-pod", switch.to_string_lossy())
    }

    fn pod_netns(&self) -> String {
        format!("/run/netns/{}", self.pod())
    }

    #[track_caller]
    fn in_pod(&self, line: &str) -> String {
        let netns = format!("--net={}", self.pod_netns());
        let mut words = vec!["nsenter", &netns, "--"];
        words.extend(line.split(' '));
        run(command(&words)).ok()
    }
}

impl Drop for Flannel {
    fn drop(&mut self) {
        let _ = run(command(&["ip", "netns", "del", &self.pod()]));
    }
}

fn command(words: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// An address of a /24.
fn first_of(subnet: &str, last: u8) -> String {
    let (start, _) = subnet.rsplit_once('.').expect("an address");
    format!("{start}.{last}")
}

/// What is left of the lease of a key, in seconds.
#[track_caller]
fn time_to_live(flannel: &Flannel, key: &str) -> i64 {
    let json = flannel.world.etcd.ctl(&["get", "-w", "json", key]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let lease = json["kvs"][0]["lease"].as_i64().expect("a lease");
    let lease = format!("{lease:x}");
    let text = flannel
        .world
        .etcd
        .ctl(&["lease", "timetolive", "-w", "json", &lease])
        .ok();
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["ttl"].as_i64().expect("a time")
}

#[test]
fn a_lease_is_taken_as_flannel_takes_it() {
    let mut flannel = Flannel::new(CONFIG);
    flannel.join();
    let (key, lease) = flannel.lease().expect("a lease");
    assert_eq!(lease["BackendType"], "vxlan");
    assert_eq!(lease["PublicIPv6"], serde_json::Value::Null);
    assert_eq!(lease["BackendData"]["VNI"], 1);
    let left = time_to_live(&flannel, &key);
    assert!((DAY - 60..=DAY).contains(&left), "{left} s");
    let subnet = key.rsplit('/').next().expect("a subnet").replace("-24", "");
    let file = fs::read_to_string(&flannel.subnet_file).expect("a file");
    for line in [
        "FLANNEL_NETWORK=10.5.0.0/16".to_owned(),
        format!("FLANNEL_SUBNET={}/24", first_of(&subnet, 1)),
        "FLANNEL_MTU=1450".into(),
        "FLANNEL_IPMASQ=true".into(),
    ] {
        assert!(file.lines().any(|found| found == line), "{line} in {file}");
    }
    // The next agent goes on with it, and renews it; removing the network gives it back.
    flannel.world.node("a").kill_agent();
    eventually("a second passes", || time_to_live(&flannel, &key) < left);
    let left = time_to_live(&flannel, &key);
    flannel.world.node("a").start_agent();
    eventually("the lease is kept", || {
        flannel
            .world
            .node("a")
            .agent_log()
            .contains("this host has")
    });
    assert_eq!(flannel.lease().expect("the lease").0, key);
    assert!(time_to_live(&flannel, &key) > left);
    flannel
        .world
        .node("a")
        .netpath(&["network", "rm", "f"])
        .ok();
    assert!(flannel.lease().is_none());
    assert!(!Path::new(&flannel.subnet_file).exists());
}

#[test]
fn containers_and_pods_reach_each_other_untranslated() {
    let mut flannel = Flannel::new(CONFIG);
    flannel.join();
    flannel.start_theirs("10.5.34.0");
    flannel.world.run("a", "on-a", "f");
    let ours = flannel.world.node("a").address("on-a", false);
    let ours_netns = flannel.world.node("a").namespace_of("on-a");
    eventually("the pod is reached", || {
        flannel.world.pings("a", "on-a", "10.5.34.2")
    });
    let pod = flannel.pod_netns();
    talk(
        &pod,
        "pod",
        "10.5.34.2",
        80,
        std::slice::from_ref(&ours_netns),
    );
    talk(
        &ours_netns,
        "container",
        &ours,
        80,
        std::slice::from_ref(&pod),
    );
    // Nobody translates within the network: the server sees the client's own address.
    serve(&pod, "seen", [81]);
    let seen = netpath_tests::inside::ask_tcp(&ours_netns, "10.5.34.2", 81).expect("an answer");
    assert_eq!(seen, format!("seen 81 {ours}"));
    // To the outside it is masqueraded.
    let outside = flannel.world.hosts.switch_netns();
    serve(&outside, "outside", [82]);
    let seen = netpath_tests::inside::ask_tcp(&ours_netns, "192.0.2.254", 82).expect("an answer");
    assert_eq!(seen, "outside 82 192.0.2.1");
    // A host reaches the other's pods with the address of its device.
    flannel.theirs(&format!("ping -c 1 -W 2 {ours}"));
    let ping = ["ping", "-c", "1", "-W", "2", "10.5.34.2"];
    flannel.world.node("a").host(&ping).ok();
    for (server, client, address) in [
        (&pod, &ours_netns, "10.5.34.2"),
        (&ours_netns, &pod, &*ours),
    ] {
        fetch(server, client, address);
    }
}

/// Fetches 100 MB from one namespace in another, and compares the hash.
#[track_caller]
fn fetch(server: &str, client: &str, address: &str) {
    const SCRIPT: &str = "import http.server,hashlib,os,socket\n\
         data=os.urandom(1<<20)*100\n\
         class H(http.server.BaseHTTPRequestHandler):\n \
         def do_GET(s):\n  s.send_response(200)\n  s.send_header('Content-Length',str(len(data)))\n  \
         s.send_header('X-Hash',hashlib.sha256(data).hexdigest())\n  s.end_headers()\n  \
         s.wfile.write(data)\n \
         def log_message(s,*a): pass\n\
         http.server.HTTPServer.address_family=socket.AF_INET6\n\
         http.server.HTTPServer(('::',8000),H).serve_forever()";
    let netns = |netns: &str| format!("--net={netns}");
    let serve = ["nsenter", &netns(server), "--", "python3", "-c", SCRIPT];
    let mut child = start(command(&serve));
    let host = match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    };
    let script = format!(
        "set -e; for i in $(seq 50); do nc -z {address} 8000 && break; sleep 0.2; done; \
         d=$(mktemp -d); trap 'rm -rf $d' EXIT; \
         curl -sS -g -m 60 -D $d/h -o $d/b http://{host}:8000/; \
         grep -qi \"x-hash: $(sha256sum $d/b | cut -d' ' -f1)\" $d/h"
    );
    let got = ["nsenter", &netns(client), "--", "sh", "-c", &script];
    let got = finish_within(start(command(&got)), std::time::Duration::from_secs(90));
    let _ = child.kill();
    let _ = child.wait();
    got.ok();
}

/// Flannel has a device a family: IPv6 packets go through the IPv6 underlay.
#[test]
fn a_network_of_both_families_has_a_tunnel_for_each() {
    let mut flannel = Flannel::new(DUAL);
    flannel.join();
    let subnets = flannel.own_subnets();
    let file = fs::read_to_string(&flannel.subnet_file).expect("a file");
    for line in [
        "FLANNEL_NETWORK=10.5.0.0/16".to_owned(),
        "FLANNEL_IPV6_NETWORK=fd05::/48".into(),
        format!("FLANNEL_SUBNET={}/24", first_of(&subnets[0], 1)),
        format!("FLANNEL_IPV6_SUBNET={}1/64", subnets[1]),
    ] {
        assert!(file.lines().any(|found| found == line), "{line} in {file}");
    }
    flannel.start_theirs_dual("10.5.34.0", "fd05:0:0:22::");
    flannel.world.run("a", "on-a", "f");
    let host = flannel.world.node("a");
    let ours = [false, true].map(|v6| host.address("on-a", v6));
    let (ours_netns, pod) = (host.namespace_of("on-a"), flannel.pod_netns());
    let theirs = ["10.5.34.2", "fd05:0:0:22::2"];
    for (nth, port) in [(0, 80), (1, 81)] {
        eventually("the pod is reached", || {
            flannel.world.pings("a", "on-a", theirs[nth])
        });
        talk(
            &pod,
            "pod",
            theirs[nth],
            port,
            std::slice::from_ref(&ours_netns),
        );
        talk(
            &ours_netns,
            "ours",
            &ours[nth],
            port,
            std::slice::from_ref(&pod),
        );
        // Nobody translates within the network.
        let seen = netpath_tests::inside::ask_tcp(&ours_netns, theirs[nth], port);
        let expected = format!("pod {port} {}", ours[nth]);
        assert_eq!(seen.expect("an answer"), expected);
    }
    fetch(&pod, &ours_netns, theirs[1]);
    fetch(&ours_netns, &pod, &ours[1]);
    let rows = flannel.world.node("a").json(&["tunnels"]);
    for vtep in ["192.0.2.2", "2001:db8:1::2"] {
        let mut rows = rows.as_array().expect("rows").iter();
        let row = rows.find(|row| row["vtep"] == vtep);
        let counts = row.map(|row| {
            (
                row["sent_packets"].as_u64(),
                row["received_packets"].as_u64(),
            )
        });
        let (sent, received) = counts.expect("the tunnel");
        assert!(
            sent > Some(2) && received > Some(2),
            "{vtep}: {sent:?}, {received:?}"
        );
    }
}

#[test]
fn a_lost_lease_is_taken_again_and_a_lost_peer_is_forgotten() {
    let mut flannel = Flannel::new(CONFIG);
    flannel.join();
    flannel.start_theirs("10.5.34.0");
    flannel.world.run("a", "on-a", "f");
    eventually("the pod is reached", || {
        flannel.world.pings("a", "on-a", "10.5.34.2")
    });
    let (key, value) = flannel.lease().expect("a lease");
    flannel.world.etcd.ctl(&["del", &key]).ok();
    eventually("the lease is taken again", || {
        flannel
            .lease()
            .is_some_and(|lease| lease == (key.clone(), value.clone()))
    });
    assert!(flannel.world.pings("a", "on-a", "10.5.34.2"));
    // An outage and a compaction change nothing for peers that are there.
    flannel.world.etcd.kill();
    assert!(flannel.world.pings("a", "on-a", "10.5.34.2"));
    flannel.world.etcd.start_again();
    let revision = flannel.world.etcd.revision().to_string();
    flannel.world.etcd.ctl(&["compact", &revision]).ok();
    assert!(flannel.world.pings("a", "on-a", "10.5.34.2"));
    eventually("the store is back", || {
        flannel.world.node("a").json(&["nodes"])["cluster"]["problem"].is_null()
    });
    eventually("a lost peer is forgotten", || {
        let key = format!("{PREFIX}/subnets/10.5.34.0-24");
        flannel.world.etcd.ctl(&["del", &key]).ok();
        !flannel.world.pings("a", "on-a", "10.5.34.2")
    });
}

#[test]
fn what_flannel_does_not_want_is_refused_in_a_sentence() {
    let mut flannel = Flannel::new(CONFIG);
    let create = |flannel: &mut Flannel| {
        let file = format!("subnet_file={}", flannel.subnet_file);
        let create = ["network", "create", "-d", "flannel", "--opt", &file, "f"];
        flannel.world.node("a").netpath(&create).refused()
    };
    let config = format!("{PREFIX}/config");
    for (value, part) in [
        (r#"{"Network":"10.5.0.0/16"}"#, "Backend.Type"),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
            "host-gw",
        ),
        ("{", "configuration"),
    ] {
        flannel.world.etcd.ctl(&["put", &config, value]).ok();
        let said = create(&mut flannel);
        assert!(said.contains(part), "{value}: {said}");
    }
    flannel.world.etcd.ctl(&["del", &config]).ok();
    let said = create(&mut flannel);
    assert!(
        said.contains("no flannel network at /coreos.com/network"),
        "{said}"
    );
    // flanneld serves this host already.
    flannel.world.etcd.ctl(&["put", &config, CONFIG]).ok();
    let key = format!("{PREFIX}/subnets/10.5.9.0-24");
    let theirs = format!(
        r#"{{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{THEIR_MAC}"}}}}"#
    );
    flannel.world.etcd.ctl(&["put", &key, &theirs]).ok();
    let said = create(&mut flannel);
    assert!(said.contains("flanneld serves this host already"), "{said}");
    assert_eq!(flannel.world.etcd.get(&key), theirs);
    flannel.world.etcd.ctl(&["del", &key]).ok();
    // A peer of another backend is passed over.
    let other = theirs
        .replace("192.0.2.1", "192.0.2.7")
        .replace("vxlan", "host-gw");
    flannel.world.etcd.ctl(&["put", &key, &other]).ok();
    flannel.join();
    eventually("it is named", || {
        let log = flannel.world.node("a").agent_log();
        log.contains("10.5.9.0-24") && log.contains("passed over")
    });
}

#[test]
fn two_hosts_get_two_subnets() {
    let mut world = World::without_agents(2, &[]);
    world
        .etcd
        .ctl(&["put", &format!("{PREFIX}/config"), CONFIG])
        .ok();
    for node in ["a", "b"] {
        world.node(node).start_agent();
    }
    let files: Vec<String> = ["a", "b"]
        .iter()
        .map(|node| format!("subnet_file={}/{node}.env", world.etcd.folder().display()))
        .collect();
    let creating: Vec<_> = ["a", "b"]
        .iter()
        .zip(&files)
        .map(|(node, file)| {
            let create = ["network", "create", "-d", "flannel", "--opt", file, "f"];
            start(world.node(node).netpath_command(&create))
        })
        .collect();
    for child in creating {
        finish_within(child, std::time::Duration::from_secs(60)).ok();
    }
    assert_eq!(world.etcd.keys(&format!("{PREFIX}/subnets/")).len(), 2);
    for node in ["a", "b"] {
        world.run(node, &format!("on-{node}"), "f");
    }
    let address = world.node("b").address("on-b", false);
    eventually("two members reach each other", || {
        world.pings("a", "on-a", &address)
    });
}
