//! A packet whose backend is known goes on: stamped into its flow, counted, its way chosen, sent.

use steer_common::{
    counters::Counter,
    flow::{Direction, State, StateWord},
    shared::{Address, Flow, HOP_TAKES_XDP, Hop, PATH_RETURN_SEEN},
    wire::{
        ip::Part,
        tcp::{Segment, flags},
    },
};

use crate::{
    change::Change,
    flows::stamps::record_packet,
    forward::next_hop::{
        HOP_SECONDS, Refused, fib, fib_lookup, hop_flags, refresh, send, unfinished,
    },
    hook::Hook,
    maps::{backend, backend_path, count, count_backend},
    packet::options::OptionsHook,
    scratch::{Scratch, scratch},
};

/// How a packet goes on.
pub(crate) struct Plan {
    /// Backend it goes to or comes from.
    pub(crate) id: u32,
    /// Its flow, or the handshake that will be one, or null.
    pub(crate) flow: *mut Flow,
    pub(crate) direction: Direction,
    /// The client gets it from the VIP; else from the backend itself, which it dialled.
    pub(crate) from_vip: bool,
    /// The client's port on the other side of the gateway, big-endian; 0: the same.
    pub(crate) client_port: [u8; 2],
    /// Now, seconds.
    pub(crate) seconds: u32,
}

impl Plan {
    /// Nothing is planned.
    pub(crate) const EMPTY: Self = Self {
        id: 0,
        flow: core::ptr::null_mut(),
        direction: Direction::ToBackend,
        from_vip: false,
        client_port: [0; 2],
        seconds: 0,
    };
}

/// Sends a packet on to its backend or its client, spliced where its flow is.
#[inline(always)]
pub(crate) fn deliver<H: OptionsHook>(
    hook: &H,
    plan: &Plan,
    scratch: &mut Scratch,
) -> Result<u16, Refused> {
    let unfinished = unfinished(hook, &scratch.ip);
    if H::XDP && unfinished {
        return Err(Refused::OtherHook(Counter::XdpUnfinishedChecksum));
    }
    let (Some(backend), Some(path)) = (backend(plan.id), backend_path(plan.id)) else {
        return Err(Refused::Dropped(Counter::NoBackend));
    };
    // A backend that was removed from its pool keeps the flows it has; its slot stays until nothing
    // names it.
    if backend.endpoint.port() == 0 {
        return Err(Refused::Dropped(Counter::NoBackend));
    }
    let to = if plan.from_vip { &backend.vip } else { &backend.endpoint };
    scratch.change = Change::of_addresses(
        to,
        plan.direction,
        plan.client_port,
        !unfinished && !hook.aggregated(),
    );
    if plan.from_vip && path.flags & PATH_RETURN_SEEN == 0 {
        path.flags |= PATH_RETURN_SEEN;
    }
    let to_client = plan.direction == Direction::ToClient;
    scratch.hop.ifindex = 0;
    scratch.route.hop.ifindex = 0;
    let mut new = true;
    let mut hop: *mut Hop = if to_client { &raw mut scratch.hop } else { &raw mut path.hop };
    if !plan.flow.is_null() {
        // SAFETY: not null, a map value; each field is read and written as a word, and a lost race
        // costs one stamp.
        let flow = unsafe { &mut *plan.flow };
        new = record_packet(&scratch.key, flow, &scratch.segment, plan.direction, plan.seconds);
        if to_client && flow.client_hop.ifindex != 0 {
            hop = &raw mut flow.client_hop;
        }
        if StateWord(flow.word).is(State::Spliced) && flow.owner as u32 == plan.id {
            scratch.change.splice(flow);
        }
    }
    // SAFETY: one of the three places above, all of them map values.
    let hop = unsafe { &mut *hop };
    let (ip, segment) = (&scratch.ip, &scratch.segment);
    let answer = if !to_client {
        refresh(hook, hop, &ip.source, &backend.endpoint.address, plan.seconds)
    } else if hop.ifindex == 0 {
        refresh(hook, hop, &to.address, &ip.destination, plan.seconds)
    } else if !H::XDP && is_probe_due(plan, hop, new, segment) {
        hop.asked = 0;
        probe(hook, &backend.vip.address, &ip.destination)
    } else if H::XDP && is_probe_due(plan, hop, new, segment) {
        fib::NO_NEIGHBOUR
    } else {
        refresh_mtu(hook, hop, plan.seconds);
        fib::SUCCESS
    };
    // XDP leaves all but a resolved hop to TC, TC leaves neighbours to the kernel's discovery.
    // Nobody tells a program that the interface which it redirects to did not take the frame.
    if H::XDP && answer != fib::SUCCESS {
        return Err(Refused::OtherHook(Counter::XdpToTc));
    }
    if H::XDP && hop.flags & HOP_TAKES_XDP == 0 {
        return Err(Refused::OtherHook(Counter::XdpEgress));
    }
    count_packet(plan, scratch);
    match answer {
        fib::SUCCESS => {
            if !H::XDP && ip.part == Part::First {
                scratch.route.hop = *hop;
            }
            send(hook, ip, segment, &scratch.change, Some(hop))
        }
        fib::NO_NEIGHBOUR => send(hook, ip, segment, &scratch.change, None),
        _ => Err(Refused::Dropped(Counter::NoRoute)),
    }
}

