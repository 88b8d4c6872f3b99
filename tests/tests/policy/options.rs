//! Options: what they mean for ports, how they are shown, which are refused.

use netpath_tests::lab::{HOST4, HOST6, Lab};

use crate::{Client, Server, create, serve, web};

#[test]
fn ports_without_an_address_are_published_at_the_networks() {
    let lab = Lab::new();
    let option = format!("com.docker.network.bridge.host_binding_ipv4={HOST4}");
    create(&lab, "bound", 90, &["-o", &option]);
    let server = Server {
        name: "bound",
        number: 90,
        host_port: 8090,
    };
    serve(&lab, &server, true);
    web(&lab, Client::Outside, HOST4, 8090, true);
    web(&lab, Client::Outside, HOST6, 8090, false);
    web(&lab, Client::Host, "10.90.0.1", 8090, false);
    let port = lab.netpath(&["port", "bound"]).ok();
    assert_eq!(port, format!("80/tcp -> {HOST4}:8090\n"));
    // One that names an address has that.
    let run = ["run", "-d", "--network", "bound", "--name", "own"];
    let run = [&run[..], &["-p", "127.0.0.1:8089:80", "--", "sleep", "600"]].concat();
    lab.netpath(&run).ok();
    let port = lab.netpath(&["port", "own"]).ok();
    assert_eq!(port, "80/tcp -> 127.0.0.1:8089\n");
}

#[test]
fn the_policy_is_shown() {
    let lab = Lab::new();
    create(
        &lab,
        "net",
        88,
        &["--internal", "-o", "icc=false", "-o", "mtu=1400"],
    );
    create(&lab, "usual", 89, &[]);
    let network = &lab.json(&["network", "inspect", "net"])[0];
    assert_eq!(network["Netpath"]["Mtu"], 1400);
    assert_eq!(network["Internal"], true);
    let policy = &network["Netpath"]["Policy"];
    assert_eq!(policy["internal"], true);
    assert_eq!(policy["icc"], false);
    assert_eq!(policy["gateway_mode_ipv4"], "nat");
    // By Docker's names, whatever they were given by.
    assert_eq!(
        network["Options"],
        serde_json::json!({
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.driver.mtu": "1400",
        })
    );
    let list = lab.netpath(&["network", "ls", "--long"]).ok();
    assert!(list.contains("internal, icc off"), "{list}");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let lab = Lab::new();
    let before = lab.json(&["network", "ls"]);
    let v4 = ["network", "create", "n", "--subnet", "10.99.0.0/24"];
    for (args, part) in [
        (&["-o", "color=blue"][..], "option color is unknown"),
        (&["-o", "icc=perhaps"], "icc=perhaps"),
        (&["-o", "icc=true", "-o", "icc=false"], "given twice"),
        (&["-o", "gateway_mode_ipv4=bridge"], "nat-unprotected"),
        (&["-o", "gateway_mode_ipv4=isolated"], "--internal"),
        (
            &["--internal", "-o", "gateway_mode_ipv4=routed"],
            "--internal",
        ),
        (&["-o", "gateway_mode_ipv6=routed"], "IPv6"),
        (&["-o", "host_ipv4=fd00::1"], "host_ipv4=fd00::1"),
        (&["-o", "host_ipv4=everything"], "host_ipv4=everything"),
        (&["-o", "host_ipv6=fd00::1"], "host_ipv6"),
        (&["-o", "host_binding_ipv4=here"], "host_binding_ipv4=here"),
        (&["-o", "trusted_host_interfaces=a/b"], "a/b"),
        (&["-o", "mtu=many"], "mtu=many"),
        (&["-o", "mtu=1400", "--mtu", "1300"], "contradict"),
        (&["--opt", "icc"], "true or false"),
        (
            &[
                "--internal",
                "-o",
                "gateway_mode_ipv4=isolated",
                "--gateway",
                "10.99.0.1",
            ],
            "10.99.0.1 cannot be had",
        ),
    ] {
        let error = lab.netpath(&[&v4, args].concat()).refused();
        assert!(error.contains(part), "{args:?}: {error}");
    }
    let small = [
        "network",
        "create",
        "n",
        "--internal",
        "--subnet",
        "10.99.0.0/31",
    ];
    let error = lab.netpath(&small).refused();
    assert!(error.contains("10.99.0.0/31 is too small"), "{error}");
    assert_eq!(lab.json(&["network", "ls"]), before);
}
