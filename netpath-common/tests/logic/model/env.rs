//! The model as the surroundings of the logic.

use netpath_common::addr::Addr;
use netpath_common::config::Config;
use netpath_common::endpoint::{Endpoint, EndpointKey, Veth};
use netpath_common::env::{Env, InsertError, Repeat, Route, Scratch, Table};
use netpath_common::flow::{Direction, Flow, Toward};
use netpath_common::fragment::{FragmentKey, FragmentPorts};
use netpath_common::icmp::{self, Quoted};
use netpath_common::link::Receiver;
use netpath_common::network::{HostAddr, Uplink};
use netpath_common::packet::Packet;
use netpath_common::policy::{OpenPort, Policy, Trusted};
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::reason::DropReason;
use netpath_common::tunnel::Tunnel;
use netpath_common::tuple::{Proto, Tuple};

use super::map::Bytes;
use super::rewrite::rewrite;
use super::{Model, Sent, V4, V6, addr, no_scratch};

/// Map `flows`, where another CPU may be a step ahead.
struct Flows<'a>(&'a Model);

impl Table<Tuple, Flow> for Flows<'_> {
    fn with<R>(&self, key: &Tuple, f: impl FnOnce(&mut Flow) -> R) -> Option<R> {
        self.0.flows.with(key, f)
    }

    fn insert_new(&self, key: &Tuple, value: &Flow) -> Result<(), InsertError> {
        self.0.meanwhile();
        self.0.flows.insert_new(key, value)
    }

    fn replace(&self, key: &Tuple, value: &Flow) -> Result<(), InsertError> {
        self.0.flows.replace(key, value)
    }

    fn remove(&self, key: &Tuple) {
        self.0.flows.remove(key);
    }
}

impl Env for Model {
    fn host_socket(&self, tuple: &Tuple) -> bool {
        matches!(tuple.proto, Proto::Tcp | Proto::Udp)
            && self.host_sockets.borrow().contains(&tuple.dst_port)
    }

    fn flows(&self) -> impl Table<Tuple, Flow> {
        Flows(self)
    }

    fn endpoints(&self) -> impl Table<EndpointKey, Endpoint> {
        &self.endpoints
    }

    fn ports(&self) -> impl Table<PortKey, PortTarget> {
        &self.ports
    }

    fn uplinks(&self) -> impl Table<u32, Uplink> {
        &self.uplinks
    }

    fn host_addrs(&self) -> impl Table<Addr, HostAddr> {
        &self.host_addrs
    }

    fn policies(&self) -> impl Table<u32, Policy> {
        &self.policies
    }

    fn open_ports(&self) -> impl Table<OpenPort, u32> {
        &self.open_ports
    }

    fn trusted(&self) -> impl Table<Trusted, u32> {
        &self.trusted
    }

    fn kernel_flows(&self) -> impl Table<Tuple, u32> {
        &self.kernel_flows
    }

    fn fragments(&self) -> impl Table<FragmentKey, FragmentPorts> {
        &self.fragments
    }

    fn network_of(&self, addr: &Addr) -> Option<u16> {
        let found = self
            .subnets
            .iter()
            .find(|(net, bits, _)| net.same_prefix(addr, *bits));
        found.map(|(_, _, network)| *network)
    }

    fn charge(&self, slot: u32) -> bool {
        let mut accounts = self.accounts.borrow_mut();
        let account = accounts.entry(slot).or_default();
        let free = *account < self.config.max_flows_per_endpoint;
        *account += u32::from(free);
        free
    }

    fn refund(&self, slot: u32) {
        let mut accounts = self.accounts.borrow_mut();
        *accounts.get_mut(&slot).expect("an account") -= 1;
    }

    fn generation(&self, slot: u32) -> u32 {
        self.generations.borrow().get(&slot).copied().unwrap_or(0)
    }

    fn netns_of(&self, ifindex: u32) -> u32 {
        self.veths.get(&ifindex).map_or(0, |veth| veth.netns)
    }

