//! What an interface, or a container's whole network, is told beside its addresses.

use netpath_tests::lab::{Lab, OUT4, OUT6};

use crate::{connection, interfaces, network, way_out};

const OFF: &str = "net.ipv6.conf.all.disable_ipv6=1";

fn sysctl(lab: &Lab, name: &str, path: &str) -> String {
    let file = format!("/proc/sys/net/{path}");
    lab.exec(name, &["cat", &file]).ok().trim().to_owned()
}

#[test]
fn interfaces_have_names_and_settings_that_were_asked_for() {
    let lab = Lab::new();
    network(&lab, "one", 81, &[]);
    network(&lab, "two", 82, &[]);
    lab.run(
        "box",
        &[
            "--network",
            "name=one,driver-opt=com.docker.network.endpoint.ifname=lan0,\
             driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1",
            "--sysctl",
            "net.ipv4.tcp_keepalive_time=77",
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start=99",
        ],
        &["sleep", "600"],
    );
    assert_eq!(interfaces(&lab, "box"), ["lo", "lan0"]);
    assert_eq!(sysctl(&lab, "box", "ipv4/conf/lan0/log_martians"), "1");
    assert_eq!(sysctl(&lab, "box", "ipv4/tcp_keepalive_time"), "77");
    assert_eq!(sysctl(&lab, "box", "ipv4/ip_unprivileged_port_start"), "99");
    assert_ne!(
        lab.host(&["cat", "/proc/sys/net/ipv4/tcp_keepalive_time"])
            .ok(),
        "77\n"
    );
    for out in [OUT4, OUT6] {
        lab.exec("box", &["ping", "-c1", "-W3", out]).ok();
    }
    let state = || (lab.json(&["ps", "-a"]), interfaces(&lab, "box"));
    let before = state();
    let both = "net.ipv4.conf.IFNAME.rp_filter=2,net.ipv6.conf.IFNAME.hop_limit=33";
    let settings = format!("sysctls={both}");
    for (options, part) in [
        (&["ifname=lan0"][..], "lan0"),
        (&["ifname=a/b"], "a/b"),
        (
            &["ifname=lan1", "sysctls=net.ipv4.conf.IFNAME.banana=1"],
            "banana",
        ),
        (
            &["ifname=lan1", "sysctls=net.ipv4.conf.IFNAME.mtu=tomato"],
            "mtu",
        ),
        (&["sysctls=net.ipv4.conf.eth0.rp_filter=1"], "IFNAME"),
        (&["sysctls=net.ipv4.ip_forward=1"], "ip_forward"),
        (&["banana=1"], "banana"),
    ] {
        let mut args = vec!["network", "connect"];
        args.extend(options.iter().flat_map(|option| ["--driver-opt", option]));
        args.extend(["two", "box"]);
        let refused = lab.netpath(&args).refused();
        assert!(refused.contains(part), "{options:?}: {refused}");
        assert_eq!(state(), before, "{options:?}");
    }
    let args = ["--driver-opt", "ifname=wan7", "--driver-opt", &settings];
    lab.netpath(&[&["network", "connect"][..], &args, &["two", "box"]].concat())
        .ok();
    assert_eq!(connection(&lab, "box", "two")["interface"], "wan7");
    assert_eq!(sysctl(&lab, "box", "ipv4/conf/wan7/rp_filter"), "2");
    assert_eq!(sysctl(&lab, "box", "ipv6/conf/wan7/hop_limit"), "33");
    for (options, part) in [
        (&["--sysctl", "kernel.shmmax=1"][..], "kernel.shmmax"),
        (
            &["--sysctl", "net.ipv4.conf.eth7.rp_filter=1"],
            "no setting",
        ),
        (
            &["--sysctl", "net.ipv4.tcp_keepalive_time=tomato"],
            "tomato",
        ),
        (&["--sysctl", "net.../.x=1"], "net.../.x"),
        (&["--sysctl", "net.ipv4.x"], "net.ipv4.x"),
        (
            &["--network", "host", "--sysctl", "net.ipv4.ip_forward=1"],
            "host",
        ),
        (
            &[
                "--network",
                "container:box",
                "--sysctl",
                "net.ipv4.ip_forward=1",
            ],
            "box",
        ),
    ] {
        let before = state();
        let args = [&["run"][..], options, &["--", "true"]].concat();
        let refused = lab.netpath(&args).refused();
        assert!(refused.contains(part), "{options:?}: {refused}");
        assert_eq!(state(), before, "{options:?}");
    }
}

