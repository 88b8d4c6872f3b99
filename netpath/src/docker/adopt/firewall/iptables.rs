//! Rules of iptables, as `iptables-save` prints them.

use std::collections::HashMap;

use ipnet::IpNet;

use super::Scope;
use crate::docker::adopt::Refusals;

/// Chains may jump to chains; the kernel forbids loops, and nobody has this many levels.
const DEEPEST: u32 = 32;

/// All tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Rules by table and chain, in order.
    chains: HashMap<(String, String), Vec<Rule>>,
}

/// A rule, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    /// As it was printed.
    text: String,
    input: Option<Match<String>>,
    output: Option<Match<String>>,
    src: Option<Match<IpNet>>,
    dst: Option<Match<IpNet>>,
    /// States of connections (NEW, ESTABLISHED, …), if it asks.
    states: Option<Vec<String>>,
    /// Whether it asks for anything else.
    narrower: bool,
    target: String,
}

/// Something that is to be equal, or not to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Match<T> {
    value: T,
    negated: bool,
}

/// Packets of a network that pass the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packets {
    way: Way,
    /// Of a connection that is known.
    established: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From container to container.
    Within,
    /// From a container to elsewhere.
    Out,
    /// From elsewhere to a container.
    In,
}

const ALL: [Packets; 6] = {
    const fn packets(way: Way, established: bool) -> Packets {
        Packets { way, established }
    }
    [
        packets(Way::Within, false),
        packets(Way::Within, true),
        packets(Way::Out, false),
        packets(Way::Out, true),
        packets(Way::In, false),
        packets(Way::In, true),
    ]
};

/// Reads what `iptables-save` prints. Lines that mean nothing to us are left out.
pub fn parse(text: &str) -> RuleSet {
    let mut set = RuleSet::default();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.trim().clone_into(&mut table);
        } else if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split(' ').next().unwrap_or_default();
            set.chains
                .entry((table.clone(), name.to_owned()))
                .or_default();
        } else if let Some((chain, rule)) = rule(line) {
            set.chains
                .entry((table.clone(), chain))
                .or_default()
                .push(rule);
        }
    }
    set
}

/// Words as a shell would have them: comments are quoted.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut quoted, mut escaped, mut open) = (false, false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                open = true;
            }
            ' ' if !quoted => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            c => word.push(c),
        }
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    words
}

fn rule(line: &str) -> Option<(String, Rule)> {
    let words = words(line);
    let mut words = words.iter().map(String::as_str);
    // Counters may come first.
    let mut first = words.next()?;
    if first.starts_with('[') {
        first = words.next()?;
    }
    if first != "-A" {
        return None;
    }
    let chain = words.next()?.to_owned();
    let mut rule = Rule {
        text: line.to_owned(),
        ..Rule::default()
    };
    let mut negated = false;
    while let Some(word) = words.next() {
        let interface = |value: Option<&str>| {
            let value = value?.to_owned();
            Some(Match { value, negated })
        };
        let prefix = |value: Option<&str>| {
            let value = value?;
            let net = value.parse::<IpNet>().ok();
            let net = net.or_else(|| value.parse::<std::net::IpAddr>().ok().map(IpNet::from));
            net.map(|value| Match { value, negated })
        };
        match word {
            "!" => {
                negated = true;
                continue;
            }
            "-i" => rule.input = interface(words.next()),
            "-o" => rule.output = interface(words.next()),
            "-s" => rule.src = prefix(words.next()),
            "-d" => rule.dst = prefix(words.next()),
            "--ctstate" | "--state" if !negated => {
                let states = words.next().unwrap_or_default();
                rule.states = Some(states.split(',').map(str::to_owned).collect());
            }
            "-m" => {
                let name = words.next().unwrap_or_default();
                rule.narrower |= !matches!(name, "conntrack" | "state" | "comment");
            }
            "--comment" => {
                words.next();
            }
            "-j" | "-g" => {
                words
                    .next()
                    .unwrap_or_default()
                    .clone_into(&mut rule.target);
                // What follows are the target's own options.
                break;
            }
            _ => rule.narrower = true,
        }
        negated = false;
    }
    Some((chain, rule))
}

impl RuleSet {
    fn chain(&self, table: &str, chain: &str) -> Option<&Vec<Rule>> {
        self.chains.get(&(table.to_owned(), chain.to_owned()))
    }

    /// Whether published ports are translated for neighbours of the same bridge as well: Docker
    /// does that where there is no docker-proxy.
    pub fn translates_within(&self, bridge: &str) -> bool {
        let rules = self.chain("nat", "DOCKER");
        rules.into_iter().flatten().any(|rule| {
            let other = |input: &Match<String>| input.negated && input.value == bridge;
            rule.target == "DNAT" && !rule.input.as_ref().is_some_and(other)
        })
    }

