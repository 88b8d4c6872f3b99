//! Open vSwitch on the other end, with its datapath in user space.

use std::path::Path;
use std::process::Command;

use netpath_tests::command::{Ran, eventually, run};
use netpath_tests::lab::hosts::{Hosts, v4};
use netpath_tests::lab::{Lab, UPLINK};

use crate::kernel::{BOX_MAC, kernel_container};
use crate::{Place, in_namespace, make_big, run_server, serve, set_up};

/// Open vSwitch on a host, with folders of its own.
struct Switch {
    namespace: String,
    folder: String,
}

impl Switch {
    /// Starts database and switch; they end with the laboratory.
    fn start(lab: &mut Lab, folder: &Path) -> Self {
        let own = folder.join("ovs");
        std::fs::create_dir_all(&own).unwrap();
        let switch = Self {
            namespace: lab.host_namespace().to_owned(),
            folder: own.display().to_string(),
        };
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        let database = format!("{}/conf.db", switch.folder);
        switch
            .call(&["ovsdb-tool", "create", &database, schema])
            .ok();
        let server = format!("--remote=punix:{}/db.sock", switch.folder);
        let server = switch.command(&["ovsdb-server", &database, &server, "--unixctl=db.ctl"]);
        lab.spawn(server);
        eventually("the database serves", || {
            switch.vsctl(&["--no-wait", "init"]).code == Some(0)
        });
        let db = format!("unix:{}/db.sock", switch.folder);
        let daemon = switch.command(&["ovs-vswitchd", &db, "--unixctl=vswitchd.ctl"]);
        lab.spawn(daemon);
        switch
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = in_namespace(&self.namespace, args);
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, &self.folder);
        }
        command.current_dir(&self.folder);
        command
    }

    fn call(&self, args: &[&str]) -> Ran {
        run(self.command(args))
    }

    fn vsctl(&self, args: &[&str]) -> Ran {
        let db = format!("--db=unix:{}/db.sock", self.folder);
        self.call(&[&["ovs-vsctl", "--timeout=10", &db], args].concat())
    }
}

#[test]
fn open_vswitch_is_a_neighbour() {
    let mut hosts = Hosts::new(2);
    hosts.start_agents(&[0]);
    let options = ["--opt", "vni=88"];
    set_up::network(&hosts[0], ["10.88.8.0/24", "fd88:8::/64"], &options);
    let (us, them) = (v4(0), v4(1));
    let addresses = ["10.88.8.200", "fd88:8::200"];
    set_up::neighbour(&hosts[0], &them, BOX_MAC, addresses);
    // Its packet sockets want frames as they are on a wire.
    let off = [
        "ethtool", "-K", UPLINK, "tx", "off", "tso", "off", "gso", "off",
    ];
    hosts[0].host(&off).ok();
    let folder = hosts[0].dir().to_path_buf();
    let sum = make_big(&folder);
    let lab = hosts.lab(1);
    let switch = Switch::start(lab, &folder);
    // In user space the tunnel's packets leave by a bridge that has the host's address.
    let wire = [
        "--may-exist",
        "add-br",
        "br-phy",
        "--",
        "set",
        "bridge",
        "br-phy",
    ];
    let netdev = ["datapath_type=netdev", "fail_mode=standalone"];
    let uplink = ["--", "add-port", "br-phy", UPLINK];
    switch.vsctl(&[&wire[..], &netdev, &uplink].concat()).ok();
    let shell = format!(
        "ethtool -K {UPLINK} tx off gro off
         ip addr flush dev {UPLINK}
         ip addr add {them}/24 dev br-phy
         ip link set br-phy up
         ip link add br-dummy type bridge"
    );
    lab.host(&["sh", "-ec", &shell]).ok();
    let name = kernel_container(lab, "br-dummy", ["10.88.8.200/24", "fd88:8::200/64"], 1450);
    lab.host(&["ip", "link", "set", "veth0", "nomaster"]).ok();
    let off = [
        "ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off",
    ];
    Place::Namespace(&name).run(&off).ok();
    let bridge = ["add-br", "br-int", "--", "set", "bridge", "br-int"];
    let remote = format!("options:remote_ip={us}");
    let ports = [
        "--",
        "add-port",
        "br-int",
        "veth0",
        "--",
        "add-port",
        "br-int",
        "vx0",
        "--",
        "set",
        "interface",
        "vx0",
        "type=vxlan",
        "options:key=88",
        &remote,
    ];
    switch.vsctl(&[&bridge[..], &netdev, &ports].concat()).ok();
    let server = in_namespace(&name, &["sh", "-c", &serve(&folder)]);
    lab.spawn(server);
    run_server(&hosts[0], "server", "wide", &folder, &[]);
    hosts[0].run("client", &["--network", "wide"], &["sleep", "600"]);
    let ours = Place::Container(&hosts[0], "client");
    let theirs = Place::Namespace(&name);
    for (family_v6, far) in [(false, addresses[0]), (true, addresses[1])] {
        ours.talks_to(far, &sum);
        theirs.talks_to(&hosts[0].address("server", family_v6), &sum);
    }
}
