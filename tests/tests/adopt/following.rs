//! Docker, containers and agents come and go.

use std::thread;

use netpath_tests::lab::{HOST4, OUT4, eventually};

use super::{Site, at_last};

#[test]
fn what_docker_does_is_followed() {
    let mut site = Site::with_web();
    site.serve_outside();
    site.adopt(&[]);
    // A new container.
    site.docker.web("late", &["-p", "8081:80"]);
    eventually("a new container is adopted", || {
        site.names() == ["client", "late", "web"]
    });
    let late = site.docker.address("late", "bridge");
    let delivered = site.delivered();
    assert_eq!(site.fetch("client", &late), "late");
    assert!(site.delivered() > delivered);
    // A second network, for a container that runs.
    site.docker.run(&["network", "create", "two"]).ok();
    site.docker.run(&["network", "connect", "two", "late"]).ok();
    eventually("a second interface is adopted", || site.names().len() == 4);
    site.docker
        .run(&["network", "disconnect", "two", "late"])
        .ok();
    eventually("it goes again", || site.names().len() == 3);
    // One that ends; its address and its port get a new owner.
    site.docker.run(&["rm", "-f", "late"]).ok();
    eventually("a container that ended is forgotten", || {
        site.names() == ["client", "web"]
    });
    site.docker.web("next", &["-p", "8081:80"]);
    eventually("the next one is adopted", || {
        site.names() == ["client", "next", "web"]
    });
    assert_eq!(site.docker.address("next", "bridge"), late);
    assert_eq!(site.fetch("client", &late), "next");
    let url = format!("http://{HOST4}:8081/");
    assert_eq!(
        site.lab.outside(&["curl", "-sm5", &url]).ok().trim(),
        "next"
    );
    // Stopped and started again.
    site.docker.run(&["restart", "-t", "0", "web"]).ok();
    eventually("it is adopted again", || {
        site.names() == ["client", "next", "web"]
    });
    at_last("its port is served", || {
        site.fetch_from_outside(HOST4) == "web"
    });
}

#[test]
fn an_agent_that_was_killed_breaks_nothing() {
    let mut site = Site::with_web();
    site.serve_outside();
    site.adopt(&[]);
    let web = site.docker.address("web", "bridge");
    let all = |site: &Site| {
        assert_eq!(site.fetch("client", &web), "web");
        assert_eq!(site.fetch("client", OUT4), "outside");
        assert_eq!(site.fetch_from_outside(HOST4), "web");
        assert_eq!(site.fetch_from_host("127.0.0.1"), "web");
    };
    site.lab.kill_agent();
    all(&site);
    // Who ends meanwhile is found to be gone.
    site.docker.container("short", &[], &["sleep", "600"]);
    site.docker.run(&["rm", "-f", "client"]).ok();
    site.docker.container("client", &[], &["sleep", "600"]);
    site.lab.start_agent();
    eventually("the next agent follows Docker", || {
        site.names() == ["client", "short", "web"]
    });
    let before = site.new_flows();
    all(&site);
    assert_eq!(site.new_flows(), before + 2);

    // One that is asked to end leaves new connections to Docker.
    assert_eq!(site.lab.stop_agent(), Some(0));
    all(&site);
    assert!(!site.tracked(OUT4).is_empty());
    site.docker.run(&["restart", "-t", "0", "client"]).ok();
    all(&site);
    site.lab.start_agent();
    eventually("it is adopted again", || {
        site.names() == ["client", "short", "web"]
    });
    at_last("connections are served again", || {
        let before = site.new_flows();
        all(&site);
        site.new_flows() == before + 2
    });
    // And the purge leaves nothing.
    site.lab.purge().ok();
    assert_eq!(site.pinned_macs(), 0);
    all(&site);
}

#[test]
fn a_docker_that_was_killed_is_found_again() {
    let mut site = Site::with_web();
    site.adopt(&[]);
    let web = site.docker.address("web", "bridge");
    site.docker.kill_daemon();
    // With live-restore its containers go on, and so do we.
    assert_eq!(site.fetch_from_outside(HOST4), "web");
    eventually("its end is told", || site.adopted()["problem"].is_string());
    assert_eq!(site.names(), ["client", "web"]);
    site.docker.start_daemon();
    at_last("the next one is found", || {
        site.adopted()["problem"].is_null()
    });
    assert_eq!(site.fetch("client", &web), "web");
    site.docker.container("new", &[], &["sleep", "600"]);
    eventually("it is followed", || {
        site.names() == ["client", "new", "web"]
    });
    assert_eq!(site.fetch("new", &web), "web");
}

#[test]
fn what_is_asked_for_while_containers_come_and_go_holds() {
    let site = Site::with_web();
    site.adopt(&[]);
    thread::scope(|scope| {
        let coming_and_going = scope.spawn(|| {
            for _ in 0..6 {
                site.docker.container("brief", &[], &["sleep", "600"]);
                site.docker.run(&["rm", "-f", "brief"]).ok();
            }
        });
        for ignores in [true, false].into_iter().cycle() {
            let options: &[&str] = if ignores { &["--ignore-firewall"] } else { &[] };
            site.adopt(options);
            assert_eq!(site.adopted()["ignore_firewall"], ignores);
            if coming_and_going.is_finished() {
                break;
            }
        }
    });
    eventually("containers are followed", || {
        site.names() == ["client", "web"]
    });
}
