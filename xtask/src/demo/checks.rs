//! What the demonstration shows, step by step.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::parse;
use super::world::{HOST, OUTSIDE, Place, UPLINK, World, print_some};
use Place::{Host, Machine, Outside};

// Addresses for documentation (RFC 5737, RFC 3849) and of a private network: none of them can
// be a real peer's.
const HOST_V4: &str = "192.0.2.1";
const HOST_V6: &str = "2001:db8:1::1";
const OUTSIDE_V4: &str = "192.0.2.2";
const OUTSIDE_V6: &str = "2001:db8:1::2";
const SUBNET_V4: &str = "10.88.0.0/24";
const SUBNET_V6: &str = "fd88::/64";
/// What the web container serves.
const GREETING: &str = "hello from the container web\n";
/// Where the outside says who is calling.
const WHO_PORT: &str = "9000";
const IPERF_PORT: u16 = 5201;

/// All steps but the end.
pub fn everything(world: &mut World) -> Result<()> {
    world.introduce();
    namespaces(world)?;
    agent(world)?;
    let (web, client) = containers(world)?;
    between_containers(world, &web)?;
    published_port(world)?;
    masquerade(world)?;
    pings(world, &web)?;
    let port = stream(world)?;
    state(world, port)?;
    not_the_kernels(world)?;
    println!(
        "\n   (web is {}, client is {})",
        list(&[web.v4.to_string(), web.v6.to_string()]),
        list(&[client.v4.to_string(), client.v6.to_string()])
    );
    Ok(())
}

/// A container's addresses.
struct Addresses {
    v4: IpAddr,
    v6: IpAddr,
}

fn namespaces(world: &mut World) -> Result<()> {
    world.step("Two private namespaces, a host and the outside, joined by the host's uplink.");
    let host_v4 = format!("{HOST_V4}/24");
    let host_v6 = format!("{HOST_V6}/64");
    let outside_v4 = format!("{OUTSIDE_V4}/24");
    let outside_v6 = format!("{OUTSIDE_V6}/64");
    for words in [
        &["ip", "netns", "add", HOST][..],
        &["ip", "netns", "add", OUTSIDE],
        &[
            "ip", "-n", HOST, "link", "add", UPLINK, "type", "veth", "peer", "name", "eth0",
            "netns", OUTSIDE,
        ],
        // nodad: duplicate address detection would keep the addresses unusable for two seconds.
        &["ip", "-n", HOST, "addr", "add", &host_v4, "dev", UPLINK],
        &[
            "ip", "-n", HOST, "addr", "add", &host_v6, "dev", UPLINK, "nodad",
        ],
        &[
            "ip",
            "-n",
            OUTSIDE,
            "addr",
            "add",
            &outside_v4,
            "dev",
            "eth0",
        ],
        &[
            "ip",
            "-n",
            OUTSIDE,
            "addr",
            "add",
            &outside_v6,
            "dev",
            "eth0",
            "nodad",
        ],
        &["ip", "-n", HOST, "link", "set", "lo", "up"],
        &["ip", "-n", OUTSIDE, "link", "set", "lo", "up"],
        &["ip", "-n", OUTSIDE, "link", "set", "eth0", "up"],
        &["ip", "-n", HOST, "link", "set", UPLINK, "up"],
        &[
            "ip", "-n", HOST, "route", "add", "default", "via", OUTSIDE_V4,
        ],
        &[
            "ip", "-n", HOST, "-6", "route", "add", "default", "via", OUTSIDE_V6,
        ],
    ] {
        world.show(Machine, words)?;
    }
    Ok(())
}

fn agent(world: &mut World) -> Result<()> {
    world.step("The agent: loads its programs, attaches them to the uplink, serves its socket.");
    world.start_agent()?;
    world.show(
        Machine,
        &[
            "netpath", "network", "create", "demo", "--subnet", SUBNET_V4, "--subnet", SUBNET_V6,
        ],
    )?;
    Ok(())
}

fn containers(world: &mut World) -> Result<(Addresses, Addresses)> {
    world.step("Two containers: a web server with a published port, and a client.");
    let www = World::path("www");
    fs::write(format!("{www}/index.html"), GREETING).context("cannot write the web page")?;
    world.show(
        Machine,
        &[
            "netpath",
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "demo",
            "-p",
            "8080:80",
            "--",
            "busybox",
            "httpd",
            "-f",
            "-p",
            "80",
            "-h",
            &www,
        ],
    )?;
    world.show(
        Machine,
        &[
            "netpath",
            "run",
            "-d",
            "--name",
            "client",
            "--network",
            "demo",
            "--",
            "sleep",
            "600",
        ],
    )?;
    world.show(Machine, &["netpath", "ps"])?;
    Ok((addresses(world, "web")?, addresses(world, "client")?))
}