/// Counts a packet that is about to be sent.
#[inline(always)]
fn count_packet(plan: &Plan, scratch: &Scratch) {
    count(match plan.direction {
        Direction::ToBackend => Counter::FromClient,
        Direction::ToClient => Counter::FromBackend,
    });
    count(if scratch.change.spliced { Counter::Spliced } else { Counter::Forwarded });
    let bytes = scratch.ip.l4_len as u64;
    count_backend(plan.id, |stats| {
        stats.packets += 1;
        stats.bytes += bytes;
    });
}

/// Whether a packet to a client shall not go by the hop that the client's packets came from. A
/// client that only listens shows no new hop: so now and then a packet that says nothing new, and
/// may be lost, goes by the forwarding table and the kernel's neighbour discovery, and the client's
/// answer tells. Never two in a row, nor the first answer to a SYN, nor one to a SYN that came
/// again: the forwarding table need not know the way that the client's packets come by.
#[inline(always)]
fn is_probe_due(plan: &Plan, hop: &Hop, new: bool, segment: &Segment) -> bool {
    if segment.any(flags::SYN) {
        // The first answer finds a hop that was not asked about; where the client's SYN came again
        // it was asked about just now.
        return hop.asked != 0 && hop.asked != plan.seconds;
    }
    !new && hop.asked != 0 && is_old(hop, plan.seconds)
}

#[inline(always)]
fn is_old(hop: &Hop, seconds: u32) -> bool {
    seconds.wrapping_sub(hop.asked) > HOP_SECONDS
}

/// A client's hop is kept by its own packets, not by the forwarding table; only its MTU is asked
/// for.
#[inline(always)]
fn refresh_mtu<H: Hook>(hook: &H, hop: &mut Hop, seconds: u32) {
    if is_old(hop, seconds) {
        hop.mtu = hook.mtu(hop.ifindex);
        hop.flags = hop_flags(hop.ifindex);
        hop.asked = seconds;
    }
}

/// The forwarding table's answer about a client whose hop is doubted: where it knows no way, the
/// hop it is.
#[inline(always)]
fn probe<H: Hook>(hook: &H, vip: &Address, client: &Address) -> i32 {
    let Some(scratch) = scratch() else { return fib::SUCCESS };
    match fib_lookup(hook, &mut scratch.fib, vip, client) {
        fib::SUCCESS | fib::NO_NEIGHBOUR => fib::NO_NEIGHBOUR,
        _ => fib::SUCCESS,
    }
}