    /// Whether Docker translates by these rules.
    pub fn has_docker(&self) -> bool {
        self.chain("nat", "DOCKER").is_some()
    }
}

/// Notes what of a network's traffic rules keep back, or translate otherwise than Docker does.
pub fn judge(set: &RuleSet, scope: &Scope<'_>, refusals: &mut Refusals) {
    let all: Vec<Packets> = ALL
        .into_iter()
        .filter(|packets| packets.way != Way::Within || scope.bridged)
        .collect();
    for (table, chain) in [
        ("raw", "PREROUTING"),
        ("mangle", "PREROUTING"),
        ("mangle", "FORWARD"),
        ("mangle", "POSTROUTING"),
        ("filter", "FORWARD"),
        ("nat", "PREROUTING"),
        ("nat", "POSTROUTING"),
    ] {
        let Some(rules) = set.chain(table, chain) else {
            continue;
        };
        // Behind Docker's own rules there is nothing that Docker has not let through already.
        let last = rules.iter().rposition(|rule| rule.is_dockers(scope));
        let judged = match last {
            Some(last) if table == "filter" => rules.get(..=last).unwrap_or_default(),
            _ => rules,
        };
        let walk = Walk { set, scope, table };
        walk.chain(judged, chain, &all, refusals, 0);
    }
}

/// A walk through the rules of a table.
struct Walk<'a> {
    set: &'a RuleSet,
    scope: &'a Scope<'a>,
    table: &'a str,
}

impl Walk<'_> {
    fn chain(
        &self,
        rules: &[Rule],
        name: &str,
        packets: &[Packets],
        refusals: &mut Refusals,
        depth: u32,
    ) {
        let mut packets = packets.to_vec();
        for rule in rules {
            if rule.is_dockers(self.scope) {
                continue;
            }
            let matching: Vec<Packets> = packets
                .iter()
                .filter(|packets| rule.may_match(**packets, self.scope))
                .copied()
                .collect();
            if matching.is_empty() {
                continue;
            }
            let let_through = matches!(rule.target.as_str(), "ACCEPT" | "RETURN");
            if let_through && rule.is_for_all_of_its_states() && self.table != "nat" {
                // What it lets through does not meet the rules that follow.
                packets.retain(|packets| !matching.contains(packets));
            }
            if self.is_in_the_way(rule, name) {
                let why = format!("a rule of the {} table: {}", self.table, rule.text);
                for packets in &matching {
                    packets.refuse(self.table == "nat", refusals, &why);
                }
            } else if let Some(rules) = self.set.chain(self.table, &rule.target)
                && depth < DEEPEST
            {
                self.chain(rules, &rule.target, &matching, refusals, depth + 1);
            }
        }
    }

    /// Whether a rule does what the programs would not do.
    fn is_in_the_way(&self, rule: &Rule, chain: &str) -> bool {
        let target = rule.target.as_str();
        if self.set.chain(self.table, target).is_some() {
            return false;
        }
        match (self.table, chain) {
            // Everybody's own rules are here for a purpose, whatever they do.
            ("filter", "DOCKER-USER") => !matches!(target, "RETURN" | "ACCEPT" | ""),
            // Who is exempt from Docker's masquerading, and who is translated otherwise.
            ("nat", "POSTROUTING") => matches!(target, "ACCEPT" | "RETURN" | "SNAT" | "NETMAP"),
            ("nat", _) => matches!(target, "DNAT" | "REDIRECT" | "SNAT" | "NETMAP" | "TPROXY"),
            _ => matches!(target, "DROP" | "REJECT" | "NFQUEUE" | "TPROXY" | "TARPIT"),
        }
    }
}

impl Packets {
    /// Notes that these packets must pass the stack: with them goes what they belong to. (How a
    /// connection is translated is decided by its first packet.)
    fn refuse(self, first_only: bool, refusals: &mut Refusals, why: &str) {
        if first_only && self.established {
            return;
        }
        let (way, established) = (self.way, self.established);
        let outward = way == Way::Out && !established || way == Way::In && established;
        let inward = way == Way::In && !established || way == Way::Out && established;
        refusals.add(way == Way::Within, outward, inward, why);
    }
}