fn addresses(world: &World, container: &str) -> Result<Addresses> {
    let words = [
        "netpath", "exec", container, "--", "ip", "-o", "addr", "show", "scope", "global",
    ];
    let all = parse::addresses(&world.announced(Machine, &words)?);
    println!("     {}", list(&all));
    let one = |v4| all.iter().copied().find(|address| address.is_ipv4() == v4);
    Ok(Addresses {
        v4: one(true).with_context(|| format!("{container} has no IPv4 address"))?,
        v6: one(false).with_context(|| format!("{container} has no IPv6 address"))?,
    })
}

fn between_containers(world: &mut World, web: &Addresses) -> Result<()> {
    world.step("Container to container, without leaving the two veth pairs.");
    for url in [
        format!("http://{}/", web.v4),
        format!("http://[{}]/", web.v6),
    ] {
        let words = [
            "netpath",
            "exec",
            "client",
            "--",
            "curl",
            "-sS",
            "--max-time",
            "5",
            &url,
        ];
        world.until_it_works(Machine, &words)?;
        let said = world.show(Machine, &words)?;
        world.check(
            said == GREETING,
            "the client got the page",
            "see the output above",
        )?;
    }
    Ok(())
}

fn published_port(world: &mut World) -> Result<()> {
    world.step("Outside to the published port: the host's port 8080 is the container's port 80.");
    for url in [
        format!("http://{HOST_V4}:8080/"),
        format!("http://[{HOST_V6}]:8080/"),
    ] {
        let said = world.show(Outside, &["curl", "-sS", "--max-time", "5", &url])?;
        world.check(
            said == GREETING,
            "the outside got the page",
            "see the output above",
        )?;
    }
    Ok(())
}

fn masquerade(world: &mut World) -> Result<()> {
    world.step("Container to outside: the outside sees the host's address, never a container's.");
    let who = "SYSTEM:echo $SOCAT_PEERADDR";
    let v4 = format!("TCP4-LISTEN:{WHO_PORT},fork,reuseaddr");
    let v6 = format!("TCP6-LISTEN:{WHO_PORT},fork,reuseaddr,ipv6only=1");
    world.serve(Outside, &["socat", &v4, who])?;
    world.serve(Outside, &["socat", &v6, who])?;
    for (target, expected) in [
        (
            format!("TCP:{OUTSIDE_V4}:{WHO_PORT},connect-timeout=5"),
            HOST_V4,
        ),
        (
            format!("TCP:[{OUTSIDE_V6}]:{WHO_PORT},connect-timeout=5"),
            HOST_V6,
        ),
    ] {
        world.until_it_works(Outside, &["socat", "-u", &target, "-"])?;
        let words = [
            "netpath", "exec", "client", "--", "socat", "-u", &target, "-",
        ];
        let said = world.show(Machine, &words)?;
        let seen = parse::peer(&said);
        world.check(
            seen.is_some() && seen == expected.parse().ok(),
            &format!("the outside was called by {expected}"),
            "the packets were not masqueraded",
        )?;
    }
    Ok(())
}

fn pings(world: &mut World, web: &Addresses) -> Result<()> {
    world.step("Ping, to the outside and to the other container.");
    let targets = [
        OUTSIDE_V4.to_owned(),
        OUTSIDE_V6.to_owned(),
        web.v4.to_string(),
        web.v6.to_string(),
    ];
    for target in &targets {
        let words = [
            "netpath", "exec", "client", "--", "ping", "-n", "-c", "3", "-i", "0.2", "-W", "2",
            target,
        ];
        let said = world.announced(Machine, &words)?;
        print_some(
            said.lines()
                .find(|line| line.contains("packets"))
                .unwrap_or(&said),
        );
        let received = parse::pings_received(&said);
        world.check(
            received == Some(3),
            &format!("{target} answered all three"),
            "some replies were lost",
        )?;
    }
    Ok(())
}

/// Returns the client's port of the stream.
fn stream(world: &mut World) -> Result<u16> {
    world.step("A stream through the masquerade for two seconds.");
    let port = IPERF_PORT.to_string();
    world.serve(Outside, &["iperf3", "-s", "-p", &port])?;
    // Asked for without a connection: iperf3 serves one client at a time.
    let listening = ["sh", "-c", &format!("ss -Hltn sport = :{port} | grep -q .")];
    world.until_it_works(Outside, &listening)?;
    let said = world.announced(
        Machine,
        &[
            "netpath", "exec", "client", "--", "iperf3", "-c", OUTSIDE_V4, "-p", &port, "-t", "2",
        ],
    )?;
    let sums = parse::iperf_sums(&said);
    print_some(&sums.join("\n"));
    let through = sums
        .iter()
        .any(|line| line.ends_with("receiver") && !line.contains(" 0.00 "));
    world.check(through, "the stream arrived", "iperf3 received nothing")?;
    parse::iperf_port(&said).context("iperf3 does not say which port it used")
}