    // The short way is tested in the kernel, beside the long one.
    fn receiver(&self, _place: u32) -> Option<&Receiver> {
        None
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        // SplitMix64.
        self.seed
            .set(self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.seed.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }

    fn route(
        &self,
        _gateway_ifindex: u32,
        _src: &Addr,
        dst: &Addr,
        route: &mut Route,
    ) -> Result<(), DropReason> {
        self.routes_asked.set(self.routes_asked.get() + 1);
        let (ifindex, next_hop) = self.route.get()?;
        let usual = if dst.is_v4() {
            addr(V4.next_hop)
        } else {
            addr(V6.next_hop)
        };
        *route = Route {
            ifindex,
            next_hop: next_hop.unwrap_or(usual),
        };
        Ok(())
    }

    fn send(&self, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
        let mut frame = self.frame.borrow().clone();
        if !flow.to.is_by_stack() {
            if packet.ttl <= 1 {
                return Err(DropReason::TtlExpired);
            }
            rewrite(&mut frame, packet, flow);
        }
        let Flow {
            to,
            ifindex,
            next_hop,
            dst_mac,
            ..
        } = *flow;
        let before = self.sent.replace(Some(Sent {
            to,
            ifindex,
            next_hop,
            dst_mac,
            frame,
        }));
        assert_eq!(before, None, "sent twice");
        Ok(())
    }

    /// Notes what is sent where; how bytes change is for the tests of the programs.
    fn send_error(&self, packet: &Packet, quoted: &Quoted, flow: &Flow) -> Result<(), DropReason> {
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        self.errors.borrow_mut().push((quoted.key, *flow));
        self.sent.replace(Some(Sent {
            to: flow.to,
            ifindex: flow.ifindex,
            next_hop: flow.next_hop,
            dst_mac: flow.dst_mac,
            frame: self.frame.borrow().clone(),
        }));
        Ok(())
    }

    fn with_tunnel<R>(&self, network: u16, addr: &Addr, f: impl FnOnce(&Tunnel) -> R) -> Option<R> {
        let matching = self
            .tunnels
            .iter()
            .filter(|(of, prefix, bits, _)| *of == network && prefix.same_prefix(addr, *bits));
        let longest = matching.max_by_key(|(_, _, bits, _)| *bits);
        longest.map(|(.., tunnel)| f(tunnel))
    }

    /// Notes what is sent where; how bytes change is for the tests of the programs.
    fn send_by_tunnel(
        &self,
        _packet: &Packet,
        tunnel: &Tunnel,
        _sender: Option<&Veth>,
    ) -> Result<(), DropReason> {
        self.sent.replace(Some(Sent {
            to: Toward::Uplink,
            ifindex: tunnel.ifindex,
            next_hop: tunnel.vtep,
            dst_mac: tunnel.mac,
            frame: self.frame.borrow().clone(),
        }));
        Ok(())
    }

    fn quoted<R>(&self, packet: &Packet, f: impl FnOnce(&Quoted) -> R) -> Result<R, DropReason> {
        let mut quoted = Quoted {
            key: packet.tuple,
            l3: 0,
            l4: 0,
            room: 0,
            reserved: 0,
        };
        icmp::read(packet, &Bytes(&self.frame.borrow()), &mut quoted)?;
        Ok(f(&quoted))
    }

    fn flow_begins(&self, _key: &Tuple, flow: &Flow) {
        assert_eq!(flow.direction, Direction::Original);
        self.new_flows.set(self.new_flows.get() + 1);
    }

    fn flow_ends(&self, _key: &Tuple, _flow: &Flow) {
        self.ended_flows.set(self.ended_flows.get() + 1);
    }

    fn count_search(&self, bucket: usize) {
        self.searches.borrow_mut().buckets[bucket] += 1;
    }

    fn repeat<R: Repeat>(&self, times: u32, body: &mut R) {
        for round in 0..times {
            if !body.step(round) {
                break;
            }
        }
    }

    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        // A CPU's own: what happens on another meanwhile has its own, too.
        let mut own = self.scratch.replace(no_scratch());
        let result = f(&mut own);
        self.scratch.replace(own);
        Some(result)
    }
}
