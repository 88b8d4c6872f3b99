//! Rules of the host's firewall that Docker's traffic has to pass, and that the programs would
//! go around: whatever they are about is left to the kernel.
//!
//! The rules are read by the tools that made them (`iptables-save`, `nft`), which is the one thing
//! for which the agent starts programs: there is no maintained library that reads both kinds.
//!
//! * [`iptables`]: rules of iptables, order and matches considered
//! * [`nft`]: tables of nftables that are not Docker's; any that may drop or translate counts

pub mod iptables;
pub mod nft;

use std::process::Stdio;
use std::time::Duration;

use ipnet::IpNet;
use tokio::process::Command;

use super::Refusals;

/// No tool takes longer without having hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is asked about: the traffic of one network.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Its bridge.
    pub bridge: &'a str,
    /// Its subnets.
    pub subnets: &'a [IpNet],
    /// Where else its traffic comes from or goes to: uplinks, and other bridges of Docker's.
    pub elsewhere: &'a [String],
    /// Whether what passes a bridge passes the rules of iptables (br_netfilter).
    pub bridged: bool,
}

/// The rules as they are.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Rules of iptables: the family is IPv4 or not.
    iptables: Vec<(bool, iptables::RuleSet)>,
    nft: Option<nft::RuleSet>,
    /// Whether all of it is nftables', whose changes the kernel tells.
    told: bool,
    /// Why they could not be read.
    unreadable: Option<String>,
}

impl Rules {
    /// Reads the rules of the agent's network namespace.
    pub async fn read() -> Self {
        let mut rules = Self::default();
        let mut over_nft = false;
        let mut legacy = false;
        let mut problems = Vec::new();
        for (v4, program, version) in [
            (true, "iptables-save", "iptables"),
            (false, "ip6tables-save", "ip6tables"),
        ] {
            match output(program, &[]).await {
                Ok(Some(text)) => {
                    rules.iptables.push((v4, iptables::parse(&text)));
                    let version = output(version, &["-V"]).await;
                    let version = version.ok().flatten().unwrap_or_default();
                    over_nft |= version.contains("nf_tables");
                }
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        if over_nft {
            // Rules of the older kind are not among them.
            for (v4, program, tables) in [
                (true, "iptables-legacy-save", "/proc/net/ip_tables_names"),
                (false, "ip6tables-legacy-save", "/proc/net/ip6_tables_names"),
            ] {
                let used = std::fs::read_to_string(tables).is_ok_and(|names| !names.is_empty());
                if !used {
                    continue;
                }
                legacy = true;
                match output(program, &[]).await {
                    Ok(Some(text)) => rules.iptables.push((v4, iptables::parse(&text))),
                    Ok(None) => problems.push(format!("{program} is not installed")),
                    Err(problem) => problems.push(problem),
                }
            }
        }
        match output("nft", &["-j", "list", "ruleset"]).await {
            Ok(Some(text)) => match nft::parse(&text, over_nft) {
                Some(set) => rules.nft = Some(set),
                None => problems.push("nft says what cannot be understood".to_owned()),
            },
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
        if rules.iptables.is_empty() && rules.nft.is_none() {
            problems.push("neither iptables-save nor nft is installed".to_owned());
        }
        let legacy = !over_nft && !rules.iptables.is_empty() || legacy;
        rules.told = !legacy && problems.is_empty();
        rules.unreadable = (!problems.is_empty()).then(|| problems.join("; "));
        rules
    }

    /// Whether the kernel tells of all changes ([`crate::netlink::netfilter::watch_rules`]).
    pub fn changes_are_told(&self) -> bool {
        self.told
    }

    /// Whether Docker has rules of its own for a family.
    pub fn has_docker(&self, v4: bool) -> bool {
        let iptables = self
            .iptables
            .iter()
            .any(|(of, set)| *of == v4 && set.has_docker());
        iptables || self.nft.as_ref().is_some_and(|set| set.has_docker(v4))
    }

    /// Whether the kernel translates what neighbours of a bridge say to each other by published
    /// ports.
    pub fn translates_within(&self, bridge: &str) -> bool {
        self.iptables
            .iter()
            .any(|(_, set)| set.translates_within(bridge))
    }

    /// What of a network's traffic has rules to pass that the programs would go around.
    pub fn judge(&self, scope: &Scope<'_>) -> Refusals {
        let mut refusals = Refusals::default();
        if let Some(problem) = &self.unreadable {
            let why = format!("the rules of the firewall cannot be read: {problem}");
            refusals.add(true, true, true, &why);
        }
        for (v4, set) in &self.iptables {
            let subnets: Vec<IpNet> = scope
                .subnets
                .iter()
                .filter(|subnet| subnet.addr().is_ipv4() == *v4)
                .copied()
                .collect();
            if !subnets.is_empty() {
                let scope = Scope {
                    subnets: &subnets,
                    ..*scope
                };
                iptables::judge(set, &scope, &mut refusals);
            }
        }
        if let Some(set) = &self.nft {
            set.judge(scope, &mut refusals);
        }
        refusals
    }
}

impl Refusals {
    /// Notes a reason for what it is about, unless there is one already.
    pub(super) fn add(&mut self, within: bool, outward: bool, inward: bool, why: &str) {
        for (concerned, reason) in [
            (within, &mut self.within),
            (outward, &mut self.outward),
            (inward, &mut self.inward),
        ] {
            if concerned && reason.is_none() {
                *reason = Some(why.to_owned());
            }
        }
    }
}

/// What a program prints; `None` if it is not installed.
async fn output(program: &str, args: &[&str]) -> Result<Option<String>, String> {
    let Some(path) = crate::bench::topology::tool(program) else {
        return Ok(None);
    };
    let mut command = Command::new(path);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let ran = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(ran) => ran.map_err(|error| format!("{program} cannot be started: {error}"))?,
        Err(_) => return Err(format!("{program} does not end")),
    };
    if ran.status.success() {
        return Ok(Some(String::from_utf8_lossy(&ran.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    let first = said.lines().next().unwrap_or("no reason given").trim();
    Err(format!("{program} fails: {first}"))
}
