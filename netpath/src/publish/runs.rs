//! Many bindings in few words: neighbours that lead to neighbours are one run.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use netpath_common::tuple::Proto;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Binding, proto_name};

/// A binding and those that follow it, each port one higher than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    #[serde(flatten)]
    first: Binding,
    /// How many there are.
    #[serde(default = "one")]
    count: u16,
}

fn one() -> u16 {
    1
}

/// What the next binding of a run looks like.
type Next = (Proto, IpAddr, u16, u16);

fn compress(bindings: &[Binding]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut open: HashMap<Next, usize> = HashMap::new();
    for binding in bindings {
        let at =
            |host_port, container_port| (binding.proto, binding.host_ip, host_port, container_port);
        let continued = open.remove(&at(binding.host_port, binding.container_port));
        let index = match continued.and_then(|index| Some((index, runs.get_mut(index)?))) {
            Some((index, run)) => {
                run.count += 1;
                index
            }
            None => {
                runs.push(Run {
                    first: *binding,
                    count: 1,
                });
                runs.len() - 1
            }
        };
        if let (Some(host), Some(container)) = (
            binding.host_port.checked_add(1),
            binding.container_port.checked_add(1),
        ) {
            open.insert(at(host, container), index);
        }
    }
    runs
}

/// For `serde(with)`: the store reads all of its records often, and a record with thousands of
/// bindings would be slow to read.
pub fn serialize<S: Serializer>(bindings: &[Binding], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(compress(bindings))
}

/// See [`serialize`]; a run may be a lone binding.
///
/// # Errors
/// The record is damaged.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Binding>, D::Error> {
    let runs: Vec<Run> = Vec::deserialize(deserializer)?;
    let expand = |run: Run| {
        (0..run.count).map(move |nth| Binding {
            host_port: run.first.host_port.saturating_add(nth),
            container_port: run.first.container_port.saturating_add(nth),
            ..run.first
        })
    };
    Ok(runs.into_iter().flat_map(expand).collect())
}

/// Bindings as `docker ps` prints them: `0.0.0.0:8000-8009->80-89/tcp`.
pub fn show(bindings: &[Binding]) -> Vec<String> {
    let words = compress(bindings).into_iter().map(|run| {
        if run.count == 1 {
            return run.first.to_string();
        }
        let Binding {
            host_ip,
            host_port,
            container_port,
            proto,
        } = run.first;
        let more = run.count - 1;
        format!(
            "{}-{}->{container_port}-{}/{}",
            SocketAddr::new(host_ip, host_port),
            host_port.saturating_add(more),
            container_port.saturating_add(more),
            proto_name(proto)
        )
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Record(#[serde(with = "super")] Vec<Binding>);

    fn binding(host_ip: &str, host_port: u16, container_port: u16) -> Binding {
        Binding {
            host_ip: host_ip.parse().unwrap(),
            host_port,
            container_port,
            proto: Proto::Tcp,
        }
    }

    #[test]
    fn ranges_of_both_families_are_two_runs() {
        let bindings: Vec<Binding> = (0..1000)
            .flat_map(|n| ["0.0.0.0", "::"].map(|ip| binding(ip, 10_000 + n, 1 + n)))
            .collect();
        assert_eq!(
            show(&bindings),
            [
                "0.0.0.0:10000-10999->1-1000/tcp",
                "[::]:10000-10999->1-1000/tcp"
            ]
        );
        let json = serde_json::to_string(&Record(bindings.clone())).unwrap();
        assert!(json.len() < 300, "{json}");
        let Record(mut read) = serde_json::from_str(&json).unwrap();
        read.sort_by_key(|binding| (binding.host_port, binding.host_ip));
        assert_eq!(read, bindings);
    }

    #[test]
    fn others_stay_as_they_are() {
        assert_eq!(
            show(&[binding("127.0.0.1", 80, 80), binding("127.0.0.1", 82, 81)]),
            ["127.0.0.1:80->80/tcp", "127.0.0.1:82->81/tcp"]
        );
        let json = r#"[{"host_ip":"0.0.0.0","host_port":8080,"container_port":80,"proto":"tcp"}]"#;
        let Record(read) = serde_json::from_str(json).unwrap();
        assert_eq!(read, [binding("0.0.0.0", 8080, 80)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(ports in proptest::collection::vec((0u8..3, 65_500u16.., 65_500u16..), 0..60)) {
            let mut bindings: Vec<Binding> = ports
                .into_iter()
                .map(|(ip, host, container)| binding(&format!("127.0.0.{ip}"), host, container))
                .collect();
            let json = serde_json::to_string(&Record(bindings.clone())).unwrap();
            let Record(mut read) = serde_json::from_str(&json).unwrap();
            let key = |b: &Binding| (b.host_ip, b.host_port, b.container_port);
            bindings.sort_by_key(key);
            read.sort_by_key(key);
            prop_assert_eq!(read, bindings);
        }
    }
}