impl Rule {
    /// Whether it is one that Docker itself makes for a bridge.
    fn is_dockers(&self, scope: &Scope<'_>) -> bool {
        if self.target == "DOCKER-USER" {
            return false;
        }
        if self.target == "DOCKER" || self.target.starts_with("DOCKER-") {
            return true;
        }
        let bridges = || {
            scope
                .elsewhere
                .iter()
                .map(String::as_str)
                .chain([scope.bridge])
        };
        let of_bridge = |interface: &Option<Match<String>>| {
            interface
                .as_ref()
                .is_some_and(|m| bridges().any(|bridge| m.value == bridge))
        };
        // `-d ADDRESS ! -i BRIDGE -j DROP` of the raw table: nobody else reaches a container
        // directly; `-d 127.0.0.1 ! -i lo`: nor a port of the host's own.
        let direct = self.target == "DROP"
            && self
                .dst
                .as_ref()
                .is_some_and(|dst| dst.value.prefix_len() == max(&dst.value))
            && self.input.as_ref().is_some_and(|input| {
                input.negated && (of_bridge(&self.input) || input.value == "lo")
            });
        let (input, output) = (of_bridge(&self.input), of_bridge(&self.output));
        // Docker's own accepting rules, and the dropping one of a bridge without icc.
        let forward = match self.target.as_str() {
            "ACCEPT" => (input || output) && self.src.is_none() && self.dst.is_none(),
            "DROP" => {
                let plain = |m: &Option<Match<String>>| m.as_ref().is_some_and(|m| !m.negated);
                let same = self.input == self.output && plain(&self.input);
                input && same && self.src.is_none() && self.dst.is_none() && !self.narrower
            }
            "MASQUERADE" => true,
            _ => false,
        };
        direct || forward
    }

    /// Whether nothing but interface, addresses and state decides, so that all of such packets
    /// match.
    fn is_for_all_of_its_states(&self) -> bool {
        !self.narrower
            && self.states.is_some()
            && self.input.is_none()
            && self.output.is_none()
            && self.src.is_none()
            && self.dst.is_none()
    }

    /// Whether packets may match. In doubt they do.
    fn may_match(&self, packets: Packets, scope: &Scope<'_>) -> bool {
        let Packets { way, established } = packets;
        let by_state = match &self.states {
            None => true,
            Some(states) => states.iter().any(|state| match state.as_str() {
                "NEW" => !established,
                "ESTABLISHED" | "RELATED" => established,
                // Ours are none of these.
                "INVALID" => false,
                _ => true,
            }),
        };
        let own = [scope.bridge.to_owned()];
        let (from, to): (&[String], &[String]) = match way {
            Way::Within => (&own, &own),
            Way::Out => (&own, scope.elsewhere),
            Way::In => (scope.elsewhere, &own),
        };
        let (src, dst) = match way {
            Way::Within => (Some(scope.subnets), Some(scope.subnets)),
            Way::Out => (Some(scope.subnets), None),
            Way::In => (None, Some(scope.subnets)),
        };
        by_state
            && device_may_match(&self.input, from)
            && device_may_match(&self.output, to)
            && address_may_match(&self.src, src)
            && address_may_match(&self.dst, dst)
    }
}

fn max(net: &IpNet) -> u8 {
    net.max_prefix_len()
}

fn device_may_match(wanted: &Option<Match<String>>, devices: &[String]) -> bool {
    let Some(Match { value, negated }) = wanted else {
        return true;
    };
    devices.iter().any(|device| {
        let same = match value.strip_suffix('+') {
            Some(start) => device.starts_with(start),
            None => device == value,
        };
        same != *negated
    })
}

