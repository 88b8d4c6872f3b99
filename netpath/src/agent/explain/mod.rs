//! What would become of a packet, and why: the programs' own logic over the maps as they are.
//!
//! Nothing is changed and no packet is sent. `words` puts what the logic asked and decided
//! into sentences.

mod question;
mod words;

use std::net::IpAddr;

use anyhow::{Context, Result};
use netpath_common::addr::Addr;
use netpath_common::env::{Route, Verdict};
use netpath_common::flow::Toward;
use netpath_common::link::NOBODY;
use netpath_common::packet::{Fragment, Packet, Transport};
use netpath_common::reason::DropReason;
use netpath_common::socket::{self, Peer};
use netpath_common::tuple::{OUTSIDE, Proto, Tuple};
use netpath_common::{container, gateway, overlay, tcp, uplink};
use tokio::runtime::Handle;

use super::Agent;
use crate::api::types::{Explain, Explanation};
use crate::datapath::gate::Place;
use crate::datapath::live::{Asked, Live};
use crate::datapath::rows::with_port;
use crate::datapath::{Datapath, cgroup};
use crate::netlink::Netlink;
use crate::problem::not_found;
use question::{Party, Question};
use words::Story;

/// Source ports of the packets that are asked about begin here, unless told.
const FIRST_PORT: u16 = 40_000;

impl Agent {
    /// Tells what would become of a packet.
    ///
    /// # Errors
    /// The question makes no sense, or names what is not there.
    pub async fn explain(&self, asked: Explain) -> Result<Explanation> {
        let question = self.question(&asked)?;
        let containers = self.store.containers()?;
        let networks = self.store.networks()?;
        let mut story = Story::new(&containers, &networks);
        let uplinks = self.uplink_devices();
        self.with_datapath(|datapath| {
            // The logic asks in the middle of its work, and `with_datapath` lets us wait.
            let runtime = Handle::current();
            let netlink = &self.netlink;
            let route = |from: u32, src: &Addr, dst: &Addr| {
                let found = runtime.block_on(netlink.forward(from, src.to_ip(), dst.to_ip()));
                match found {
                    Ok(Some((ifindex, next_hop))) => Ok(Route {
                        next_hop: next_hop.into(),
                        ifindex,
                    }),
                    _ => Err(DropReason::NoRoute),
                }
            };
            let live = datapath.live(&route)?;
            let scene = Scene {
                datapath,
                live: &live,
                question: &question,
                netlink,
                runtime: &runtime,
                uplinks: &uplinks,
            };
            match &question.source {
                Party::Container(name, veth) => scene.container_sends(&mut story, name, *veth),
                Party::Host => scene.host_dials(&mut story),
                Party::Outside => scene.outside_sends(&mut story),
            }
        })?;
        Ok(story.end(&asked, question.src, question.dst))
    }

    fn uplink_devices(&self) -> Vec<u32> {
        let uplinks = self
            .uplinks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        uplinks
            .values()
            .flatten()
            .map(|uplink| uplink.ifindex)
            .collect()
    }
}

/// All that one answer needs.
struct Scene<'a> {
    datapath: &'a Datapath,
    live: &'a Live<'a>,
    question: &'a Question,
    netlink: &'a Netlink,
    runtime: &'a Handle,
    uplinks: &'a [u32],
}

