//! `cargo xtask setup`: installs what building, testing and running need, and mounts bpffs.
//!
//! Every part looks first and acts only on what is missing, so that a second run is a matter of
//! milliseconds; the other verbs call it each time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt};
use crate::host::{self, BPFFS, ensure_privileges, privileged, program};
use crate::run::capture;
use crate::setup_toolchain;
use crate::toolchain::Toolchain;

/// tcx, by which the programs are attached, came with this kernel.
const MIN_KERNEL: (u32, u32) = (6, 6);
/// What a mount may take; it is a system call, but sudo and its PAM modules come first.
const MOUNT_LIMIT: Duration = Duration::from_secs(20);

/// A program that the product's run time, the demonstration or the tests call (or a file, by its
/// whole path), and the packages that have it: the first one that the distribution knows is
/// installed.
struct Tool {
    program: &'static str,
    packages: &'static [&'static str],
}

const fn tool(program: &'static str, packages: &'static [&'static str]) -> Tool {
    Tool { program, packages }
}

const TOOLS: &[Tool] = &[
    tool("ip", &["iproute2"]),
    tool("nsenter", &["util-linux"]),
    tool("ping", &["iputils-ping"]),
    tool("curl", &["curl"]),
    tool("iperf3", &["iperf3"]),
    // Ubuntu has no package of this name; there it is one of the kernel's tools.
    tool("bpftool", &["bpftool", "linux-tools-generic"]),
    tool("tcpdump", &["tcpdump"]),
    tool("conntrack", &["conntrack"]),
    tool("iptables-save", &["iptables"]),
    tool("nft", &["nftables"]),
    tool("nc", &["netcat-openbsd"]),
    tool("socat", &["socat"]),
    tool("dig", &["bind9-dnsutils", "dnsutils"]),
    tool("dnsmasq", &["dnsmasq-base"]),
    tool("busybox", &["busybox-static", "busybox"]),
    tool("ps", &["procps"]),
    tool("python3", &["python3-minimal"]),
    tool("ethtool", &["ethtool"]),
    // Judges and peers of networks across hosts.
    tool("tshark", &["tshark"]),
    tool("ovs-vswitchd", &["openvswitch-switch"]),
    tool("cc", &["gcc"]),
    tool("dockerd", &["docker.io"]),
    tool("docker", &["docker-cli", "docker.io"]),
    tool("docker-compose", &["docker-compose"]),
    tool("musl-gcc", &["musl-tools"]),
    // A test runs one of its own; nothing of it is started.
    tool("/lib/systemd/systemd", &["systemd"]),
    // The protocol of etcd is compiled as netpath is built; the second is a part of it.
    tool("protoc", &["protobuf-compiler"]),
    tool(
        "/usr/include/google/protobuf/descriptor.proto",
        &["libprotobuf-dev"],
    ),
    // For the tests; the agent needs one somewhere only for networks of several hosts.
    tool("etcd", &["etcd-server"]),
    tool("etcdctl", &["etcd-client"]),
];

/// Services of packages that are installed for the tests only.
const SERVICES: &[(&str, &[&str])] = &[
    (
        "dockerd",
        &["docker.socket", "docker.service", "containerd.service"],
    ),
    ("etcd", &["etcd.service"]),
];

/// How much to say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// A line for each thing, found or done.
    Everything,
    /// One line if nothing was missing; what is done is always said.
    Summary,
}

/// Looks at everything, installs what is missing, and returns the toolchain.
pub fn run(workspace: &Path, say: Say) -> Result<Toolchain> {
    let report = |what: &str, text: &str| {
        if say == Say::Everything {
            println!("{what:<10} {text}");
        }
    };
    let mut apt = Apt::new(workspace);
    report("kernel", &kernel());
    report("tools", &tools(&mut apt)?);
    let toolchain = setup_toolchain::ensure(workspace, &mut apt)?;
    report("toolchain", &toolchain.describe());
    let clippy = setup_toolchain::ensure_clippy(&toolchain, &mut apt);
    report("clippy", &clippy);
    report("cargo", &setup_toolchain::ensure_components(workspace)?);
    report("bpffs", &bpffs()?);
    if say == Say::Summary {
        println!("set-up: complete, {}", toolchain.describe());
    }
    Ok(toolchain)
}

fn kernel() -> String {
    let version = match host::kernel() {
        Some(version) if version >= MIN_KERNEL => format!("{}.{}", version.0, version.1),
        Some((major, minor)) => format!(
            "{major}.{minor} is older than {}.{}: netpath can be built, but not run here",
            MIN_KERNEL.0, MIN_KERNEL.1
        ),
        None => "of an unknown version".to_owned(),
    };
    let btf = if Path::new("/sys/kernel/btf/vmlinux").exists() {
        "with BTF"
    } else {
        "without BTF (CONFIG_DEBUG_INFO_BTF), which netpath needs to run"
    };
    format!("{version}, {btf}")
}

fn tools(apt: &mut Apt<'_>) -> Result<String> {
    let missing: Vec<&Tool> = TOOLS
        .iter()
        .filter(|tool| program(tool.program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(format!("all {} found", TOOLS.len()));
    }
    let names = |tools: &[&Tool]| {
        tools
            .iter()
            .map(|tool| format!("{} (package {})", tool.program, tool.packages.join(" or ")))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if !apt::is_here() {
        bail!(
            "these programs are missing, install them with your package manager (the names are \
             Debian's): {}",
            names(&missing)
        );
    }
    ensure_privileges("installing packages")?;
    apt.update();
    let mut packages = Vec::new();
    for tool in &missing {
        let known = tool
            .packages
            .iter()
            .find(|package| apt::candidate(package).is_some());
        let known = known.with_context(|| {
            format!(
                "no package of this distribution has {}, install it by hand",
                names(&[tool])
            )
        })?;
        packages.push((*known).to_owned());
    }
    apt.install(&packages)?;
    for (_, services) in SERVICES
        .iter()
        .filter(|(program, _)| missing.iter().any(|tool| tool.program == *program))
    {
        leave_disabled(services);
    }
    let still: Vec<&Tool> = missing
        .into_iter()
        .filter(|tool| program(tool.program).is_none())
        .collect();
    if !still.is_empty() {
        bail!(
            "the packages are installed, but these programs are not there: {}",
            names(&still)
        );
    }
    Ok(format!("installed {}", packages.join(" ")))
}

/// Keeps services from starting with the machine. Where there is no systemd, nothing would.
fn leave_disabled(services: &[&str]) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    let mut disable = privileged("systemctl");
    disable.arg("disable").args(services);
    match capture(&mut disable, MOUNT_LIMIT).and_then(|ran| ran.ok("`systemctl disable`")) {
        Ok(_) => println!("{} do not start by themselves", services.join(", ")),
        Err(error) => eprintln!("{error:#}"),
    }
}

fn bpffs() -> Result<String> {
    if host::is_mounted(BPFFS, "bpf") {
        return Ok(format!("mounted at {BPFFS}"));
    }
    ensure_privileges("mounting the bpf filesystem")?;
    let mut mount = privileged("mount");
    mount.args(["-t", "bpf", "bpf", BPFFS]);
    capture(&mut mount, MOUNT_LIMIT)?
        .ok(&format!("`mount -t bpf bpf {BPFFS}`"))
        .with_context(|| {
            format!("netpath pins its maps in {BPFFS}; in a container, mount it from the host")
        })?;
    Ok(format!(
        "was not mounted, mounted at {BPFFS} (until the next boot)"
    ))
}
