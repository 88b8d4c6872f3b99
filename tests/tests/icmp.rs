//! ICMP errors reach whom they concern, translated; the receiving kernel believes them only
//! if the packet that they quote is one of its own.

use netpath_tests::lab::{HOST4, HOST6, Lab, OUT4, OUT6, eventually};

fn lab() -> Lab {
    let lab = Lab::new();
    let subnets = ["--subnet", "10.88.0.0/24", "--subnet", "fd88::/64"];
    lab.netpath(&[&["network", "create", "net"][..], &subnets].concat())
        .ok();
    lab.run("client", &["--network", "net"], &["sleep", "600"]);
    lab
}

/// Sends a datagram and waits for what comes back.
fn ask(target: &str) -> String {
    format!("(echo x; sleep 0.3) | timeout 3 socat -d - {target}")
}

#[test]
fn a_closed_port_outside_refuses_a_container() {
    let lab = lab();
    for target in [format!("UDP4:{OUT4}:9999"), format!("UDP6:[{OUT6}]:9999")] {
        // The first datagram may spend its time in waiting for the neighbour's address.
        eventually(&format!("{target} refuses"), || {
            let ran = lab.exec("client", &["sh", "-c", &ask(&target)]);
            ran.stderr.contains("refused")
        });
    }
}

#[test]
fn a_closed_port_in_a_container_refuses_a_client_outside() {
    let lab = lab();
    let publish = ["--network", "net", "-p", "5353:53/udp"];
    lab.run("deaf", &publish, &["sleep", "600"]);
    for target in [format!("UDP4:{HOST4}:5353"), format!("UDP6:[{HOST6}]:5353")] {
        eventually(&format!("{target} refuses the outside"), || {
            let ran = lab.outside(&["sh", "-c", &ask(&target)]);
            ran.stderr.contains("refused")
        });
        // And a neighbour, whose packets came by the gateway.
        eventually(&format!("{target} refuses a neighbour"), || {
            let ran = lab.exec("client", &["sh", "-c", &ask(&target)]);
            ran.stderr.contains("refused")
        });
    }
}

#[test]
fn a_container_learns_the_path_mtu() {
    let mut lab = lab();
    lab.add_far_machine("198.51.100", "2001:db8:2:", 1300);
    for target in ["198.51.100.2", "2001:db8:2::2"] {
        let ran = lab.exec(
            "client",
            &[
                "ping", "-M", "do", "-s", "1400", "-c", "2", "-W", "1", "-i", "0.3", target,
            ],
        );
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            said.contains("mtu") && said.contains("1300"),
            "{target}: {said}"
        );
    }
    // TCP finds its way as well, in the direction that is too big.
    lab.serve_far(&[
        "socat",
        "-u",
        "TCP6-LISTEN:7000,fork,reuseaddr,ipv6only=0",
        "SYSTEM:wc -c >&2",
    ]);
    for target in ["TCP4:198.51.100.2:7000", "TCP6:[2001:db8:2::2]:7000"] {
        let send = format!("head -c 300000 /dev/zero | timeout 3 socat -u - {target}");
        eventually(target, || {
            lab.exec("client", &["sh", "-c", &send]).code == Some(0)
        });
    }
}

#[test]
fn a_published_server_learns_the_path_mtu() {
    let mut lab = lab();
    lab.add_far_machine("198.51.100", "2001:db8:2:", 1300);
    let publish = ["--network", "net", "-p", "8080:80"];
    let serve = "socat -U TCP6-LISTEN:80,fork,reuseaddr SYSTEM:'head -c 300000 /dev/zero'";
    lab.run("server", &publish, &["sh", "-c", serve]);
    for target in [format!("TCP4:{HOST4}:8080"), format!("TCP6:[{HOST6}]:8080")] {
        let receive = format!("timeout 3 socat -d -u {target} - | wc -c");
        eventually(&target, || {
            lab.far(&["sh", "-c", &receive]).stdout.trim() == "300000"
        });
    }
}

#[test]
fn every_hop_answers_a_packet_whose_time_runs_out() {
    let mut lab = lab();
    lab.add_far_machine("198.51.100", "2001:db8:2:", 1500);
    for (hops, target, router) in [
        ("1", "198.51.100.2", "10.88.0.1"),
        ("2", "198.51.100.2", OUT4),
        ("2", "2001:db8:2::2", OUT6),
    ] {
        let args = ["ping", "-n", "-t", hops, "-c", "1", "-W", "2", target];
        let said = lab.exec("client", &args).stdout;
        let answered = said.contains("exceeded") && said.contains(&format!("From {router}"));
        assert!(answered, "{hops} hops to {target}: {said}");
    }
    lab.exec(
        "client",
        &["ping", "-t", "3", "-c", "1", "-W", "2", "198.51.100.2"],
    )
    .ok();
}

#[test]
fn an_error_about_somebody_elses_packet_is_dropped() {
    let lab = lab();
    // An answer to nobody: traceroute-like probes of the host are its own business, while a
    // container's errors about packets that never came to it go nowhere.
    let script = format!(
        "import socket,struct\n\
         s=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_ICMP)\n\
         ip=struct.pack('!BBHHHBBH4s4s',0x45,0,28,1,0,64,17,0,\
         socket.inet_aton('{OUT4}'),socket.inet_aton('10.88.0.2'))\n\
         b=struct.pack('!BBHI',3,3,0,0)+ip+struct.pack('!HHHH',53,4444,8,0)\n\
         c=sum(struct.unpack('!%dH'%(len(b)//2),b))\n\
         c=(c>>16)+(c&0xffff); c=(~((c>>16)+c))&0xffff\n\
         s.sendto(b[:2]+struct.pack('!H',c)+b[4:],('{OUT4}',0))\n"
    );
    lab.exec("client", &["python3", "-c", &script]).ok();
    eventually("the drop is counted", || {
        let drops = lab.json(&["drops"]);
        let rows = drops.as_array().cloned().unwrap_or_default();
        rows.iter()
            .any(|row| row["reason"] == "no_flow" && row["hook"] == "container")
    });
}
