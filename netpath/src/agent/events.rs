//! Those who watch: drops and flows as they happen.
//!
//! One task reads what the programs tell and passes it to everybody who watches; each has a
//! filter of its own. The programs tell only what somebody wants: while nobody watches, they
//! do nothing for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use ipnet::IpNet;
use netpath_common::event::{Event, EventKind, Known, wanted};
use netpath_common::flow::{FlowKind, FlowState};
use netpath_common::reason::DropReason;
use netpath_common::tuple::Proto;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};

use super::Agent;
use crate::api::types::{EventRow, Watch};
use crate::datapath::Datapath;
use crate::datapath::events::Events;
use crate::datapath::rows::{name, with_port};
use crate::netlink::device_name;
use crate::problem::{invalid, not_found};

/// Events that a watcher may lag behind before it loses some.
const BACKLOG: usize = 8192;
/// Events in one piece of an answer.
const PIECE: usize = 256;
/// Watchers at a time: each takes the agent's time for each event.
const MAX_WATCHERS: usize = 32;

/// Those who watch.
pub(super) struct Watchers {
    told: broadcast::Sender<Event>,
    /// How many events the programs could not tell, in all.
    lost: watch::Sender<u64>,
    /// What each of them wants, by number.
    wants: std::sync::Mutex<HashMap<u64, u32>>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self {
            told: broadcast::Sender::new(BACKLOG),
            lost: watch::Sender::new(0),
            wants: std::sync::Mutex::default(),
        }
    }
}

/// What somebody wants to see.
#[derive(Debug, Default)]
struct Filter {
    kinds: u32,
    protos: Vec<u8>,
    addresses: Vec<IpNet>,
    ports: Vec<u16>,
    reasons: Vec<u8>,
    container: Option<Place>,
}

/// Where a container is.
#[derive(Debug)]
struct Place {
    devices: Vec<u32>,
    addresses: Vec<IpAddr>,
}

/// One who watches; goes with the connection.
struct Watcher {
    agent: Arc<Agent>,
    number: u64,
    told: broadcast::Receiver<Event>,
    lost: watch::Receiver<u64>,
    /// How many of these it knows of.
    lost_before: u64,
    filter: Filter,
    /// Nanoseconds between boot and 1970.
    epoch: u64,
}

impl Agent {
    /// Reads what the programs tell, forever.
    pub(super) fn show_events(self: Arc<Self>) -> Result<()> {
        let events = self.with_datapath(Datapath::events)?;
        // SAFETY: it owns one ring buffer and gives its descriptor, always the same.
        let mut events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }
            .context("cannot wait for events")?;
        tokio::spawn(async move {
            while let Ok(mut guard) = events.readable_mut().await {
                if self.pass_on(guard.get_inner_mut()) {
                    guard.clear_ready();
                } else {
                    // A flood must not have this thread for itself.
                    drop(guard);
                    tokio::task::yield_now().await;
                }
            }
        });
        Ok(())
    }

    /// Passes on what there is; false if there may be more.
    fn pass_on(&self, events: &mut Events) -> bool {
        let mut passed = 0;
        while passed < BACKLOG
            && let Some(event) = events.take()
        {
            // Whether anybody hears it makes no difference here.
            let _ = self.watchers.told.send(event);
            passed += 1;
        }
        let lost = events.lost();
        if lost > 0 {
            self.watchers.lost.send_modify(|all| *all += lost);
        }
        passed < BACKLOG
    }

    /// Drops and flows as they happen, each a line of JSON ([`EventRow`]), until the reader has
    /// seen enough.
    ///
    /// # Errors
    /// A wish that makes no sense, or too many watch already.
    pub fn monitor(
        self: &Arc<Self>,
        wish: &Watch,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let filter = self.filter(wish)?;
        let epoch = epoch()?;
        let number = {
            let mut wants = self.watchers.wants();
            if wants.len() >= MAX_WATCHERS {
                return Err(crate::problem::conflict(format!(
                    "{MAX_WATCHERS} watch already, end one of them"
                )));
            }
            let number = wants.keys().max().map_or(0, |last| last + 1);
            wants.insert(number, filter.kinds);
            number
        };
        let mut lost = self.watchers.lost.subscribe();
        let lost_before = *lost.borrow_and_update();
        let watcher = Watcher {
            agent: self.clone(),
            number,
            told: self.watchers.told.subscribe(),
            lost,
            lost_before,
            filter,
            epoch,
        };
        self.tell_programs()?;
        Ok(stream::unfold(watcher, |mut watcher| async move {
            let piece = watcher.piece().await?;
            Some((Ok(piece), watcher))
        }))
    }

    /// Has the programs tell what anybody wants.
    fn tell_programs(&self) -> Result<()> {
        self.with_datapath(|datapath| {
            // Read under the datapath's lock: the last to write knows of all.
            let all = self
                .watchers
                .wants()
                .values()
                .fold(0, |all, wants| all | wants);
            datapath.watch(all)
        })
    }

    fn filter(&self, wish: &Watch) -> Result<Filter> {
        let reasons = wish.reason.iter().map(|name| reason(name));
        let reasons = reasons.collect::<Result<Vec<u8>>>()?;
        let protos = wish.proto.iter().map(|name| proto(name));
        let protos = protos.collect::<Result<Vec<Vec<u8>>>>()?.concat();
        let addresses = wish.addr.iter().map(|text| prefix(text));
        let container = wish.container.as_deref();
        // A reason is one of a drop.
        let (drops, flows) = match (wish.drops, wish.flows) {
            (false, false) => (true, reasons.is_empty()),
            chosen => chosen,
        };
        if flows && !reasons.is_empty() {
            return Err(invalid(
                "flows have no reason, name --reason without --flows",
            ));
        }
        let kinds = u32::from(drops) * wanted::DROPS + u32::from(flows) * wanted::FLOWS;
        Ok(Filter {
            kinds,
            protos,
            addresses: addresses.collect::<Result<_>>()?,
            ports: wish.port.clone(),
            reasons,
            container: container.map(|word| self.place(word)).transpose()?,
        })
    }

    fn place(&self, word: &str) -> Result<Place> {
        let record = self.called(word)?;
        if record.endpoints.is_empty() {
            return Err(not_found(super::view::without_network(&record)));
        }
        let endpoints = record.endpoints.iter();
        let link_local = endpoints.clone().filter_map(|e| e.link_local());
        let link_local = link_local.map(IpAddr::V6);
        Ok(Place {
            devices: endpoints.map(|endpoint| endpoint.ifindex).collect(),
            addresses: record.addresses().chain(link_local).collect(),
        })
    }
}

