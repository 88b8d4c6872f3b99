//! The kernel as the surroundings of the shared logic: BPF maps and helpers.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{HashMap, LruHashMap};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_loop};
use aya_ebpf::programs::TcContext;
use netpath_common::addr::Addr;
use netpath_common::config::{Config, FALLBACK};
use netpath_common::counter::{Hook, HookCounters};
use netpath_common::endpoint::{Endpoint, EndpointKey, Veth};
use netpath_common::env::{Env, InsertError, Repeat, Route, Scratch, Table};
use netpath_common::event::{EventKind, wanted};
use netpath_common::flow::Flow;
use netpath_common::fragment::{FragmentKey, FragmentPorts};
use netpath_common::icmp::{self, Quoted};
use netpath_common::link::Receiver;
use netpath_common::network::{HostAddr, Uplink};
use netpath_common::packet::{Packet, Transport};
use netpath_common::policy::{OpenPort, Policy, Trusted};
use netpath_common::port::{PortKey, PortTarget};
use netpath_common::reason::DropReason;
use netpath_common::tunnel::{Prefix, Tunnel};
use netpath_common::tuple::{Proto, Tuple};

use crate::frame::{HEADERS_QUOTED, Linear};
use crate::{action, event, host_socket, maps, overlay, route};

/// One packet at one hook.
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    /// The packet.
    pub ctx: &'a TcContext,
    /// Where it met us.
    pub hook: Hook,
}

impl<'a> Kernel<'a> {
    /// The packet of `ctx`.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext, hook: Hook) -> Self {
        Self { ctx, hook }
    }

    /// The device that the program is attached to.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the program's whole run.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    /// The device by which the packet entered the host; 0 if the host made it.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).ingress_ifindex }
    }

    /// Whether the packet has a VLAN tag, which the kernel keeps outside of the frame.
    #[inline(always)]
    pub fn vlan_tagged(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).vlan_present != 0 }
    }

    /// What eth_type_trans() made of the destination MAC (`PACKET_HOST` is 0).
    #[inline(always)]
    pub fn packet_type(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).pkt_type }
    }

    /// Bytes of payload in each segment of an aggregate; 0 if it is none.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).gso_size }
    }

    /// The coarse clock in ticks of 2^20 ns.
    #[inline(always)]
    pub fn ticks(&self) -> u32 {
        // SAFETY: a helper without arguments.
        (unsafe { bpf_ktime_get_coarse_ns() } >> 20) as u32
    }

    /// Room for what is learnt of the packet, off the stack.
    ///
    /// # Errors
    /// None in practice: the verifier wants the question asked.
    #[inline(always)]
    pub fn packet(&self, network: u16) -> Result<&'a mut Packet, DropReason> {
        packet(network)
    }

    /// This CPU's counters of the hook.
    #[inline(always)]
    pub fn count(&self, f: impl FnOnce(&mut HookCounters)) {
        if let Some(counters) = maps::COUNTERS.get_ptr_mut(self.hook as u32) {
            // SAFETY: the record is this CPU's own.
            f(unsafe { &mut *counters });
        }
    }
}

/// See [`Kernel::packet`].
#[inline(always)]
pub fn packet(network: u16) -> Result<&'static mut Packet, DropReason> {
    let packet = maps::PACKET
        .get_ptr_mut(0)
        .ok_or(DropReason::RewriteFailed)?;
    // SAFETY: the record is this CPU's own, as in `with_scratch`; one packet is at hand at
    // a time, and each hook asks once (and once more when it is done, to tell of a drop). The
    // parsers write the rest before anybody reads it; `proto` is the one field for which the
    // map's initial zero would not be valid.
    unsafe {
        let tuple = &raw mut (*packet).tuple;
        (*tuple).src_port = 0;
        (*tuple).dst_port = 0;
        (*tuple).network = network;
        (&raw mut (*tuple).proto).write(Proto::Udp);
        (&raw mut (*packet).transport).write(Transport::Unknown);
        (*packet).tcp_flags = 0;
        Ok(&mut *packet)
    }
}

/// A BPF hash map as a table.
#[derive(Clone, Copy)]
pub struct Map<'a, M>(pub &'a M);

