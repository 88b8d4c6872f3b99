//! Tables of nftables, as `nft -j list ruleset` prints them.
//!
//! Any table that is not Docker's and may drop or translate what is forwarded counts for all of a
//! network's traffic: its rules are programs, and to find out for which packets they do would be
//! to run them.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::Scope;
use crate::docker::adopt::Refusals;

/// Docker's own table of the backend `nftables`.
const DOCKER: &str = "docker-bridges";
/// The tables of iptables, where it is built upon nftables: they are read by its own tool.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// A table: family and name.
type Table = (String, String);

/// What may keep packets back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Tables with the chain that does.
    dropping: Vec<(Table, String)>,
    /// Families for which Docker has a table.
    docker: HashSet<String>,
}

#[derive(Default)]
struct Chain {
    /// Whether forwarded packets come by.
    hooked: bool,
    /// What it says, or its policy is to drop.
    drops: bool,
    /// Chains that it goes on in.
    next: Vec<String>,
}

/// Reads the rules; `None` if it is not what `nft` prints. `iptables` says that tables of
/// iptables are among them.
pub fn parse(text: &str, iptables: bool) -> Option<RuleSet> {
    let value: Value = serde_json::from_str(text).ok()?;
    let objects = value.get("nftables")?.as_array()?;
    let mut set = RuleSet::default();
    let mut chains: HashMap<(Table, String), Chain> = HashMap::new();
    // Verdicts of maps, by table: which rules use a map is not looked at.
    let mut mapped: HashMap<Table, Chain> = HashMap::new();
    for object in objects {
        let Some((kind, body)) = object.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        let word = |key: &str| {
            body.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let table = (word("family"), word("table"));
        match kind.as_str() {
            "table" if word("name") == DOCKER => {
                set.docker.insert(word("family"));
            }
            "chain" => {
                let chain = chains.entry((table, word("name"))).or_default();
                // Rules that see packets before and after they are routed see those that are
                // forwarded. (Those at `egress` see what the programs send as well.)
                let hooks = ["ingress", "prerouting", "forward", "postrouting"];
                chain.hooked = hooks.contains(&word("hook").as_str());
                chain.drops |= word("policy") == "drop";
            }
            "rule" => {
                let chain = chains.entry((table, word("chain"))).or_default();
                look_for_verdicts(body, chain);
            }
            "map" => look_for_verdicts(body, mapped.entry(table).or_default()),
            _ => {}
        }
    }
    let mut hooked: Vec<&(Table, String)> = chains
        .iter()
        .filter(|(_, chain)| chain.hooked)
        .map(|(key, _)| key)
        .filter(|((family, name), _)| {
            name != DOCKER
                && matches!(family.as_str(), "ip" | "ip6" | "inet" | "bridge" | "netdev")
                && !(iptables
                    && matches!(family.as_str(), "ip" | "ip6" | "bridge")
                    && IPTABLES.contains(&name.as_str()))
        })
        .collect();
    hooked.sort();
    for (table, name) in hooked {
        if drops(table, name, &chains, &mapped) {
            set.dropping.push((table.clone(), name.clone()));
        }
    }
    Some(set)
}

/// Whether a chain, or one that it goes on in, may keep packets back.
fn drops(
    table: &Table,
    name: &str,
    chains: &HashMap<(Table, String), Chain>,
    mapped: &HashMap<Table, Chain>,
) -> bool {
    let map = mapped.get(table);
    if map.is_some_and(|map| map.drops) {
        return true;
    }
    let mut open: Vec<&str> = vec![name];
    open.extend(
        map.iter()
            .flat_map(|map| map.next.iter().map(String::as_str)),
    );
    let mut seen: HashSet<&str> = HashSet::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name) {
            continue;
        }
        if let Some(chain) = chains.get(&(table.clone(), name.to_owned())) {
            if chain.drops {
                return true;
            }
            open.extend(chain.next.iter().map(String::as_str));
        }
    }
    false
}

/// Verdicts may be anywhere in a rule: in its expressions, or in a map of its own.
fn look_for_verdicts(value: &Value, chain: &mut Chain) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match key.as_str() {
                    "drop" | "reject" | "queue" | "tproxy" => chain.drops = true,
                    // Masquerading is what the programs do as well.
                    "dnat" | "snat" | "redirect" => chain.drops = true,
                    "jump" | "goto" => {
                        let target = value.get("target").and_then(Value::as_str);
                        chain.next.extend(target.map(str::to_owned));
                    }
                    _ => look_for_verdicts(value, chain),
                }
            }
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| look_for_verdicts(value, chain)),
        _ => {}
    }
}

impl RuleSet {
    /// Whether Docker has a table of its own for a family.
    pub fn has_docker(&self, v4: bool) -> bool {
        self.docker.contains(if v4 { "ip" } else { "ip6" })
    }

