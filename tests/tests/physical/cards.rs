//! `netpath attach --parent`: an interface on the physical network for a container that runs.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::thread;

use netpath_tests::lab::{HOST4, Lab, OUT4, OUT6, UPLINK, eventually, run};

use super::{KINDS, STACKED, as_opt, mac_of, ping, short_ping};

/// A container in a network of its own.
fn lab_with_container() -> Lab {
    let lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    lab
}

const PARENT: [&str; 3] = ["attach", "--parent", UPLINK];

/// The network namespace of a process, by its inode number.
fn netns_of(pid: u32) -> Option<u64> {
    let file = std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
    Some(file.ino())
}

/// Waits until a process has a network namespace of its own: on its way there it is in the test's,
/// and in the host's.
#[track_caller]
fn await_own_netns(lab: &Lab, pid: u32) {
    let before = [std::process::id(), lab.agent_pid()].map(netns_of);
    eventually("it has a namespace of its own", || {
        !before.contains(&netns_of(pid))
    });
}

#[track_caller]
fn attach(lab: &Lab, words: &[&str]) -> String {
    lab.netpath(&[&PARENT[..], words].concat()).ok()
}

#[test]
fn a_running_container_gets_one_more_interface() {
    for driver in ["underlay", "macvlan"] {
        let lab = lab_with_container();
        let words = [
            "--ip",
            "192.0.2.10/24,2001:db8:1::10/64",
            "--route",
            "198.51.100.0/24@192.0.2.2",
            "--mac",
            "U:box",
            "-d",
            driver,
            "box",
        ];
        assert_eq!(attach(&lab, &words), "box eth1\n");
        lab.outside(&ping("192.0.2.10")).ok();
        lab.outside(&ping("2001:db8:1::10")).ok();
        lab.exec("box", &ping(OUT6)).ok();
        // md5 of "box" begins with 34be958a92.
        assert_eq!(mac_of(&lab, "box", "eth1"), "02:34:be:95:8a:92");
        let routes = lab.exec("box", &["ip", "route"]).ok();
        assert!(
            routes.contains("198.51.100.0/24 via 192.0.2.2 dev eth1"),
            "{routes}"
        );
        // Its way out is its network's, as before.
        assert!(
            routes.contains("default via 10.88.0.1 dev eth0"),
            "{routes}"
        );
        let cards = lab.json(&["cards"]);
        assert_eq!(cards[0]["owner"], "box");
        assert_eq!(cards[0]["addresses"][0], "192.0.2.10/24");
        // A second one, by a name of the user's, which is its way out now.
        let words = [
            "--ip",
            "192.0.2.11/24@192.0.2.2",
            "--interface",
            "wan",
            "-d",
            driver,
            "box",
        ];
        assert_eq!(attach(&lab, &words), "box wan\n");
        let routes = lab.exec("box", &["ip", "route"]).ok();
        assert!(routes.contains("default via 192.0.2.2 dev wan"), "{routes}");
        // One goes, the other stays.
        lab.netpath(&["detach", "box", "wan"]).ok();
        let links = lab.exec("box", &["ip", "-o", "link"]).ok();
        assert!(links.contains("eth1") && !links.contains("wan"), "{links}");
        lab.outside(&ping("192.0.2.10")).ok();
        let routes = lab.exec("box", &["ip", "route"]).ok();
        assert!(
            routes.contains("default via 10.88.0.1 dev eth0"),
            "{routes}"
        );
        lab.netpath(&["detach", "box"]).ok();
        assert_eq!(lab.json(&["cards"]).as_array().map(Vec::len), Some(0));
        let refused = lab.netpath(&["detach", "box"]).refused();
        assert!(refused.contains("nothing was added to box"), "{refused}");
    }
}

#[test]
fn namespaces_and_processes_get_one_too() {
    let mut lab = Lab::new();
    let netns = lab.add_namespace("foreign");
    attach(
        &lab,
        &[
            "--ip",
            "192.0.2.10/24",
            "--netns",
            &netns,
            "--name",
            "foreign",
        ],
    );
    lab.outside(&ping("192.0.2.10")).ok();
    let unshared = lab.host_command(&["unshare", "--net", "sleep", "600"]);
    let helper = lab.spawn(unshared);
    let pid = lab.helper_pid(helper).to_string();
    await_own_netns(&lab, lab.helper_pid(helper));
    attach(&lab, &["--ip", "192.0.2.11/24", "--pid", &pid]);
    lab.outside(&ping("192.0.2.11")).ok();
    let refused = lab
        .netpath(&[&PARENT[..], &["--ip", "0/0", "--netns", &lab.host_netns()]].concat())
        .refused();
    assert!(refused.contains("of the host"), "{refused}");
    // It goes with its process.
    lab.host(&["kill", "-9", &pid]).ok();
    eventually("the card is gone", || {
        lab.json(&["cards"]).as_array().map(Vec::len) == Some(1)
    });
    assert_ne!(lab.outside(&short_ping("192.0.2.11")).code, Some(0));
}

