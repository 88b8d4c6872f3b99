//! The machine that figures were made on: whatever may move them.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::namespace::{Namespace, output};
use super::topology::tool;

/// The machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    /// Release and version of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
    /// Cores that are online.
    pub cores: usize,
    /// Cores of client and server.
    pub used_cores: Vec<usize>,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Hypervisor, if the kernel sees one.
    pub virtualized: bool,
    /// Load average (one minute) at the beginning: other work spoils figures.
    pub load: f64,
    /// Part of the time that the hypervisor gave to others during the run.
    pub steal: f64,
    /// Congestion control of all TCP connections of this run.
    pub congestion: String,
    /// Settings of kernel and machine, by name.
    pub settings: Vec<(String, String)>,
    /// Versions of programs, by name.
    pub versions: Vec<(String, String)>,
    /// Offloads of a container's device, as ethtool shows them.
    pub offloads: Vec<String>,
}

/// Settings that are looked at: how they are called here, and where they are.
const SETTINGS: [(&str, &str); 9] = [
    (
        "default congestion control",
        "/proc/sys/net/ipv4/tcp_congestion_control",
    ),
    ("BPF JIT", "/proc/sys/net/core/bpf_jit_enable"),
    ("BPF statistics", "/proc/sys/kernel/bpf_stats_enabled"),
    ("default qdisc", "/proc/sys/net/core/default_qdisc"),
    (
        "guest halt poll ns",
        "/sys/module/haltpoll/parameters/guest_halt_poll_ns",
    ),
    (
        "clock source",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource",
    ),
    (
        "frequency governor",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    ),
    (
        "connections that conntrack holds",
        "/proc/sys/net/netfilter/nf_conntrack_max",
    ),
    ("kernel command line", "/proc/cmdline"),
];

/// Programs and how they are asked for their version.
const PROGRAMS: [(&str, &str); 8] = [
    ("ip", "-V"),
    ("iptables", "--version"),
    ("nft", "--version"),
    ("dockerd", "--version"),
    ("docker", "--version"),
    ("iperf3", "--version"),
    ("sockperf", "--version"),
    ("ethtool", "--version"),
];

/// Settings of a variant's host that matter: how they are called, and where they are under
/// `/proc/sys/net`.
const OF_HOST: [(&str, &str); 4] = [
    ("bridge-nf-call-iptables", "bridge/bridge-nf-call-iptables"),
    ("ip_forward", "ipv4/ip_forward"),
    ("rp_filter", "ipv4/conf/all/rp_filter"),
    ("conntrack entries", "netfilter/nf_conntrack_count"),
];

/// Looks at the machine.
pub fn look(used_cores: Vec<usize>, congestion: &str) -> Environment {
    let read = |path: &str| {
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = read("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let mut versions = vec![("netpath".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    versions.extend(PROGRAMS.iter().map(|(name, flag)| {
        let version = tool(name).map(|path| {
            let mut command = Command::new(path);
            command.arg(flag);
            let text = output(command).unwrap_or_default();
            text.lines().next().unwrap_or_default().to_owned()
        });
        (
            (*name).to_owned(),
            version.unwrap_or_else(|| "not installed".into()),
        )
    }));
    Environment {
        kernel: [
            read("/proc/sys/kernel/osrelease"),
            read("/proc/sys/kernel/version"),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" "),
        cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        used_cores,
        memory_mib: memory.unwrap_or(0) / 1024,
        virtualized: field("flags")
            .is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
        load: read("/proc/loadavg")
            .and_then(|text| text.split(' ').next()?.parse().ok())
            .unwrap_or(0.0),
        steal: 0.0,
        congestion: congestion.to_owned(),
        settings: SETTINGS
            .iter()
            .filter_map(|(name, path)| Some(((*name).to_owned(), read(path)?)))
            .collect(),
        versions,
        offloads: Vec::new(),
    }
}

/// Settings of a variant's host.
pub fn of_host(host: &Namespace) -> Vec<(String, String)> {
    OF_HOST
        .iter()
        .filter_map(|(name, path)| Some(((*name).to_owned(), host.setting(path)?)))
        .collect()
}

/// Offloads of a container's interface that are on or off, without what cannot be changed.
pub fn offloads(container: &Namespace) -> Vec<String> {
    let Some(ethtool) = tool("ethtool") else {
        return vec!["unknown: ethtool is not installed".into()];
    };
    let mut command = container.command(ethtool);
    command.args(["--show-features", "eth0"]);
    let text = output(command).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains(": o") && !line.contains("[fixed]"))
        .map(|line| line.trim().to_owned())
        .collect()
}

/// Ticks that the hypervisor gave to others, and all ticks, since boot.
pub fn steal() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    (
        ticks.get(7).copied().unwrap_or(0),
        ticks.iter().take(8).sum(),
    )
}