fn state(world: &mut World, port: u16) -> Result<()> {
    world.step("What the agent knows: containers, flows, published ports, drops.");
    world.show(Machine, &["netpath", "ps"])?;
    let flows = world.announced(Machine, &["netpath", "flows"])?;
    let (head, rest) = flows.split_once('\n').unwrap_or((&flows, ""));
    let stream: Vec<&str> = rest
        .lines()
        .filter(|line| line.contains(&port.to_string()))
        .collect();
    print_some(&format!(
        "{head}\n{}\n... of {} flows",
        stream.join("\n"),
        rest.lines().count()
    ));
    world.check(
        !stream.is_empty(),
        &format!("the stream from the client's port {port} is among the flows"),
        "see `netpath flows`",
    )?;
    world.show(Machine, &["netpath", "ports"])?;
    world.show(Machine, &["netpath", "drops"])?;

    world.step("The same flow as the kernel has it, read with stock bpftool.");
    let pinned = find_file(Path::new(&World::bpffs()), "flows")
        .with_context(|| format!("no map named flows is pinned in {}", World::bpffs()))?;
    let pinned = pinned.display().to_string();
    let dump = world.announced(Machine, &["bpftool", "map", "dump", "pinned", &pinned])?;
    let entries = parse::entries_with(&dump, &[port, IPERF_PORT]);
    if let Some(entry) = entries.first() {
        println!("     ... the entry of the client's port {port}:");
        for line in entry.lines() {
            println!("     {line}");
        }
    }
    world.check(
        !entries.is_empty(),
        "bpftool shows the stream's flow by field names",
        "the map has no entry with its ports in host order",
    )
}

fn not_the_kernels(world: &mut World) -> Result<()> {
    world.step("And all that without a bridge, a firewall rule or connection tracking.");
    let bridges = world.show(Host, &["ip", "-o", "link", "show", "type", "bridge"])?;
    world.check(bridges.trim().is_empty(), "no bridge", "see above")?;
    // nft first: asking by the names of iptables could make it list their empty tables.
    for words in [
        &["nft", "list", "ruleset"][..],
        &["iptables-save"],
        &["ip6tables-save"],
    ] {
        let rules = world.show(Host, words)?;
        let claim = format!("`{}` lists no rule", words.join(" "));
        world.check(parse::rules(&rules).is_empty(), &claim, "see above")?;
    }
    let tracked = world.show(Host, &["conntrack", "-L"])?;
    world.check(
        tracked.trim().is_empty(),
        "no connection is tracked",
        "see above",
    )
}

/// Takes the world down by the product's own means, and checks that nothing stays.
pub fn end(world: &mut World) -> Result<()> {
    world.step("The end: the agent stops, `purge` takes everything it made away.");
    world.stop_agent()?;
    let directories = World::directories();
    let mut words = vec!["netpath", "purge"];
    words.extend(directories.iter().map(String::as_str));
    world.show(Host, &words)?;
    let links = world.show(Host, &["ip", "-o", "-br", "link", "show"])?;
    let foreign: Vec<&str> = links
        .lines()
        .filter_map(|line| line.split([' ', '@']).next())
        .filter(|name| !["lo", UPLINK].contains(name))
        // Devices that every new namespace has where the kernel's tunnels are built in.
        .filter(|name| !BUILT_IN.contains(name))
        .collect();
    world.check(
        foreign.is_empty(),
        "the host namespace has its own links only",
        &format!("left: {}", foreign.join(" ")),
    )?;
    let pins = World::bpffs();
    world.check(
        !Path::new(&pins).exists() || fs::read_dir(&pins).is_ok_and(|mut all| all.next().is_none()),
        &format!("nothing is pinned in {pins}"),
        "purge left objects there",
    )?;
    world.stop_servers();
    for space in [HOST, OUTSIDE] {
        world.show(Machine, &["ip", "netns", "delete", space])?;
    }
    world.sweep();
    let remains = World::remains();
    world.check(
        remains.is_empty(),
        "no process, namespace, pin or file is left",
        &format!(
            "left: {}; `cargo xtask clean-machine` removes it",
            remains.join(", ")
        ),
    )
}

const BUILT_IN: [&str; 9] = [
    "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
];

fn find_file(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    let here = entries
        .iter()
        .find(|path| path.file_name().is_some_and(|file| file == name));
    here.cloned()
        .or_else(|| entries.iter().find_map(|path| find_file(path, name)))
}

fn list<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
