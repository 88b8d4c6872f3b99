//! Names of gateway devices and of interfaces.

use netpath_tests::lab::Lab;

use crate::{create, inspect};

#[test]
fn devices_have_the_names_that_were_asked_for() {
    let mut lab = Lab::new();
    let option = "com.docker.network.bridge.name=lan0";
    create(&lab, &["net", "-o", option, "--subnet", "10.88.0.0/24"]);
    lab.host(&["ip", "addr", "show", "dev", "lan0", "to", "10.88.0.1"])
        .ok();
    assert_eq!(
        inspect(&lab, "net")["Options"]["com.docker.network.bridge.name"],
        "lan0"
    );
    lab.run("box", &["--network", "net"], &["sleep", "600"]);
    lab.exec("box", &["ping", "-c", "1", "-W", "2", "192.0.2.2"])
        .ok();
    for (option, part) in [
        ("name=lan0", "exists already"),
        ("name=uplink0", "exists already"),
        ("name=np-br9", "netpath's own choice"),
        ("name=a/b", "not the name of an interface"),
    ] {
        let sentence = lab
            .netpath(&["network", "create", "more", "-o", option])
            .refused();
        assert!(sentence.contains(part), "{option}: {sentence}");
    }
    lab.kill_agent();
    lab.start_agent();
    lab.exec("box", &["ping", "-c", "1", "-W", "2", "192.0.2.2"])
        .ok();
    lab.netpath(&["rm", "-f", "box"]).ok();
    lab.netpath(&["network", "rm", "net"]).ok();
    let links = lab.host(&["ip", "-o", "link"]).ok();
    assert!(!links.contains("lan0"), "{links}");
    create(&lab, &["net", "-o", option]);
    lab.purge().ok();
    let links = lab.host(&["ip", "-o", "link"]).ok();
    assert!(!links.contains("lan0"), "{links}");
}

#[test]
fn interfaces_begin_with_what_the_network_says() {
    let lab = Lab::new();
    let option = "com.docker.network.container_iface_prefix=lan";
    create(&lab, &["net", "-o", option, "--subnet", "10.88.0.0/24"]);
    create(&lab, &["other", "--subnet", "10.89.0.0/24"]);
    let args = ["--network", "net", "--ip", "10.88.0.9", "-p", "8080:80"];
    lab.run("box", &args, &["sleep", "600"]);
    lab.netpath(&["network", "connect", "other", "box"]).ok();
    for (device, prefix) in [("lan0", "10.88.0.9/24"), ("eth0", "10.89.0.2/24")] {
        let shown = lab.exec("box", &["ip", "-o", "addr", "show", device]).ok();
        assert!(shown.contains(prefix), "{shown}");
    }
    lab.exec("box", &["ping", "-c", "1", "-W", "2", "192.0.2.2"])
        .ok();
    let field = |template: &str| {
        let shown = lab.netpath(&["inspect", "--format", template, "box"]).ok();
        shown.trim().to_owned()
    };
    for (template, value) in [
        ("{{.NetworkSettings.Networks.net.IPAddress}}", "10.88.0.9"),
        ("{{.NetworkSettings.Networks.other.IPPrefixLen}}", "24"),
        ("{{.State.Running}} {{.Name}}", "true /box"),
        (
            "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
            "8080",
        ),
        (
            "{{range $name, $net := .NetworkSettings.Networks}}{{$name}} {{end}}",
            "net other",
        ),
    ] {
        assert_eq!(field(template), value, "{template}");
    }
    lab.netpath(&["inspect", "--format", "{{.Name", "box"])
        .refused();
}
