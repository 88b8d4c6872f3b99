//! An answer in the making: steps in words, and the end of the story.

use std::net::IpAddr;
use std::sync::Arc;

use netpath_common::flow::{FlowKind, Toward};
use netpath_common::policy::{ADOPTED, ICC_OFF, INTERNAL, MASQUERADE_OFF, Policy};
use netpath_common::reason::DropReason;

use crate::api::types::{Explain, Explanation, Step};
use crate::datapath::live::Asked;
use crate::datapath::rows::{name, with_port};
use crate::store::{ContainerRecord, NetworkRecord};

/// The answer so far.
pub struct Story<'a> {
    containers: &'a [Arc<ContainerRecord>],
    networks: &'a [NetworkRecord],
    hook: String,
    device: Option<String>,
    answer: Explanation,
}

impl<'a> Story<'a> {
    pub fn new(containers: &'a [Arc<ContainerRecord>], networks: &'a [NetworkRecord]) -> Self {
        Self {
            containers,
            networks,
            hook: String::new(),
            device: None,
            answer: Explanation::default(),
        }
    }

    /// The answer as a whole.
    pub fn end(mut self, asked: &Explain, src: IpAddr, dst: IpAddr) -> Explanation {
        self.answer.source = src.to_string();
        self.answer.destination = dst.to_string();
        self.answer.proto = asked.proto.clone();
        self.answer
    }

    /// What follows happens at this hook of this device.
    pub fn at(&mut self, hook: &str, ifindex: u32) {
        self.at_name(&format!("np_{hook}"), Some(ifindex));
    }

    /// As [`Self::at`], for what is no program of a device.
    pub fn at_name(&mut self, hook: &str, ifindex: Option<u32>) {
        self.hook = hook.to_owned();
        self.device = ifindex.map(device);
    }

    /// One more step.
    pub fn say(&mut self, text: String) {
        // The logic may ask the same twice.
        if self
            .answer
            .steps
            .last()
            .is_some_and(|last| last.text == text)
        {
            return;
        }
        self.answer.steps.push(Step {
            hook: self.hook.clone(),
            device: self.device.clone(),
            text,
        });
    }

    /// Something that is not about this packet, but about the answers to it.
    pub fn warn(&mut self, text: String) {
        self.answer.warnings.push(text);
    }

    /// What the logic asked, and the end of a packet that went by a flow.
    pub fn tell(&mut self, asked: &[Asked]) {
        for asked in asked {
            if let Some(text) = self.sentence(asked) {
                self.say(text);
            }
            if let Asked::Remote(_, tunnel) = asked {
                let out = device(tunnel.ifindex);
                let vtep = tunnel.vtep;
                self.verdict("sent", format!("through a tunnel to {vtep}, out of {out}"));
                self.answer.to_device = Some(out);
            }
            let Asked::Sent(key, flow) = asked else {
                continue;
            };
            let (before, after) = (
                (
                    with_port(&key.src, key.src_port),
                    with_port(&key.dst, key.dst_port),
                ),
                (
                    with_port(&flow.new_src, flow.new_src_port),
                    with_port(&flow.new_dst, flow.new_dst_port),
                ),
            );
            let changed =
                |before: &String, after: &String| (before != after).then(|| after.clone());
            self.translated(changed(&before.0, &after.0), changed(&before.1, &after.1));
            match flow.to {
                Toward::Container if flow.kind == FlowKind::Direct => {
                    self.delivered(flow.ifindex, "by its own address");
                }
                Toward::Container => self.delivered(flow.ifindex, "translated"),
                Toward::Forwarded => {
                    self.delivered(flow.ifindex, "after the host's stack forwarded it");
                }
                Toward::Stack => {
                    self.host("to the host's stack, which forwards it by its own routes");
                    self.answer.to_device = Some(device(flow.ifindex));
                }
                Toward::Uplink => {
                    let out = device(flow.ifindex);
                    self.verdict("sent", format!("out of {out} to {}", flow.next_hop));
                    self.answer.to_device = Some(out);
                }
            }
        }
    }

