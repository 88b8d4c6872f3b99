//! What is in the maps, for people and programs to read.

use std::collections::HashMap;

use anyhow::Result;
use aya::maps::MapError;
use netpath_common::counter::{Count, Hook, HookCounters};
use netpath_common::flow::{Direction, Flow};
use netpath_common::reason::DropReason;
use netpath_common::search::{BUCKETS, EXHAUSTED, least};
use netpath_common::tuple::Tuple;
use serde::{Deserialize, Serialize};

use super::{Datapath, sweep};

/// A connection: both entries of the flow table in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// `tcp`, `udp`, `icmp` or `icmpv6`.
    pub proto: String,
    /// `masquerade`, `published` or `direct`.
    pub kind: String,
    /// State of the connection.
    pub state: String,
    /// The first packet's source, as its sender wrote it.
    pub source: String,
    /// The first packet's destination, as its sender wrote it.
    pub destination: String,
    /// The source after the translation.
    pub translated_source: String,
    /// The destination after the translation.
    pub translated_destination: String,
    /// Packets in the direction of the first.
    pub packets: u64,
    /// Bytes in the direction of the first, with Ethernet headers.
    pub bytes: u64,
    /// Packets of the answers.
    pub reply_packets: u64,
    /// Bytes of the answers.
    pub reply_bytes: u64,
    /// Seconds since the last packet of either direction.
    pub idle: u32,
}

/// Drops of one reason at one hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// The reason's name.
    pub reason: String,
    /// `container`, `uplink`, `gateway` or `xdp`.
    pub hook: String,
    /// Packets.
    pub packets: u64,
    /// Bytes with Ethernet headers.
    pub bytes: u64,
    /// What the reason means.
    pub meaning: String,
}

/// The hook of reasons for which nothing was dropped.
pub const NO_HOOK: &str = "any";

/// Counters of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRow {
    /// `container`, `uplink` or `gateway`.
    pub hook: String,
    /// What is counted.
    pub counter: String,
    /// Packets; aggregates of segments count as one.
    pub packets: u64,
    /// Bytes with Ethernet headers.
    pub bytes: u64,
}

/// An address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Network id.
    pub network: u16,
    /// Address.
    pub address: String,
    /// MAC address of the container's interface.
    pub mac: String,
    /// Host-side veth.
    pub ifindex: u32,
    /// Slot of the endpoint.
    pub slot: u32,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// `tcp` or `udp`.
    pub proto: String,
    /// Host address and port.
    pub host: String,
    /// Container address and port.
    pub container: String,
    /// Network id.
    pub network: u16,
}