/// `nets` are where the packets are from (or go to), if that is known.
fn address_may_match(wanted: &Option<Match<IpNet>>, nets: Option<&[IpNet]>) -> bool {
    let (Some(Match { value, negated }), Some(nets)) = (wanted, nets) else {
        return true;
    };
    nets.iter().any(|net| {
        if *negated {
            !value.contains(net)
        } else {
            value.contains(net) || net.contains(value)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of Docker 20.10 with one network, and others in their places.
    fn rules(first: &str, user: &str, last: &str, nat: &str) -> RuleSet {
        parse(&format!(
            "# Generated by iptables-save v1.8.9 (nf_tables)\n\
             *nat\n\
             :PREROUTING ACCEPT [0:0]\n\
             :POSTROUTING ACCEPT [0:0]\n\
             :DOCKER - [0:0]\n\
             {nat}\
             -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
             -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
             -A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE\n\
             -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n\
             COMMIT\n\
             *raw\n\
             :PREROUTING ACCEPT [0:0]\n\
             -A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP\n\
             -A PREROUTING -d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 81 -j DROP\n\
             COMMIT\n\
             *filter\n\
             :FORWARD DROP [0:0]\n\
             :DOCKER - [0:0]\n\
             :DOCKER-USER - [0:0]\n\
             :other - [0:0]\n\
             {first}\
             -A FORWARD -j DOCKER-USER\n\
             -A FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
             -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A FORWARD -o docker0 -j DOCKER\n\
             -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n\
             -A FORWARD -i docker0 -o docker0 -j DROP\n\
             {last}\
             -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\n\
             {user}\
             -A DOCKER-USER -j RETURN\n\
             -A other -p tcp -m tcp --dport 25 -j REJECT --reject-with icmp-port-unreachable\n\
             COMMIT\n"
        ))
    }

    /// What is refused: within, outward, inward.
    fn refused(set: &RuleSet, bridged: bool) -> [bool; 3] {
        let mut refusals = Refusals::default();
        let scope = Scope {
            bridge: "docker0",
            subnets: &["172.17.0.0/16".parse().unwrap()],
            elsewhere: &["eth0".to_owned(), "br-other".to_owned()],
            bridged,
        };
        judge(set, &scope, &mut refusals);
        [refusals.within, refusals.outward, refusals.inward].map(|reason| reason.is_some())
    }

    const NOTHING: [bool; 3] = [false; 3];

    #[test]
    fn dockers_own_rules_are_no_reason() {
        let set = rules("", "", "", "");
        assert!(set.has_docker());
        assert_eq!(refused(&set, true), NOTHING);
        assert!(!parse("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n").has_docker());
    }

    #[test]
    fn rules_for_docker_users_refuse_what_they_are_about() {
        let established = "-A DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
        for (rule, exempt, plain) in [
            // As Docker's documentation has it.
            (
                "-A DOCKER-USER ! -s 192.0.2.0/24 -i eth0 -j DROP\n",
                [false, false, true],
                [false, true, true],
            ),
            (
                "-A DOCKER-USER -d 10.0.0.0/8 -i docker0 -j REJECT --reject-with icmp-port-unreachable\n",
                [false, true, false],
                [false, true, true],
            ),
            (
                "-A DOCKER-USER -j LOG --log-prefix \"x y\"\n",
                [true; 3],
                [true; 3],
            ),
            (
                "-A DOCKER-USER -p tcp -m tcp --dport 25 -j other\n",
                [true; 3],
                [true; 3],
            ),
            // About others.
            ("-A DOCKER-USER -i wlan0 -j DROP\n", NOTHING, NOTHING),
            (
                "-A DOCKER-USER -s 10.9.0.0/16 -o eth0 -j DROP\n",
                NOTHING,
                NOTHING,
            ),
            (
                "-A DOCKER-USER -m conntrack --ctstate INVALID -j DROP\n",
                NOTHING,
                NOTHING,
            ),
            (
                "-A DOCKER-USER -s 192.0.2.7/32 -j ACCEPT\n",
                NOTHING,
                NOTHING,
            ),
        ] {
            assert_eq!(refused(&rules("", rule, "", ""), true), plain, "{rule}");
            let both = format!("{established}{rule}");
            assert_eq!(refused(&rules("", &both, "", ""), true), exempt, "{rule}");
        }
        // Without br_netfilter nobody sees what stays on the bridge.
        let log = rules("", "-A DOCKER-USER -j LOG\n", "", "");
        assert_eq!(refused(&log, false), [false, true, true]);
    }

    #[test]
    fn rules_before_dockers_count_and_those_behind_do_not() {
        let drop = "-A FORWARD -o eth0 -p tcp -m tcp --dport 25 -j DROP\n";
        assert_eq!(refused(&rules(drop, "", "", ""), true), [false, true, true]);
        assert_eq!(refused(&rules("", "", drop, ""), true), NOTHING);
        let libvirt = "-A FORWARD -o virbr0 -j other\n-A FORWARD -i virbr0 -j REJECT\n";
        assert_eq!(refused(&rules(libvirt, "", "", ""), true), NOTHING);
    }

    #[test]
    fn other_translations_count() {
        let exempt = "-A POSTROUTING -s 172.17.0.0/16 -d 10.0.0.0/8 -j RETURN\n";
        assert_eq!(
            refused(&rules("", "", "", exempt), true),
            [false, true, false]
        );
        let redirect =
            "-A PREROUTING -i docker0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128\n";
        assert_eq!(
            refused(&rules("", "", "", redirect), true),
            [true, true, false]
        );
        let own = "-A POSTROUTING -s 10.9.0.0/16 -o eth0 -j SNAT --to-source 192.0.2.9\n";
        assert_eq!(refused(&rules("", "", "", own), true), NOTHING);
    }

    #[test]
    fn words_are_those_of_a_shell() {
        assert_eq!(
            words(r#"-A x  -m comment --comment "a \"b\" c" -j DROP"#).len(),
            8
        );
        assert_eq!(words(r#"a "" b"#), ["a", "", "b"]);
    }
}
