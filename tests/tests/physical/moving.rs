//! A container that moves to another host with its address: how soon its neighbours hear of it,
//! and how soon they reach it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netpath_tests::capture::{Capture, Frame};
use netpath_tests::lab::{Lab, eventually};

use super::two_hosts::{TRUNK, container, two_hosts};
use super::{mac_of, mac_on, ping};

/// How long after `netpath run` has returned neighbours may take. The command is not measured:
/// it starts a process, which takes as long as a busy machine lets it. Announcements are on their
/// way when it returns, so all of this is for whoever has to wait for a processor.
const SOON: Duration = Duration::from_secs(1);

/// The addresses of the container that moves.
const MOVING4: &str = "10.101.0.1";
const MOVING6: &str = "fd00:101::1";

#[test]
fn a_container_that_moves_is_reached_within_a_second() {
    a_container_moves("underlay", &[], None);
}

#[test]
fn a_routed_container_that_moves_is_reached_within_a_second() {
    a_container_moves("underlay", &["-o", "mode=l3"], None);
}

#[test]
fn a_container_with_the_kernels_device_that_moves_is_reached_within_a_second() {
    a_container_moves("underlay", &super::STACKED, None);
}

#[test]
fn a_container_of_macvlan_that_moves_is_reached_within_a_second() {
    a_container_moves("macvlan", &[], None);
}

#[test]
fn a_switch_learns_where_a_mac_address_has_moved() {
    a_container_moves("underlay", &[], Some("02:00:00:00:77:01"));
}

fn a_container_moves(driver: &str, options: &[&str], mac: Option<&str>) {
    let routed = options.contains(&"mode=l3");
    let (mut one, two, switch) = two_hosts();
    let machine = add_machine(&mut one, &switch);
    for (lab, number) in [(&one, 251), (&two, 252)] {
        make_network(lab, number, driver, options);
    }
    start(&one, mac);
    container(&one, "near", "lan", 3);
    container(&two, "far", "lan", 4);
    let on_machine =
        |words: &[&str]| one.host(&[&["nsenter", &format!("--net={machine}")], words].concat());
    for address in [MOVING4, MOVING6] {
        on_machine(&ping(address)).ok();
        one.exec("near", &ping(address)).ok();
        two.exec("far", &ping(address)).ok();
    }
    // What the wire takes for its MAC address.
    let mac_on_wire = |lab: &Lab| match routed {
        true => mac_on(lab, TRUNK),
        false => mac_of(lab, "web", "eth0"),
    };
    let old = mac_on_wire(&one);
    let heard = Capture::start(&machine, "eth0", "arp or (icmp6 and ip6[40] == 136)");
    let others = [
        Pings::start(&one, &machine, MOVING4),
        Pings::start(&one, &machine, MOVING6),
        Pings::start(&one, &one.namespace_of("near"), MOVING4),
        Pings::start(&two, &two.namespace_of("far"), MOVING4),
    ];
    for pings in &others {
        eventually("it is reached before", || !pings.answers().is_empty());
    }
    one.netpath(&["rm", "-f", "web"]).ok();
    for address in [MOVING4, MOVING6] {
        let known = on_machine(&["ip", "neigh", "show", address]).ok();
        assert!(known.contains(&old), "the machine has it as {old}: {known}");
    }
    let asked = SystemTime::now();
    start(&two, mac);
    let returned = SystemTime::now();
    let new = mac_on_wire(&two);
    assert_eq!(old == new, mac.is_some());
    for address in [MOVING4, MOVING6] {
        let told = |frame: &Frame| frame.at > asked && announces(&frame.bytes, &new, address);
        let mut first = None;
        eventually("the wire is told", || {
            first = heard.frames().into_iter().find(told);
            first.is_some()
        });
        check_soon(
            &format!("the wire hears of {address}"),
            returned,
            first.map(|f| f.at),
        );
    }
    for pings in &others {
        let mut first = None;
        eventually("it is reached again", || {
            first = pings.answers().into_iter().find(|at| *at > asked);
            first.is_some()
        });
        check_soon(&format!("{} is reached", pings.what), returned, first);
    }
    // The machine has it where it is now.
    for address in [MOVING4, MOVING6] {
        let known = on_machine(&["ip", "neigh", "show", address]).ok();
        assert!(known.contains(&new), "the machine has it as {new}: {known}");
    }
}

#[test]
fn a_routed_container_that_is_gone_is_not_announced_any_more() {
    let (mut one, _two, switch) = two_hosts();
    let machine = add_machine(&mut one, &switch);
    make_network(&one, 251, "underlay", &["-o", "mode=l3"]);
    let heard = Capture::start(&machine, "eth0", "arp or (icmp6 and ip6[40] == 136)");
    let card = mac_on(&one, TRUNK);
    let announced = || {
        let frames = heard.frames();
        let ours = |frame: &&Frame| announces(&frame.bytes, &card, MOVING4);
        frames.iter().filter(ours).map(|frame| frame.at).max()
    };
    start(&one, None);
    eventually("it is announced", || announced().is_some());
    one.netpath(&["rm", "-f", "web"]).ok();
    let gone = SystemTime::now();
    // The third time would be a second and a half after the first.
    thread::sleep(Duration::from_millis(1800));
    let last = announced().expect("an announcement");
    assert!(
        last <= gone,
        "it was announced when it was gone: {last:?} {gone:?}"
    );
}