impl Watchers {
    fn wants(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u32>> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.agent.watchers.wants().remove(&self.number);
        let agent = self.agent.clone();
        // Not here: the datapath may be busy, and this may be any thread.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = agent.tell_programs() {
                    log::debug!("the programs go on telling: {error:#}");
                }
            });
        }
    }
}

impl Watcher {
    /// What has happened since the last call, as lines; waits for something. `None`: the end.
    async fn piece(&mut self) -> Option<Bytes> {
        let mut text = String::new();
        while text.is_empty() {
            tokio::select! {
                told = self.told.recv() => match told {
                    Ok(event) => self.write(&event, &mut text),
                    Err(RecvError::Lagged(lost)) => write_lost(lost, &mut text),
                    Err(RecvError::Closed) => return None,
                },
                _ = self.lost.changed() => {}
            }
            for _ in 0..PIECE {
                match self.told.try_recv() {
                    Ok(event) => self.write(&event, &mut text),
                    Err(TryRecvError::Lagged(lost)) => write_lost(lost, &mut text),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            let lost = *self.lost.borrow_and_update();
            if lost > self.lost_before {
                write_lost(lost - self.lost_before, &mut text);
                self.lost_before = lost;
            }
        }
        Some(text.into())
    }

    fn write(&self, event: &Event, text: &mut String) {
        if self.filter.lets_through(event) {
            write_row(&row(event, self.epoch), text);
        }
    }
}

/// Nobody knows what was lost, so that everybody is told.
fn write_lost(count: u64, text: &mut String) {
    let row = EventRow {
        event: "lost".into(),
        count: Some(count),
        ..EventRow::default()
    };
    write_row(&row, text);
}

fn write_row(row: &EventRow, text: &mut String) {
    // Plain data: it has a form in JSON.
    if let Ok(line) = serde_json::to_string(row) {
        text.push_str(&line);
        text.push('\n');
    }
}

impl Filter {
    fn lets_through(&self, event: &Event) -> bool {
        let kind = match event.kind {
            EventKind::Drop => wanted::DROPS,
            EventKind::NewFlow | EventKind::FlowEnd => wanted::FLOWS,
        };
        let any = |all: &[u16], of: &[u16]| all.is_empty() || of.iter().any(|x| all.contains(x));
        let byte = |all: &[u8], of: u8| all.is_empty() || all.contains(&of);
        if self.kinds & kind == 0 || !byte(&self.reasons, event.reason) {
            return false;
        }
        let (addresses, ports) = seen(event);
        if !self.protos.is_empty()
            && (event.known < Known::Addresses || !self.protos.contains(&event.ip_proto))
        {
            return false;
        }
        let of_address = |prefix: &IpNet| addresses.iter().any(|ip| prefix.contains(ip));
        if !self.addresses.is_empty() && !self.addresses.iter().any(of_address) {
            return false;
        }
        if !any(&self.ports, &ports) {
            return false;
        }
        self.container.as_ref().is_none_or(|place| {
            place.devices.contains(&event.ifindex)
                || addresses.iter().any(|ip| place.addresses.contains(ip))
        })
    }
}

/// The addresses and ports of an event, before and after a rewrite.
fn seen(event: &Event) -> (Vec<IpAddr>, Vec<u16>) {
    let (before, after) = (&event.tuple, &event.rewritten);
    let mut addresses = Vec::new();
    let mut ports = Vec::new();
    if event.known >= Known::Addresses {
        addresses.extend([before.src, before.dst, after.src, after.dst].map(|a| a.to_ip()));
    }
    if event.known >= Known::Ports {
        ports.extend([
            before.src_port,
            before.dst_port,
            after.src_port,
            after.dst_port,
        ]);
    }
    (addresses, ports)
}

/// An event as it is shown.
fn row(event: &Event, epoch: u64) -> EventRow {
    let mut row = EventRow {
        event: name(&event.kind),
        time: Some((epoch + event.at) / 1_000_000),
        hook: Some(name(&event.hook)),
        device: device_name(event.ifindex),
        ..EventRow::default()
    };
    if event.known >= Known::Addresses {
        row.proto = Some(match Proto::from_number(event.ip_proto) {
            Some(proto) => name(&proto),
            None => event.ip_proto.to_string(),
        });
    }
    if event.kind == EventKind::Drop {
        let reason = DropReason::ALL.iter().find(|r| **r as u8 == event.reason);
        row.reason = Some(reason.map_or_else(|| event.reason.to_string(), name));
        row.meaning = reason.map(|reason| reason.text().to_owned());
        row.bytes = Some(event.len);
        let end = |addr, port| match event.known {
            Known::Nothing => None,
            Known::Addresses => Some(format!("{addr}")),
            Known::Ports => Some(with_port(&addr, port)),
        };
        row.source = end(event.tuple.src, event.tuple.src_port);
        row.destination = end(event.tuple.dst, event.tuple.dst_port);
        return row;
    }
    // The entry of the answers is the flow's own, seen from behind.
    let (first, then) = match event.reply {
        0 => (event.tuple, event.rewritten),
        _ => (event.rewritten.reply(0), event.tuple.reply(0)),
    };
    row.kind = named(FlowKind::ALL.iter().map(|k| (*k as u8, k)), event.flow_kind);
    row.state = named(
        FlowState::ALL.iter().map(|s| (*s as u8, s)),
        event.flow_state,
    );
    row.source = Some(with_port(&first.src, first.src_port));
    row.destination = Some(with_port(&first.dst, first.dst_port));
    row.translated_source = Some(with_port(&then.src, then.src_port));
    row.translated_destination = Some(with_port(&then.dst, then.dst_port));
    row
}

fn named<'a, T: Serialize + 'a>(
    mut all: impl Iterator<Item = (u8, &'a T)>,
    number: u8,
) -> Option<String> {
    all.find(|(n, _)| *n == number)
        .map(|(_, value)| name(value))
}

/// Nanoseconds between 1970 and the programs' zero.
fn epoch() -> Result<u64> {
    let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    let since_boot = std::time::Duration::from(since_boot);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(now.saturating_sub(since_boot).as_nanos())?)
}

fn reason(text: &str) -> Result<u8> {
    let known = DropReason::ALL.iter().find(|reason| name(*reason) == text);
    known.map(|reason| *reason as u8).ok_or_else(|| {
        invalid(format!(
            "\"{text}\" is no reason of a drop, see \"netpath drops --all\""
        ))
    })
}

fn proto(text: &str) -> Result<Vec<u8>> {
    Ok(match text {
        // Of either family.
        "icmp" => vec![Proto::Icmp as u8, Proto::Icmpv6 as u8],
        "icmpv6" => vec![Proto::Icmpv6 as u8],
        "tcp" => vec![Proto::Tcp as u8],
        "udp" => vec![Proto::Udp as u8],
        "sctp" => vec![Proto::Sctp as u8],
        _ => match text.parse() {
            Ok(number) => vec![number],
            Err(_) => {
                return Err(invalid(format!(
                    "\"{text}\" is no protocol, write tcp, udp, sctp, icmp, icmpv6 or a number"
                )));
            }
        },
    })
}

fn prefix(text: &str) -> Result<IpNet> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let prefix = address.or_else(|_| text.parse::<IpNet>());
    prefix.map_err(|_| invalid(format!("\"{text}\" is neither an address nor a prefix")))
}