    fn sentence(&self, asked: &Asked) -> Option<String> {
        Some(match asked {
            Asked::HostAddr(addr, ifindex) => {
                format!("{addr} is an address of this host, on {}", device(*ifindex))
            }
            Asked::Subnet(addr, network) => {
                format!(
                    "{addr} is in a subnet of network {}",
                    self.network(*network)
                )
            }
            Asked::Endpoint(addr, ifindex) => {
                format!("{addr} is container {}", self.container(*ifindex))
            }
            Asked::Port(key, target) => format!(
                "{} port {} is published and leads to {} of network {}",
                name(&key.proto),
                with_port(&key.addr, key.port),
                with_port(&target.addr, target.port),
                self.network(target.network)
            ),
            Asked::Policy(network, policy) => self.policy(*network, policy),
            Asked::OpenPort(key) => format!(
                "{} port {} is published at the container's own address",
                name(&key.proto),
                with_port(&key.addr, key.port)
            ),
            Asked::Trusted(key) => format!(
                "network {} trusts {}",
                self.network(key.network),
                device(key.ifindex)
            ),
            Asked::KernelFlow(key) => format!(
                "the connection from {} to {} began before its network was adopted: the kernel \
                 goes on translating it",
                with_port(&key.src, key.src_port),
                with_port(&key.dst, key.dst_port)
            ),
            Asked::Route(addr, Ok(route)) if route.next_hop == *addr => {
                format!("route: {addr} is on the link of {}", device(route.ifindex))
            }
            Asked::Route(_, Ok(route)) => {
                format!(
                    "route: via {} dev {}",
                    route.next_hop,
                    device(route.ifindex)
                )
            }
            Asked::Route(addr, Err(_)) => format!("route: the host passes on nothing to {addr}"),
            Asked::Refused(_) => "the container has as many connections as it may have".into(),
            Asked::NewFlow(key, flow) => match flow.kind {
                FlowKind::Masquerade => format!(
                    "a new flow, masqueraded: {} becomes {}",
                    with_port(&key.src, key.src_port),
                    with_port(&flow.new_src, flow.new_src_port)
                ),
                FlowKind::Direct => "a new flow, direct: nothing is translated".into(),
                FlowKind::Published => format!(
                    "a new flow, published: {} becomes {}, source {}",
                    with_port(&key.dst, key.dst_port),
                    with_port(&flow.new_dst, flow.new_dst_port),
                    with_port(&flow.new_src, flow.new_src_port)
                ),
            },
            Asked::Remote(addr, tunnel) => format!(
                "{addr} is on another host: VTEP {}, VNI {}",
                tunnel.vtep, tunnel.vni
            ),
            Asked::Sent(..) => return None,
        })
    }

    /// What a network lets in and out.
    fn policy(&self, network: u32, policy: &Policy) -> String {
        let mut words = vec![format!(
            "gateway mode {} (IPv4), {} (IPv6)",
            name(&policy.mode4),
            name(&policy.mode6)
        )];
        for (flag, word) in [
            (INTERNAL, "internal"),
            (ICC_OFF, "containers do not talk with each other"),
            (MASQUERADE_OFF, "masquerade off"),
            (ADOPTED, "adopted"),
        ] {
            if policy.flags & flag != 0 {
                words.push(word.to_owned());
            }
        }
        let id = u16::try_from(network).unwrap_or_default();
        format!("network {}: {}", self.network(id), words.join(", "))
    }

    /// Addresses with ports that the packet has in the end.
    pub fn translated(&mut self, source: Option<String>, destination: Option<String>) {
        self.answer.translated_source = source;
        self.answer.translated_destination = destination;
    }

    /// Ends in the container behind a veth.
    pub fn delivered(&mut self, veth: u32, how: &str) {
        let name = self.container(veth);
        self.verdict("delivered", format!("to container {name}, {how}"));
        self.answer.to_container = Some(name);
        self.answer.to_device = Some(device(veth));
    }

    /// Ends in the host's stack.
    pub fn host(&mut self, text: &str) {
        self.verdict("host", text.to_owned());
    }

    /// Ends where it begins.
    pub fn local(&mut self, text: String) {
        self.verdict("local", text);
    }

    /// Is dropped.
    pub fn dropped(&mut self, reason: DropReason) {
        self.verdict("dropped", reason.text().to_owned());
        self.answer.reason = Some(name(&reason));
        self.answer.hint = hint(reason).map(str::to_owned);
    }

    fn verdict(&mut self, verdict: &str, text: String) {
        self.answer.verdict = verdict.to_owned();
        self.answer.text = text;
    }

    /// The name of a network.
    pub fn network(&self, id: u16) -> String {
        let found = self.networks.iter().find(|network| network.id == id);
        found.map_or_else(|| id.to_string(), |network| network.name.clone())
    }

    fn container(&self, veth: u32) -> String {
        let behind = |container: &&Arc<ContainerRecord>| {
            let mut endpoints = container.endpoints.iter();
            endpoints.any(|endpoint| endpoint.ifindex == veth)
        };
        let found = self.containers.iter().find(behind);
        found.map_or_else(|| device(veth), |container| container.name.clone())
    }
}

/// The name of a device, or its number if it is gone.
pub fn device(ifindex: u32) -> String {
    crate::netlink::device_name(ifindex).unwrap_or_else(|| format!("device {ifindex}"))
}

/// The way out, where there is one.
const fn hint(reason: DropReason) -> Option<&'static str> {
    Some(match reason {
        DropReason::SpoofedSource => "a container may send from its own addresses only",
        DropReason::NoSuchNeighbour => "see \"netpath ps\" for who has which address",
        DropReason::OtherNetwork => {
            "publish a port of the destination, or connect both to one network"
        }
        DropReason::DirectRouting => "publish the port with -p and dial an address of the host",
        DropReason::InternalNetwork => {
            "connect the container to a network that is not internal as well"
        }
        DropReason::IccOff => "make the network without icc=false, or publish the port",
        DropReason::NotPublished => "publish the port with -p",
        DropReason::NoRoute => "see \"ip route\" of this host",
        DropReason::NotAnUplink => "name the device with --uplink when the agent is started",
        DropReason::NoSnatAddress => "give the uplink an address of this family",
        DropReason::SnatPortsExhausted => "give the agent more ports with --snat-ports",
        DropReason::FlowTableFull => "give the agent a larger table with --max-flows",
        DropReason::UnsupportedProtocol => "TCP, UDP, SCTP and ICMP echo can be masqueraded",
        DropReason::DeniedSource => "let it in again with \"netpath deny rm\"",
        _ => return None,
    })
}