    /// Notes what of a network's traffic may be kept back.
    pub fn judge(&self, scope: &Scope<'_>, refusals: &mut Refusals) {
        for ((family, name), chain) in &self.dropping {
            let has = |v4: bool| {
                scope
                    .subnets
                    .iter()
                    .any(|subnet| subnet.addr().is_ipv4() == v4)
            };
            let (within, beyond) = match family.as_str() {
                "bridge" => (true, false),
                // Of a device, which is none of the containers'.
                "netdev" => (false, true),
                "ip" if !has(true) => continue,
                "ip6" if !has(false) => continue,
                _ => (scope.bridged, true),
            };
            let why =
                format!("table {family} {name} of nftables may drop or translate (chain {chain})");
            refusals.add(within, beyond, beyond, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, iptables: bool) -> Refusals {
        let set = parse(text, iptables).unwrap();
        let mut refusals = Refusals::default();
        let scope = Scope {
            bridge: "docker0",
            subnets: &["172.17.0.0/16".parse().unwrap()],
            elsewhere: &["eth0".to_owned()],
            bridged: false,
        };
        set.judge(&scope, &mut refusals);
        refusals
    }

    fn ruleset(chain: &str, rules: &[&str]) -> String {
        let rules: Vec<String> = rules
            .iter()
            .map(|expr| {
                format!(
                    r#"{{"rule":{{"family":"inet","table":"fw","chain":"c","expr":[{expr}]}}}}"#
                )
            })
            .collect();
        format!(
            r#"{{"nftables":[{{"metainfo":{{}}}},{{"table":{{"family":"inet","name":"fw"}}}},
            {{"chain":{{"family":"inet","table":"fw","name":"c",{chain}}}}},
            {{"chain":{{"family":"inet","table":"fw","name":"d"}}}},
            {{"rule":{{"family":"inet","table":"fw","chain":"d","expr":[{{"drop":null}}]}}}}
            {}{}]}}"#,
            if rules.is_empty() { "" } else { "," },
            rules.join(",")
        )
    }

    const FORWARD: &str = r#""type":"filter","hook":"forward","policy":"accept""#;

    #[test]
    fn what_may_drop_on_the_way_counts() {
        let none = Refusals::default();
        assert_eq!(judged(&ruleset(FORWARD, &[]), false), none);
        assert_eq!(
            judged(&ruleset(FORWARD, &[r#"{"accept":null}"#]), false),
            none
        );
        for rule in [
            r#"{"drop":null}"#,
            r#"{"reject":{"type":"icmpx"}}"#,
            r#"{"jump":{"target":"d"}}"#,
            r#"{"vmap":{"key":{},"data":{"set":[["a",{"goto":{"target":"d"}}]]}}}"#,
        ] {
            let refusals = judged(&ruleset(FORWARD, &[rule]), false);
            assert!(refusals.outward.unwrap().contains("inet fw"), "{rule}");
            assert!(
                refusals.inward.is_some() && refusals.within.is_none(),
                "{rule}"
            );
        }
        let policy = r#""type":"filter","hook":"forward","policy":"drop""#;
        assert!(judged(&ruleset(policy, &[]), false).inward.is_some());
        // What is for the host itself is another thing.
        let input = r#""type":"filter","hook":"input","policy":"drop""#;
        assert_eq!(judged(&ruleset(input, &[]), false), none);
    }

    #[test]
    fn what_comes_before_and_after_forwarding_counts() {
        let drop = r#"{"drop":null}"#;
        for hook in ["ingress", "prerouting", "postrouting"] {
            let chain = format!(r#""type":"filter","hook":"{hook}","policy":"accept""#);
            let refusals = judged(&ruleset(&chain, &[drop]), false);
            assert!(refusals.outward.is_some(), "{hook}");
        }
        // The programs see packets before the rules of a device.
        let chain = r#""type":"filter","hook":"ingress","dev":"eth0","policy":"accept""#;
        let of_a_device = ruleset(chain, &[drop]).replace("inet", "netdev");
        let refusals = judged(&of_a_device, false);
        assert!(refusals.inward.is_some() && refusals.within.is_none());
        // iptables has no such tables, whatever they are called.
        let named = of_a_device.replace("fw", "filter");
        assert!(judged(&named, true).inward.is_some());
        let egress = of_a_device.replace("ingress", "egress");
        assert_eq!(judged(&egress, false), Refusals::default());
    }

    #[test]
    fn translations_of_others_count_but_for_masquerading() {
        let chain = r#""type":"nat","hook":"postrouting","policy":"accept""#;
        let snat = r#"{"snat":{"addr":"203.0.113.7"}}"#;
        assert!(judged(&ruleset(chain, &[snat]), false).outward.is_some());
        let masquerade = r#"{"masquerade":null}"#;
        assert_eq!(
            judged(&ruleset(chain, &[masquerade]), false),
            Refusals::default()
        );
    }

    #[test]
    fn tables_of_iptables_are_read_elsewhere() {
        let text = ruleset(FORWARD, &[r#"{"drop":null}"#])
            .replace("inet", "ip")
            .replace("fw", "filter");
        assert_eq!(judged(&text, true), Refusals::default());
        assert!(judged(&text, false).outward.is_some());
    }

    #[test]
    fn docker_has_a_table_of_its_own() {
        let text = ruleset(FORWARD, &[r#"{"drop":null}"#])
            .replace("inet", "ip")
            .replace("fw", DOCKER);
        assert_eq!(judged(&text, false), Refusals::default());
        let set = parse(&text, false).unwrap();
        assert!(set.has_docker(true) && !set.has_docker(false));
        assert_eq!(parse("{}", false), None);
        assert_eq!(parse("no JSON", false), None);
    }
}