impl Scene<'_> {
    /// The packet in the form that the logic takes, as it comes from a network.
    fn packet(&self, network: u16, src: IpAddr, dst: Addr, port: u16) -> Packet {
        let mut packet = Packet::of_network(network);
        let question = self.question;
        packet.tuple.src = src.into();
        packet.tuple.dst = dst;
        packet.tuple.dst_port = port;
        packet.ip_proto = question.ip_proto;
        packet.ttl = 64;
        packet.len = 74;
        packet.end = packet.len;
        packet.fragment = Fragment::Whole;
        packet.transport = Transport::Other;
        if let Some(proto) = question.proto {
            packet.tuple.proto = proto;
            packet.transport = Transport::Ports;
            // SCTP's INIT has the same place in the logic as TCP's SYN.
            packet.tcp_flags = if proto.has_connections() { tcp::SYN } else { 0 };
            packet.tuple.src_port = question.source_port.unwrap_or(FIRST_PORT);
            // A new connection, unless a port was named.
            while question.source_port.is_none()
                && packet.tuple.src_port < u16::MAX
                && self.live.has_flow(&packet.tuple)
            {
                packet.tuple.src_port += 1;
            }
        }
        packet
    }

    fn container_sends(&self, story: &mut Story, name: &str, device: u32) -> Result<()> {
        let find = |device| {
            self.datapath.veth(device)?.with_context(|| {
                not_found(format!("the interface of container {name} is not attached"))
            })
        };
        let (mut veth, mut device) = (find(device)?, device);
        let (src, dst): (Addr, Addr) = (self.question.src.into(), self.question.dst.into());
        if !veth.owns(&src) {
            let sibling = container::sibling(self.live, &veth, &src);
            if sibling != NOBODY {
                (veth, device) = (find(sibling)?, sibling);
            }
        }
        let (src, network) = (self.question.src, story.network(veth.network));
        if dst.is_loopback() || veth.owns(&dst) {
            story.at_name(name, None);
            story.say(format!("{dst} is {name} itself"));
            story.local(format!("the packet never leaves container {name}"));
            return Ok(());
        }
        story.at("container", device);
        let packet = self.packet(veth.network, src, dst, self.question.port);
        let within = container::within_network(self.live, &packet, &veth);
        if within == Err(DropReason::SpoofedSource) {
            let own = [veth.addr4, veth.addr6, veth.link_local];
            let own: Vec<String> = own
                .iter()
                .filter(|addr| !addr.is_unspecified())
                .map(ToString::to_string)
                .collect();
            story.say(format!(
                "source {src} is not {name}'s own ({})",
                own.join(", ")
            ));
            story.dropped(DropReason::SpoofedSource);
            return Ok(());
        }
        story.say(format!("source {src} is {name}'s own"));
        let verdict = match within {
            Ok(Some(verdict)) => {
                let place = if veth.on_link(&dst) {
                    "on the link of"
                } else {
                    "a part of"
                };
                story.say(format!("{dst} is {place} network {network}"));
                story.tell(&self.live.asked());
                Ok(verdict)
            }
            Err(reason) => {
                let whose = match reason {
                    DropReason::NoSuchNeighbour => "and nobody's",
                    DropReason::IccOff => "whose containers do not talk with each other",
                    _ => "",
                };
                if !whose.is_empty() {
                    story.say(format!(
                        "{dst} is on the link of network {network}, {whose}"
                    ));
                }
                Err(reason)
            }
            Ok(None) => {
                let place = if veth.is_gateway(&dst) {
                    format!("{dst} is the gateway of network {network}")
                } else {
                    format!("{dst} is not on the link of network {network}")
                };
                story.say(place);
                let verdict = container::out_of_network(self.live, &packet, &veth, device);
                self.finish_flow(story, &packet.tuple);
                verdict
            }
        };
        match verdict {
            Ok(Verdict::Host) => {
                story.at("container", veth.gateway_ifindex);
                story.host(
                    "to the host's stack by the gateway device: a process that listens there \
                     answers",
                );
            }
            Ok(Verdict::Deliver { ifindex }) => {
                story.delivered(ifindex, "unchanged");
            }
            Ok(Verdict::Sent) => {}
            Err(reason) => story.dropped(reason),
        }
        Ok(())
    }

    /// Tells what became of a packet that needs a flow.
    fn finish_flow(&self, story: &mut Story, key: &Tuple) {
        let asked = self.known_or_new(story, key);
        story.tell(&asked);
        let out = asked.iter().find_map(|asked| match asked {
            Asked::Sent(_, flow) if flow.to == Toward::Uplink => Some(flow),
            _ => None,
        });
        if let Some(flow) = out {
            self.warn_of_denied_answers(story, flow.new_dst.to_ip(), flow.ifindex);
        }
    }

    /// What the logic asked about a packet, after saying whether there was a flow for it.
    fn known_or_new(&self, story: &mut Story, key: &Tuple) -> Vec<Asked> {
        let mut asked = self.live.asked();
        let made = asked
            .iter()
            .any(|asked| matches!(asked, Asked::NewFlow(..)));
        let sent = asked.iter().any(|asked| matches!(asked, Asked::Sent(..)));
        if sent && !made {
            story.say(format!(
                "a known flow: {} to {}",
                with_port(&key.src, key.src_port),
                with_port(&key.dst, key.dst_port)
            ));
            // Once a second a flow asks whether its next hop is still the same; it decides
            // nothing here.
            asked.retain(|asked| !matches!(asked, Asked::Route(..)));
        }
        asked
    }

    fn warn_of_denied_answers(&self, story: &mut Story, source: IpAddr, uplink: u32) {
        if self.datapath.gate(uplink) != Place::Off
            && let Ok(Some(prefix)) = self.datapath.denies(source)
        {
            story.warn(format!(
                "answers from {source} are dropped at {}: {prefix} is denied",
                words::device(uplink)
            ));
        }
    }

    fn outside_sends(&self, story: &mut Story) -> Result<()> {
        let question = self.question;
        let way_back = self.runtime.block_on(self.netlink.route_to(question.src))?;
        let uplink = match way_back {
            Some((device, _)) if self.uplinks.contains(&device) => Some(device),
            Some((device, _)) => return self.stack_forwards(story, device),
            None => self.uplinks.first().copied(),
        };
        let Some(uplink) = uplink else {
            return Err(crate::problem::conflict(
                "none of the agent's uplinks is there",
            ));
        };
        story.at("xdp", uplink);
        let denied = self.datapath.denies(question.src)?;
        match (self.datapath.gate(uplink), denied) {
            (Place::Off, None) => {}
            (Place::Off, Some(prefix)) => {
                story.say(format!(
                    "{prefix} is denied, but XDP is off here: it comes in"
                ));
            }
            (place, None) => {
                story.say(format!(
                    "source {} is not denied ({})",
                    question.src,
                    place.name()
                ));
            }
            (_, Some(prefix)) => {
                story.say(format!("source {} is in {prefix}", question.src));
                story.dropped(DropReason::DeniedSource);
                return Ok(());
            }
        }
        story.at("uplink", uplink);
        let dst: Addr = question.dst.into();
        let packet = self.packet(OUTSIDE, question.src, dst, question.port);
        let verdict = uplink::inward(self.live, &packet, uplink);
        let asked = self.known_or_new(story, &packet.tuple);
        story.tell(&asked);
        match verdict {
            Ok(Verdict::Sent) => {}
            Ok(Verdict::Deliver { ifindex }) => story.delivered(ifindex, "unchanged"),
            Ok(Verdict::Host) if self.datapath.host_addr(&dst)?.is_some() => {
                story.host("left to the host's stack: a process that listens there answers");
            }
            Ok(Verdict::Host) => {
                story.host("left to the host's stack, which drops or forwards what is not its own")
            }
            Err(reason) => story.dropped(reason),
        }
        Ok(())
    }

    /// A packet comes in by a device that is no uplink, where no program of ours is.
    fn stack_forwards(&self, story: &mut Story, ingress: u32) -> Result<()> {
        let question = self.question;
        story.at_name("stack", Some(ingress));
        story.say(format!(
            "{} is behind this device, which is no uplink",
            question.src
        ));
        let way = self.runtime.block_on(self.netlink.route_to(question.dst))?;
        let Some((device, _)) = way else {
            story.host("the host's stack decides");
            return Ok(());
        };
        let Some(network) = self.datapath.network_behind(device)? else {
            story.host("the host's stack decides");
            return Ok(());
        };
        story.say("the host's stack forwards it, if it is let to".into());
        story.at("gateway", device);
        let dst = question.dst.into();
        let packet = self.packet(OUTSIDE, question.src, dst, question.port);
        let verdict = gateway::forward(self.live, &packet, network, ingress);
        let asked = self.known_or_new(story, &packet.tuple);
        story.tell(&asked);
        match verdict {
            Ok(Verdict::Sent) => {}
            Ok(_) => story.dropped(DropReason::DirectRouting),
            Err(reason) => story.dropped(reason),
        }
        Ok(())
    }

    /// A process of the host dials.
    fn host_dials(&self, story: &mut Story) -> Result<()> {
        let question = self.question;
        let mut peer = Peer {
            addr: question.dst.into(),
            port: question.port,
        };
        if let Some(proto @ (Proto::Tcp | Proto::Udp)) = question.proto {
            let hook = match question.dst {
                IpAddr::V4(_) => "connect4",
                IpAddr::V6(_) => "connect6",
            };
            story.at_name(hook, None);
            let confined = question.confined;
            let dialled = with_port(&peer.addr, peer.port);
            if !cgroup::is_attached(self.datapath.pins(), hook) {
                story.say("nothing is attached to a control group: what is dialled stays".into());
            } else if socket::connect(self.live, proto, confined, &mut peer) {
                story.tell(&self.live.asked());
                story.say(format!(
                    "{dialled} becomes {} in the system call",
                    with_port(&peer.addr, peer.port)
                ));
                story.translated(None, Some(with_port(&peer.addr, peer.port)));
            } else if confined {
                story.say(format!(
                    "a socket that is bound to {} is left alone: no container could answer it",
                    question.src
                ));
            } else {
                story.tell(&self.live.asked());
                story.say(format!("{dialled} is no published port: it stays"));
            }
        }
        let dst = peer.addr.to_ip();
        let way = self.runtime.block_on(self.netlink.route_to(dst))?;
        let Some((device, next_hop)) = way else {
            let own = dst.is_loopback() || self.datapath.host_addr(&peer.addr)?.is_some();
            story.host(if own {
                "the host's own: a process that listens there answers"
            } else {
                "the host itself has no route to there"
            });
            return Ok(());
        };
        let Some(network) = self.datapath.network_behind(device)? else {
            story.at_name("route", Some(device));
            story.say(format!("the host's own packet leaves by way of {next_hop}"));
            self.warn_of_denied_answers(story, dst, device);
            story.host("the host's own packet, which is not netpath's business");
            return Ok(());
        };
        story.at("gateway", device);
        story.say(format!(
            "{dst} is behind network {}",
            story.network(network)
        ));
        let packet = self.packet(network, question.src, peer.addr, peer.port);
        match gateway::deliver(self.live, &packet) {
            Ok(endpoint) => {
                story.tell(&self.live.asked());
                story.delivered(endpoint.ifindex, "from the gateway's address");
            }
            // Another host may have it.
            Err(_) => match overlay::leave_host(self.live, &packet) {
                Ok(()) => story.tell(&self.live.asked()),
                Err(reason) => story.dropped(reason),
            },
        }
        Ok(())
    }
}