/// Both kinds of hash map have the same methods, and no common trait.
macro_rules! table {
    ($map:ident) => {
        impl<K, V: Copy, const N: usize, const F: usize> Table<K, V> for Map<'_, $map<K, V, N, F>> {
            #[inline(always)]
            fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R> {
                let value = self.0.get_ptr_mut(key)?;
                // SAFETY: map values stay allocated while the program runs. Other CPUs may
                // write the same words; `Table` tells its users so.
                Some(f(unsafe { &mut *value }))
            }

            #[inline(always)]
            fn insert_new(&self, key: &K, value: &V) -> Result<(), InsertError> {
                const EEXIST: i32 = -17;
                self.0
                    .insert(key, value, BPF_NOEXIST.into())
                    .map_err(|error| match error {
                        EEXIST => InsertError::Exists,
                        _ => InsertError::Full,
                    })
            }

            #[inline(always)]
            fn replace(&self, key: &K, value: &V) -> Result<(), InsertError> {
                self.0.insert(key, value, 0).map_err(|_| InsertError::Full)
            }

            #[inline(always)]
            fn remove(&self, key: &K) {
                let _ = self.0.remove(key);
            }
        }
    };
}

table!(HashMap);
table!(LruHashMap);

impl Env for Kernel<'_> {
    #[inline(always)]
    fn flows(&self) -> impl Table<Tuple, Flow> {
        Map(&maps::FLOWS)
    }

    #[inline(always)]
    fn endpoints(&self) -> impl Table<EndpointKey, Endpoint> {
        Map(&maps::ENDPOINTS)
    }

    #[inline(always)]
    fn ports(&self) -> impl Table<PortKey, PortTarget> {
        Map(&maps::PORTS)
    }

    #[inline(always)]
    fn uplinks(&self) -> impl Table<u32, Uplink> {
        Map(&maps::UPLINKS)
    }

    #[inline(always)]
    fn host_addrs(&self) -> impl Table<Addr, HostAddr> {
        Map(&maps::HOST_ADDRS)
    }

    #[inline(always)]
    fn policies(&self) -> impl Table<u32, Policy> {
        Map(&maps::POLICIES)
    }

    #[inline(always)]
    fn open_ports(&self) -> impl Table<OpenPort, u32> {
        Map(&maps::OPEN_PORTS)
    }

    #[inline(always)]
    fn trusted(&self) -> impl Table<Trusted, u32> {
        Map(&maps::TRUSTED)
    }

    #[inline(always)]
    fn kernel_flows(&self) -> impl Table<Tuple, u32> {
        Map(&maps::KERNEL_FLOWS)
    }

    #[inline(always)]
    fn fragments(&self) -> impl Table<FragmentKey, FragmentPorts> {
        Map(&maps::FRAGMENTS)
    }

    #[inline(always)]
    fn network_of(&self, addr: &Addr) -> Option<u16> {
        maps::SUBNETS.get(&Key::new(128, *addr)).copied()
    }

    #[inline(always)]
    fn generation(&self, slot: u32) -> u32 {
        maps::SLOTS.get(slot).map_or(0, |slot| slot.generation)
    }

    #[inline(always)]
    fn charge(&self, slot: u32) -> bool {
        let Some(slot) = maps::SLOTS.get_ptr_mut(slot) else {
            return false;
        };
        // SAFETY: array values live as long as the map; see `Slot::flows` for races.
        let flows = unsafe { &mut (*slot).flows };
        if *flows >= self.config().max_flows_per_endpoint {
            return false;
        }
        *flows += 1;
        true
    }

    #[inline(always)]
    fn refund(&self, slot: u32) {
        if let Some(slot) = maps::SLOTS.get_ptr_mut(slot) {
            // SAFETY: as above.
            let flows = unsafe { &mut (*slot).flows };
            *flows = flows.saturating_sub(1);
        }
    }

    #[inline(always)]
    fn netns_of(&self, ifindex: u32) -> u32 {
        match maps::VETHS.get_ptr(ifindex) {
            // SAFETY: map values stay allocated while the program runs.
            Some(veth) => unsafe { (*veth).netns },
            None => 0,
        }
    }

    #[inline(always)]
    fn receiver(&self, place: u32) -> Option<&Receiver> {
        maps::RECEIVERS.get(place)
    }

    #[inline(always)]
    fn config(&self) -> &Config {
        maps::CONFIG.get(0).unwrap_or(&FALLBACK)
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        const NANOS: u64 = 1_000_000_000;
        // The coarse clock is one load; whole seconds need no better.
        // SAFETY: a helper without arguments.
        (unsafe { bpf_ktime_get_coarse_ns() } / NANOS) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn host_socket(&self, tuple: &Tuple) -> bool {
        host_socket::is_there(self, tuple)
    }

    #[inline(always)]
    fn route(
        &self,
        gateway_ifindex: u32,
        src: &Addr,
        dst: &Addr,
        route: &mut Route,
    ) -> Result<(), DropReason> {
        route::lookup(self, gateway_ifindex, src, dst, route)
    }

    #[inline(always)]
    fn send(&self, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
        action::send(self, packet, flow)
    }

    #[inline(always)]
    fn send_error(&self, packet: &Packet, quoted: &Quoted, flow: &Flow) -> Result<(), DropReason> {
        action::send_error(self, packet, quoted, flow)
    }

    #[inline(always)]
    fn with_tunnel<R>(&self, network: u16, addr: &Addr, f: impl FnOnce(&Tunnel) -> R) -> Option<R> {
        let tunnel = match maps::REMOTES.get_ptr(EndpointKey::new(network, *addr)) {
            Some(tunnel) => tunnel,
            None => {
                let key = Key::new(Prefix::BITS, Prefix::new(network, *addr));
                core::ptr::from_ref(maps::TUNNELS.get(&key)?)
            }
        };
        // SAFETY: map values stay allocated while the program runs.
        Some(f(unsafe { &*tunnel }))
    }

    #[inline(always)]
    fn send_by_tunnel(
        &self,
        packet: &Packet,
        tunnel: &Tunnel,
        sender: Option<&Veth>,
    ) -> Result<(), DropReason> {
        overlay::send(self, packet, tunnel, sender)
    }

    #[inline(always)]
    fn quoted<R>(&self, packet: &Packet, f: impl FnOnce(&Quoted) -> R) -> Result<R, DropReason> {
        let quoted = maps::QUOTED
            .get_ptr_mut(0)
            .ok_or(DropReason::RewriteFailed)?;
        // SAFETY: the record is this CPU's own, as in `packet`; `proto` is the one field for
        // which the map's initial zero would not be valid.
        let quoted = unsafe {
            (&raw mut (*quoted).key.proto).write(Proto::Udp);
            &mut *quoted
        };
        icmp::read(packet, &Linear::of(self.ctx, HEADERS_QUOTED), quoted)?;
        Ok(f(quoted))
    }

    #[inline(always)]
    fn flow_begins(&self, key: &Tuple, flow: &Flow) {
        self.count(|counters| counters.new_flows += 1);
        if event::wanted(wanted::FLOWS) {
            event::flow(EventKind::NewFlow, self.hook, self.ifindex(), key, flow);
        }
    }

    #[inline(always)]
    fn flow_ends(&self, key: &Tuple, flow: &Flow) {
        if event::wanted(wanted::FLOWS) {
            event::flow(EventKind::FlowEnd, self.hook, 0, key, flow);
        }
    }

    #[inline(always)]
    fn count_search(&self, bucket: usize) {
        if let Some(searches) = maps::SNAT_RETRIES.get_ptr_mut(0) {
            // SAFETY: the record is this CPU's own.
            let searches = unsafe { &mut *searches };
            if let Some(count) = searches.buckets.get_mut(bucket) {
                *count += 1;
            }
        }
    }

    #[inline(always)]
    fn repeat<R: Repeat>(&self, times: u32, body: &mut R) {
        // SAFETY: `body` outlives the loop, and `round` takes what it is given.
        unsafe { bpf_loop(times, round::<R> as *mut c_void, (&raw mut *body).cast(), 0) };
    }

    #[inline(always)]
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        // SAFETY: the record is this CPU's own, and no other program of ours can run on this
        // CPU before this one has ended (bottom halves are off).
        maps::SCRATCH
            .get_ptr_mut(0)
            .map(|scratch| f(unsafe { &mut *scratch }))
    }
}

/// One round of `bpf_loop`: 0 goes on, 1 ends it.
extern "C" fn round<R: Repeat>(number: u64, body: *mut c_void) -> i64 {
    // SAFETY: `Kernel::repeat` passes a valid and exclusive `R`.
    let body = unsafe { &mut *body.cast::<R>() };
    i64::from(!body.step(number as u32))
}

/// Context pointer for helpers that take any context.
#[inline(always)]
pub fn raw(kernel: &Kernel<'_>) -> *mut c_void {
    kernel.ctx.as_ptr()
}