#[test]
fn none_means_none_and_whatever_is_set_inside_works() {
    let lab = lab_with_container();
    attach(&lab, &["--ip", "0/0", "--interface", "lan", "box"]);
    let text = lab.exec("box", &["ip", "-4", "addr", "show", "lan"]).ok();
    assert!(!text.contains("inet "), "{text}");
    for command in [
        &["ip", "addr", "add", "192.0.2.10/24", "dev", "lan"][..],
        // As with pipework's `route` and `rule`, from inside.
        &[
            "ip",
            "route",
            "add",
            "198.51.100.0/24",
            "via",
            OUT4,
            "table",
            "7",
        ],
        &["ip", "rule", "add", "from", "192.0.2.10", "table", "7"],
    ] {
        lab.exec("box", command).ok();
    }
    lab.outside(&ping("192.0.2.10")).ok();
    lab.exec("box", &ping(OUT4)).ok();
    lab.host(&ping("192.0.2.10")).ok();
}

#[test]
fn it_outlives_the_agent_and_ends_with_its_container() {
    let mut lab = lab_with_container();
    for (name, driver) in [("eth1", "underlay"), ("eth2", "underlay")] {
        let address = if name == "eth1" {
            "192.0.2.10/24"
        } else {
            "192.0.2.11/24"
        };
        attach(
            &lab,
            &["--ip", address, "--interface", name, "-d", driver, "box"],
        );
    }
    lab.kill_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    lab.start_agent();
    lab.outside(&ping("192.0.2.10")).ok();
    assert_eq!(lab.json(&["cards"]).as_array().map(Vec::len), Some(2));
    lab.netpath(&["detach", "box", "eth1"]).ok();
    lab.netpath(&["rm", "-f", "box"]).ok();
    eventually("the other goes with its container", || {
        lab.json(&["cards"]).as_array().map(Vec::len) == Some(0)
    });
    let links = lab.host(&["ip", "-o", "link"]).ok();
    assert!(!links.contains("npv"), "{links}");
    lab.host(&ping(OUT4)).ok();
}

#[test]
fn it_goes_with_its_container_though_the_host_sees_nothing() {
    // Neither a network nor the driver has a device of the host's, whose end would be seen.
    let lab = Lab::new();
    for is_removed in [true, false] {
        lab.run("box", &["--network", "none"], &["sleep", "600"]);
        attach(&lab, &["--ip", "192.0.2.10/24", "-d", "macvlan", "box"]);
        lab.outside(&ping("192.0.2.10")).ok();
        if is_removed {
            lab.netpath(&["rm", "-f", "box"]).ok();
            assert_eq!(lab.json(&["cards"]).as_array().map(Vec::len), Some(0));
        } else {
            let pid = lab.json(&["ps"])[0]["pid"].to_string();
            lab.host(&["kill", "-9", &pid]).ok();
            eventually("the card is gone", || {
                lab.json(&["cards"]).as_array().map(Vec::len) == Some(0)
            });
        }
        assert_ne!(lab.outside(&short_ping("192.0.2.10")).code, Some(0));
    }
}

#[test]
fn it_goes_with_the_process_that_named_it() {
    for (driver, options) in KINDS {
        let mut lab = Lab::new();
        // The namespace has a name besides, so it does not end with the process.
        let netns = lab.add_namespace("foreign");
        let sleep = ["nsenter", &format!("--net={netns}"), "sleep", "600"];
        let helper = lab.spawn(lab.host_command(&sleep));
        let pid = lab.helper_pid(helper).to_string();
        let words = ["--ip", "192.0.2.10/24", "-d", driver, "--pid", &pid];
        let wanted = std::fs::metadata(&netns).expect("a namespace").ino();
        eventually("it is in its namespace", || {
            netns_of(lab.helper_pid(helper)) == Some(wanted)
        });
        attach(&lab, &[&words[..], &as_opt(options)].concat());
        lab.outside(&ping("192.0.2.10")).ok();
        let inside = |words: &[&str]| {
            let net = format!("--net={netns}");
            lab.host(&[&["nsenter", &net], words].concat())
        };
        assert!(inside(&["ip", "link", "show", "eth1"]).code == Some(0));
        lab.host(&["kill", "-9", &pid]).ok();
        eventually("the card is gone", || {
            lab.json(&["cards"]).as_array().map(Vec::len) == Some(0)
        });
        assert_ne!(lab.outside(&short_ping("192.0.2.10")).code, Some(0));
        let left = inside(&["ip", "link", "show", "eth1"]);
        assert_ne!(left.code, Some(0), "{driver}: {left:?}");
    }
}