impl Datapath {
    /// All connections of the flow table.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn flows(&self) -> Result<Vec<FlowRow>> {
        let now = sweep::seconds_since_boot()?;
        let entries: HashMap<Tuple, Flow> = self.flow_entries()?.into_iter().collect();
        let mut rows: Vec<FlowRow> = entries
            .iter()
            .filter(|(_, flow)| flow.direction == Direction::Original)
            .map(|(key, flow)| flow_row(key, flow, entries.get(&flow.other_key(key)), now))
            .collect();
        rows.sort_by(|a, b| {
            (&a.proto, &a.source, &a.destination).cmp(&(&b.proto, &b.source, &b.destination))
        });
        Ok(rows)
    }

    /// All drops so far; with `all`, one row also for each reason that there was none for, with
    /// the hook [`NO_HOOK`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn drops(&self, all: bool) -> Result<Vec<DropRow>> {
        let mut rows = Vec::new();
        for key in self.tables.drops.keys() {
            let key = key?;
            let counts = match self.tables.drops.get(&key, 0) {
                Err(MapError::KeyNotFound) => continue,
                counts => counts?,
            };
            let (packets, bytes) = total(counts.iter());
            rows.push(DropRow {
                reason: name(&key.reason),
                hook: name(&key.hook),
                packets,
                bytes,
                meaning: key.reason.text().to_owned(),
            });
        }
        if all {
            for reason in DropReason::ALL {
                let row = DropRow {
                    reason: name(&reason),
                    hook: NO_HOOK.to_owned(),
                    packets: 0,
                    bytes: 0,
                    meaning: reason.text().to_owned(),
                };
                if !rows.iter().any(|known| known.reason == row.reason) {
                    rows.push(row);
                }
            }
        }
        rows.sort_by(|a, b| {
            b.packets
                .cmp(&a.packets)
                .then_with(|| a.reason.cmp(&b.reason))
        });
        Ok(rows)
    }

    /// The counters of all hooks, and how many ports were taken when a source port was sought.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn counters(&self) -> Result<Vec<CounterRow>> {
        let mut rows = Vec::new();
        for hook in Hook::ALL {
            let cpus = self.tables.counters.get(&(hook as u32), 0)?;
            let mut row = |counter: &str, of: fn(&HookCounters) -> Count| {
                let counts: Vec<Count> = cpus.iter().map(of).collect();
                let (packets, bytes) = total(counts.iter());
                rows.push(CounterRow {
                    hook: name(&hook),
                    counter: counter.to_owned(),
                    packets,
                    bytes,
                });
            };
            row("seen", |c| c.seen);
            row("to_container", |c| c.to_container);
            row("to_uplink", |c| c.to_uplink);
            row("to_host", |c| c.to_host);
            row("to_tunnel", |c| c.to_tunnel);
            row("answered", |c| c.answered);
            row("dropped", |c| c.dropped);
            row("new_flows", |c| Count {
                packets: c.new_flows,
                bytes: 0,
            });
        }
        let cpus = self.tables.snat_retries.get(&0, 0)?;
        for bucket in 0..BUCKETS {
            rows.push(CounterRow {
                hook: "snat".to_owned(),
                counter: search_name(bucket),
                packets: cpus.iter().map(|cpu| cpu.buckets[bucket]).sum(),
                bytes: 0,
            });
        }
        Ok(rows)
    }

    /// All addresses of endpoints.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn endpoints(&self) -> Result<Vec<EndpointRow>> {
        let mut entries: Vec<_> = self.tables.endpoints.iter()?.collect();
        entries.sort_by_key(|(key, _)| (key.network, key.addr.octets));
        Ok(entries
            .into_iter()
            .map(|(key, endpoint)| EndpointRow {
                network: key.network,
                address: key.addr.to_string(),
                mac: endpoint.mac.to_string(),
                ifindex: endpoint.ifindex,
                slot: endpoint.slot,
            })
            .collect())
    }

    /// All published ports.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn ports(&self) -> Result<Vec<PortRow>> {
        let mut entries: Vec<_> = self.tables.ports.iter()?.collect();
        entries.sort_by_key(|(key, _)| (key.port, key.proto as u8, key.addr.octets));
        Ok(entries
            .into_iter()
            .map(|(key, target)| PortRow {
                proto: name(&key.proto),
                host: with_port(&key.addr, key.port),
                container: with_port(&target.addr, target.port),
                network: target.network,
            })
            .collect())
    }
}

fn flow_row(key: &Tuple, flow: &Flow, reply: Option<&Flow>, now: u32) -> FlowRow {
    let last_seen = flow.last_seen.max(reply.map_or(0, |r| r.last_seen));
    FlowRow {
        proto: name(&key.proto),
        kind: name(&flow.kind),
        state: name(&flow.state),
        source: with_port(&key.src, key.src_port),
        destination: with_port(&key.dst, key.dst_port),
        translated_source: with_port(&flow.new_src, flow.new_src_port),
        translated_destination: with_port(&flow.new_dst, flow.new_dst_port),
        packets: flow.packets,
        bytes: flow.bytes,
        reply_packets: reply.map_or(0, |r| r.packets),
        reply_bytes: reply.map_or(0, |r| r.bytes),
        idle: now.saturating_sub(last_seen),
    }
}

/// What is counted in a bucket of searches: `retries_0`, `retries_2_to_3`, `exhausted`.
fn search_name(bucket: usize) -> String {
    let (first, last) = (least(bucket), least(bucket + 1) - 1);
    match bucket {
        EXHAUSTED => "exhausted".to_owned(),
        _ if first == last => format!("retries_{first}"),
        _ => format!("retries_{first}_to_{last}"),
    }
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
pub(crate) fn with_port(addr: &netpath_common::addr::Addr, port: u16) -> String {
    std::net::SocketAddr::new(addr.to_ip(), port).to_string()
}

/// The name that a fieldless enum has in JSON.
pub(crate) fn name<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => format!("{other:?}"),
    }
}

fn total<'a>(counts: impl Iterator<Item = &'a Count>) -> (u64, u64) {
    counts.fold((0, 0), |(packets, bytes), c| {
        (packets + c.packets, bytes + c.bytes)
    })
}