/// A machine of the segment's own, with `eth0` on a port of the switch; returns its namespace.
fn add_machine(lab: &mut Lab, switch: &str) -> String {
    let path = lab.add_namespace("machine");
    let name = path.rsplit('/').next().expect("a name");
    let ip = |words: &[&str]| lab.host(&[&["ip"], words].concat()).ok();
    ip(&[
        "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", "port3", "netns",
        switch,
    ]);
    ip(&["-n", switch, "link", "set", "port3", "master", "br0", "up"]);
    ip(&["-n", name, "link", "set", "eth0", "up"]);
    ip(&["-n", name, "addr", "add", "10.101.0.9/24", "dev", "eth0"]);
    ip(&[
        "-n",
        name,
        "addr",
        "add",
        "fd00:101::9/64",
        "dev",
        "eth0",
        "nodad",
    ]);
    path
}

/// Makes network `lan` on the trunk of a host, which gets addresses of the segment: routed
/// packets go by its routes.
#[track_caller]
fn make_network(lab: &Lab, number: u8, driver: &str, options: &[&str]) {
    let v4 = format!("10.101.0.{number}/24");
    let v6 = format!("fd00:101::{number}/64");
    lab.host(&["ip", "addr", "add", &v4, "dev", TRUNK]).ok();
    lab.host(&["ip", "addr", "add", &v6, "dev", TRUNK, "nodad"])
        .ok();
    let parent = format!("parent={TRUNK}");
    let create = ["network", "create", "lan", "-d", driver, "-o", &parent];
    let subnets = ["--subnet", "10.101.0.0/24", "--subnet", "fd00:101::/64"];
    lab.netpath(&[&create[..], &subnets, options].concat()).ok();
}

/// Starts the container that moves.
#[track_caller]
fn start(lab: &Lab, mac: Option<&str>) {
    let mut options = vec!["--network", "lan", "--ip", MOVING4, "--ip6", MOVING6];
    if let Some(mac) = mac {
        options.extend(["--mac-address", mac]);
    }
    lab.run("web", &options, &["sleep", "600"]);
}

#[track_caller]
fn check_soon(what: &str, returned: SystemTime, at: Option<SystemTime>) {
    let at = at.expect("a time");
    // What was before the return was in time.
    let late = at.duration_since(returned).unwrap_or_default();
    assert!(late <= SOON, "{what} {late:?} after the command's return");
}

/// Whether a frame says to all neighbours that an address has a MAC address: an ARP request for
/// one's own address, or an advertisement that nobody asked for.
fn announces(frame: &[u8], mac: &str, address: &str) -> bool {
    let mac: Vec<u8> = mac
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).expect("a MAC address"))
        .collect();
    let is_group = frame.first().is_some_and(|byte| byte & 1 == 1);
    let at = |from: usize, to: usize| frame.get(from..to).unwrap_or_default();
    let speaks = match address.parse().expect("an address") {
        // Sender's and target's address.
        std::net::IpAddr::V4(ip) => {
            at(12, 14) == [0x08, 0x06] && at(28, 32) == ip.octets() && at(38, 42) == ip.octets()
        }
        // Type and target.
        std::net::IpAddr::V6(ip) => {
            at(12, 14) == [0x86, 0xdd] && at(54, 55) == [136] && at(62, 78) == ip.octets()
        }
    };
    is_group && speaks && at(6, 12) == mac
}

/// One ping after the other, each with a time.
struct Pings {
    what: String,
    file: PathBuf,
    ping: std::process::Child,
}

impl Pings {
    /// Starts them in a namespace, given by its file.
    fn start(lab: &Lab, netns: &str, address: &str) -> Self {
        let name = Path::new(netns).file_name().expect("a name");
        let what = format!("{}-{address}", name.display());
        let file = lab.dir().join(format!("{what}.pings"));
        let said = fs::File::create(&file).expect("a file");
        // A minute of them: the test ends long before, and whatever hangs does at last.
        let words = ["ping", "-D", "-n", "-i", "0.02", "-c", "3000", address];
        let net = format!("--net={netns}");
        let mut command = lab.host_command(&[&["nsenter", &net], &words[..]].concat());
        command
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(Stdio::null());
        let ping = command.spawn().expect("ping starts");
        Self { what, file, ping }
    }

    /// When there were answers: lines like `[1700000000.123456] 64 bytes from …`.
    fn answers(&self) -> Vec<SystemTime> {
        let said = fs::read_to_string(&self.file).unwrap_or_default();
        let answers = said.lines().filter(|line| line.contains("bytes from"));
        let times = answers.filter_map(|line| {
            let seconds = line.strip_prefix('[')?.split_once(']')?.0;
            Some(UNIX_EPOCH + Duration::from_secs_f64(seconds.parse().ok()?))
        });
        times.collect()
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        let _ = self.ping.kill();
        let _ = self.ping.wait();
    }
}