#[test]
fn a_containers_card_is_made_anew_when_somebody_removes_it() {
    for options in [&[][..], &STACKED] {
        let lab = lab_with_container();
        let words = ["--ip", "192.0.2.10/24", "box"];
        attach(&lab, &[&words[..], &as_opt(options)].concat());
        lab.exec("box", &["ip", "link", "del", "eth1"]).ok();
        // Of a device inside the host hears nothing; whatever happens to one of its own is a
        // reason to look.
        lab.host(&["ip", "link", "add", "other0", "type", "veth"])
            .ok();
        eventually("it is back", || {
            lab.outside(&short_ping("192.0.2.10")).code == Some(0)
        });
    }
}

#[test]
fn containers_of_docker_are_found_by_name() {
    let mut lab = Lab::new();
    let unshared = lab.host_command(&["unshare", "--net", "sleep", "600"]);
    let helper = lab.spawn(unshared);
    let pid = lab.helper_pid(helper);
    await_own_netns(&lab, pid);
    let socket = lab.dir().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    // A daemon that knows one container.
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let length = client.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let (status, body) = if request.starts_with("GET /containers/web/json ") {
                ("200 OK", format!(r#"{{"State":{{"Pid":{pid}}}}}"#))
            } else if request.starts_with("GET /containers/ended/json ") {
                ("200 OK", r#"{"State":{"Pid":0}}"#.to_owned())
            } else {
                ("404 Not Found", "{}".to_owned())
            };
            let length = body.len();
            let _ = write!(
                client,
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: \
                 {length}\r\n\r\n{body}"
            );
        }
    });
    let ask = |host: &str, name: &str| {
        let words = [&PARENT[..], &["--ip", "192.0.2.10/24", name]].concat();
        let mut command = lab.netpath_command(&words);
        command.env("DOCKER_HOST", host);
        run(command)
    };
    let daemon = format!("unix://{}", socket.display());
    ask(&daemon, "web").ok();
    lab.outside(&ping("192.0.2.10")).ok();
    assert_eq!(lab.json(&["cards"])[0]["owner"], "web");
    for (host, name, part) in [
        (&*daemon, "ended", "does not run"),
        (
            &*daemon,
            "other",
            "neither netpath nor Docker has a container other",
        ),
        (
            "tcp://10.0.0.1:2375",
            "web2",
            "only containers of this machine",
        ),
        ("unix:///nowhere.sock", "web2", "no container is named web2"),
    ] {
        let refused = ask(host, name).refused();
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let lab = lab_with_container();
    for (words, part) in [
        (&["--ip", "192.0.2.10", "box"][..], "192.0.2.10/24"),
        (&["--ip", "192.0.2.10/24"], "name a container"),
        (&["--ip", "192.0.2.10/24", "nobody"], "nobody"),
        (
            &["--ip", "192.0.2.10/24", "--interface", "eth0", "box"],
            "interface eth0 already",
        ),
        (
            &["--ip", "192.0.2.10/24", "--interface", "a/b", "box"],
            "cannot name an interface",
        ),
        (
            &["--ip", "192.0.2.10/24", "--mac", "01:00:00:00:00:00", "box"],
            "of a group",
        ),
        (
            &["--ip", "192.0.2.10/24", "--route", "x", "box"],
            "is no route",
        ),
        (
            &["--ip", "192.0.2.10/24", "--mtu", "9001", "box"],
            "mtu 9001",
        ),
        (
            &["--ip", "192.0.2.10/24,192.0.2.11/24", "box"],
            "one IPv4 address",
        ),
        (
            &["--ip", "192.0.2.10/24", "-d", "bridge", "box"],
            "shares no card",
        ),
        (&["--ip", "dhcp", "-d", "ipvlan", "box"], "DHCP"),
        (
            &["--ip", "192.0.2.10/24", "-o", "macvlan_mode=l2", "box"],
            "macvlan_mode",
        ),
        // A route by a router that nobody has a way to.
        (
            &[
                "--ip",
                "192.0.2.10/24",
                "--route",
                "198.51.100.0/24@10.99.0.1",
                "box",
            ],
            "route",
        ),
    ] {
        let refused = lab.netpath(&[&PARENT[..], words].concat()).refused();
        assert!(refused.contains(part), "{words:?}: {refused}");
        assert_eq!(
            lab.json(&["cards"]).as_array().map(Vec::len),
            Some(0),
            "{words:?}"
        );
    }
    for parent in ["nowhere0", "uplink0@5000"] {
        let words = ["attach", "--parent", parent, "--ip", "0/0", "box"];
        lab.netpath(&words).refused();
    }
    let links = lab.exec("box", &["ip", "-o", "link"]).ok();
    assert!(!links.contains("eth1"), "{links}");
    lab.host(&ping(OUT4)).ok();
    lab.outside(&ping(HOST4)).ok();
}