#[test]
fn without_ipv6_a_container_has_ipv4_alone() {
    let mut lab = Lab::new();
    network(&lab, "one", 81, &[]);
    network(&lab, "two", 82, &[]);
    lab.netpath(&["network", "create", "six", "--ipv4=false", "--ipv6"])
        .ok();
    let ask = |lab: &Lab, name: &str, of: &str| {
        let asked = lab.exec(name, &["dig", "+short", "+timeout=3", "AAAA", of]);
        asked.ok().lines().any(|line| line.starts_with("fd"))
    };
    lab.run("peer", &["--network", "one"], &["sleep", "600"]);
    lab.run(
        "four",
        &["--network", "one", "--sysctl", OFF],
        &["sleep", "600"],
    );
    let has = |lab: &Lab, name: &str| lab.exec(name, &["ip", "-6", "addr"]).ok();
    assert_eq!(has(&lab, "four"), "");
    let shown = connection(&lab, "four", "one")["addresses"].clone();
    assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown}");
    lab.exec("four", &["ping", "-c1", "-W3", OUT4]).ok();
    lab.exec("four", &["ping", "-c1", "-W3", "peer"]).ok();
    // Nobody is told of an address that it has not.
    assert!(ask(&lab, "four", "peer") && !ask(&lab, "peer", "four"));
    lab.netpath(&["network", "connect", "--gw-priority", "1", "two", "four"])
        .ok();
    assert_eq!(has(&lab, "four"), "");
    assert_eq!(way_out(&lab, "four", false).as_deref(), Some("eth1"));
    lab.exec("four", &["ping", "-c1", "-W3", OUT4]).ok();
    for args in [&["six", "four"][..], &["--ip6", "fd82::9", "two", "four"]] {
        lab.netpath(&["network", "disconnect", "-f", args[args.len() - 2], "four"]);
        let refused = lab
            .netpath(&[&["network", "connect"], args].concat())
            .refused();
        assert!(
            refused.contains("IPv6 is switched off in container four"),
            "{refused}"
        );
    }
    // One whose command does so while it runs, and a namespace of somebody else.
    lab.run("late", &["--network", "one"], &["sleep", "600"]);
    let guest = lab.add_namespace("guest");
    let own = format!("--net={guest}");
    for command in [
        &["netpath-exec"][..],
        &["nsenter", &own, "sysctl", "-qw", OFF],
    ] {
        match command {
            ["netpath-exec"] => lab.exec("late", &["sysctl", "-qw", OFF]),
            command => lab.host(command),
        }
        .ok();
    }
    lab.netpath(&[
        "attach",
        "--name",
        "guest",
        "--netns",
        &guest,
        "--network",
        "one",
    ])
    .ok();
    for name in ["late", "guest"] {
        lab.netpath(&["network", "connect", "--gw-priority", "1", "two", name])
            .ok();
        assert_eq!(has(&lab, name), "", "{name}");
        assert_eq!(
            way_out(&lab, name, false).as_deref(),
            Some("eth1"),
            "{name}"
        );
        lab.exec(name, &["ping", "-c1", "-W3", OUT4]).ok();
        lab.netpath(&["network", "disconnect", "two", name]).ok();
        assert_eq!(
            way_out(&lab, name, false).as_deref(),
            Some("eth0"),
            "{name}"
        );
        lab.exec(name, &["ping", "-c1", "-W3", OUT4]).ok();
    }
}

/// Docker's networks have no routes of their own; what a container makes inside is its own.
#[test]
fn routes_that_a_container_makes_are_its_own() {
    let mut lab = Lab::new();
    network(&lab, "one", 81, &[]);
    network(&lab, "two", 82, &[]);
    network(&lab, "inner", 83, &["--internal"]);
    lab.run("box", &["--network", "one"], &["sleep", "600"]);
    lab.run("closed", &["--network", "inner"], &["sleep", "600"]);
    assert_eq!(
        lab.exec("closed", &["ip", "route", "show", "default"]).ok(),
        ""
    );
    let made = [
        "198.51.100.0/24 via 10.81.0.1",
        "blackhole 203.0.113.0/24",
        "default via 10.81.0.1 dev eth0 metric 700",
    ];
    for route in made {
        let mut args = vec!["ip", "route", "add"];
        args.extend(route.split(' '));
        lab.exec("box", &args).ok();
    }
    let check = |lab: &Lab| {
        let routes = lab.exec("box", &["ip", "route"]).ok();
        for route in made {
            assert!(routes.contains(route), "{route}: {routes}");
        }
        lab.exec("box", &["ping", "-c1", "-W3", OUT4]).ok();
        let hole = lab.exec("box", &["ping", "-c1", "-W1", "203.0.113.7"]);
        assert_ne!(hole.code, Some(0), "{hole:?}");
    };
    check(&lab);
    lab.netpath(&["network", "connect", "--gw-priority", "1", "two", "box"])
        .ok();
    check(&lab);
    lab.kill_agent();
    lab.start_agent();
    check(&lab);
    lab.netpath(&["network", "disconnect", "two", "box"]).ok();
    check(&lab);
}

/// The kernel's table of neighbours is one for all: one container that fills it must not take the
/// gateway from the others.
#[test]
fn gateways_are_known_for_good() {
    let lab = Lab::new();
    network(&lab, "one", 81, &[]);
    network(&lab, "two", 82, &[]);
    lab.run("box", &["--network", "one"], &["sleep", "600"]);
    lab.netpath(&["network", "connect", "two", "box"]).ok();
    let known = lab
        .exec("box", &["ip", "neigh", "show", "nud", "permanent"])
        .ok();
    for (gateway, device) in [
        ("10.81.0.1", "eth0"),
        ("fd81::1", "eth0"),
        ("10.82.0.1", "eth1"),
        ("fd82::1", "eth1"),
    ] {
        let line = known
            .lines()
            .find(|line| line.starts_with(&format!("{gateway} ")));
        let line = line.unwrap_or_else(|| panic!("{gateway}: {known}"));
        assert!(line.contains(&format!("dev {device} lladdr")), "{line}");
        lab.exec("box", &["ping", "-c1", "-W3", gateway]).ok();
    }
}
