//! Rules that Docker's traffic has to pass are not gone around.

use netpath_tests::lab::{HOST4, OUT4, eventually};
use serde_json::Value;

use super::Site;

/// Why something of docker0 is refused; null if it is not.
fn refused(site: &Site, way: &str) -> Value {
    site.adopted()["networks"][0][way].clone()
}

#[test]
fn a_rule_for_docker_users_refuses_what_it_is_about() {
    let mut site = Site::with_web();
    site.serve_outside();
    let iptables = |rule: &[&str]| {
        let mut args = vec!["iptables", "-w"];
        args.extend(rule);
        site.lab.host(&args).ok();
    };
    let established = [
        "DOCKER-USER",
        "-m",
        "conntrack",
        "--ctstate",
        "RELATED,ESTABLISHED",
        "-j",
        "ACCEPT",
    ];
    iptables(&[&["-I"], &established[..]].concat());
    iptables(&[
        "-I",
        "DOCKER-USER",
        "2",
        "-i",
        "uplink0",
        "-s",
        OUT4,
        "-j",
        "DROP",
    ]);
    site.adopt(&[]);
    let why = refused(&site, "inward");
    assert!(
        why.as_str().is_some_and(|why| why.contains("DOCKER-USER")),
        "{why}"
    );
    assert!(refused(&site, "outward").is_null() && refused(&site, "within").is_null());
    let status = site.lab.netpath(&["status"]).ok();
    assert!(
        status.contains("published ports left to Docker") && status.contains(OUT4),
        "{status}"
    );
    // The rule holds.
    assert_eq!(site.fetch_from_outside(HOST4), "");
    // What it is not about is served.
    let flows = site.new_flows();
    assert_eq!(site.fetch("client", OUT4), "outside");
    assert_eq!(site.new_flows(), flows + 1);

    // Without it, all is served, soon.
    iptables(&[
        "-D",
        "DOCKER-USER",
        "-i",
        "uplink0",
        "-s",
        OUT4,
        "-j",
        "DROP",
    ]);
    eventually("the rule's end is noticed", || {
        refused(&site, "inward").is_null()
    });
    let flows = site.new_flows();
    assert_eq!(site.fetch_from_outside(HOST4), "web");
    assert_eq!(site.new_flows(), flows + 1);

    // A rule that comes later is noticed as well.
    iptables(&["-I", "DOCKER-USER", "-j", "DROP"]);
    eventually("a new rule is noticed", || {
        !refused(&site, "inward").is_null()
    });
    assert!(!refused(&site, "outward").is_null());
    assert_eq!(site.fetch_from_outside(HOST4), "");
    assert_eq!(site.fetch("client", OUT4), "");

    // Unless somebody insists.
    site.adopt(&["--ignore-firewall"]);
    assert!(refused(&site, "inward").is_null());
    assert_eq!(site.fetch_from_outside(HOST4), "web");
    let status = site.lab.netpath(&["status"]).ok();
    assert!(status.contains("whatever the firewall says"), "{status}");
}

#[test]
fn a_foreign_table_of_nftables_refuses() {
    let site = Site::with_web();
    let rules = "add table inet guard; add chain inet guard forward { type filter hook forward \
                 priority 10; policy accept; }; add rule inet guard forward tcp dport 25 reject";
    site.lab.host(&["nft", rules]).ok();
    site.adopt(&[]);
    let why = refused(&site, "outward");
    assert!(
        why.as_str().is_some_and(|why| why.contains("inet guard")),
        "{why}"
    );
    assert!(!refused(&site, "inward").is_null());
    site.lab.host(&["nft", "delete table inet guard"]).ok();
    eventually("its end is noticed", || refused(&site, "outward").is_null());
}
