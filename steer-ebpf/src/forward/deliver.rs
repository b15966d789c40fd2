//! A packet whose backend is known goes on: stamped into its flow, counted, its way chosen, sent.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_store_bytes};
use steer_common::{
    checksum::replaced16,
    counters::Counter,
    flow::Direction,
    shared::{Address, Flow, HOP_SECONDS, HOP_TAKES_XDP, Hop, PATH_RETURN_SEEN},
    wire::{
        ip::Part,
        tcp::{Segment, flags},
    },
};

use crate::{
    change::Change,
    flows::stamps::record_packet,
    forward::{
        bridge,
        next_hop::{Refused, fib, fib_lookup, hop_flags, refresh, send, unfinished},
    },
    hook::{Hook, tc::Tc},
    maps::{backend, backend_path, count, count_backend, shown},
    packet::options::OptionsHook,
    scratch::{Scratch, Way, scratch},
    stage::{Stage, drop},
};

/// Enters into the packet's [`Way`] what the record of its flow, or of the handshake that will be
/// one, says, and stamps the packet into it.
#[inline(always)]
pub(crate) fn go_by<H: Hook>(hook: &H, record: &mut Flow, scratch: &mut Scratch) {
    let way = &mut scratch.way;
    way.new = record_packet(&scratch.key, record, &scratch.segment, way.direction, way.seconds);
    way.translation.entrance = record.entrance();
    if record.owner as u32 == way.id {
        way.translation = record.translation();
    }
    if way.direction == Direction::ToClient && record.client_hop.ifindex != 0 {
        way.probe =
            !scratch.port.is_bridges() && is_probe_due(way, &record.client_hop, &scratch.segment);
        go_back_by(hook, &mut record.client_hop, scratch);
    }
}

/// Enters the hop that the client's packets come from.
#[inline(always)]
pub(crate) fn go_back_by<H: Hook>(hook: &H, hop: &mut Hop, scratch: &mut Scratch) {
    if !scratch.way.probe {
        refresh_mtu(hook, hop, scratch.way.seconds);
    } else if !H::XDP {
        hop.asked = 0;
    }
    scratch.hop = *hop;
}

/// Sends a packet on to its backend or its client, spliced where its flow is.
#[inline(always)]
pub(crate) fn deliver<H: OptionsHook>(hook: &H, scratch: &mut Scratch) -> Result<u16, Refused> {
    let unfinished = unfinished(hook, &scratch.ip);
    if H::XDP && unfinished {
        return Err(Refused::OtherHook(Counter::XdpUnfinishedChecksum));
    }
    let (Some(backend), Some(path)) = (backend(scratch.way.id), backend_path(scratch.way.id))
    else {
        return Err(Refused::Dropped(Counter::NoBackend));
    };
    // A backend that was removed from its pool keeps the flows it has; its slot stays until nothing
    // names it.
    if backend.endpoint.port() == 0 {
        return Err(Refused::Dropped(Counter::NoBackend));
    }
    let entrance = scratch.way.translation.entrance;
    let to = if scratch.way.from_vip {
        shown(&scratch.key, backend, entrance)
    } else {
        &backend.endpoint
    };
    scratch.change = Change::of_addresses(
        to,
        scratch.way.direction,
        scratch.way.client_port,
        !unfinished && !hook.aggregated(),
    );
    if scratch.way.from_vip && path.flags & PATH_RETURN_SEEN == 0 {
        path.flags |= PATH_RETURN_SEEN;
    }
    let to_client = scratch.way.direction == Direction::ToClient;
    scratch.route.hop.ifindex = 0;
    scratch.change.hops = scratch.port.hops();
    if scratch.way.translation.spliced != 0 {
        scratch.change.splice(&scratch.way.translation);
    }
    let hop: *mut Hop = if to_client { &raw mut scratch.hop } else { &raw mut path.hop };
    // SAFETY: map values, both of them; a lost race costs one question.
    let hop = unsafe { &mut *hop };
    let ip = &scratch.ip;
    let seconds = scratch.way.seconds;
    let answer = if scratch.port.is_bridges() {
        let known = if to_client {
            bridge::way_back(hop)
        } else {
            bridge::way_to(hook, hop, scratch.way.id, seconds)
        };
        scratch.vlan = hop.vlan() as u32;
        if known { fib::SUCCESS } else { fib::NOT_FORWARDED }
    } else if !to_client {
        refresh(hook, hop, &ip.source, &backend.endpoint.address, seconds)
    } else if hop.ifindex == 0 {
        refresh(hook, hop, &to.address, &ip.destination, seconds)
    } else if !scratch.way.probe {
        fib::SUCCESS
    } else if H::XDP {
        fib::NO_NEIGHBOUR
    } else {
        probe(hook, &to.address, &ip.destination)
    };
    // XDP leaves all but a resolved hop to TC, TC leaves neighbours to the kernel's discovery.
    // Nobody tells a program that the interface which it redirects to did not take the frame.
    if H::XDP && answer != fib::SUCCESS {
        return Err(Refused::OtherHook(Counter::XdpToTc));
    }
    if H::XDP && hop.flags & HOP_TAKES_XDP == 0 {
        return Err(Refused::OtherHook(Counter::XdpEgress));
    }
    count_packet(scratch, scratch.change.spliced);
    match answer {
        fib::SUCCESS => {
            if !H::XDP && ip.part == Part::First {
                scratch.route.hop = *hop;
            }
            send(hook, ip, &scratch.segment, &scratch.change, Some(hop))
        }
        fib::NO_NEIGHBOUR => send(hook, ip, &scratch.segment, &scratch.change, None),
        _ => Err(Refused::Dropped(Counter::NoRoute)),
    }
}

/// A packet between a client and the backend that it dialled: the bridge has it go on, if with
/// another port of the client.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn go_on(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    count_packet(scratch, false);
    let (way, ip) = (&scratch.way, &scratch.ip);
    if way.from_vip
        && let Some(path) = backend_path(way.id)
        && path.flags & PATH_RETURN_SEEN == 0
    {
        path.flags |= PATH_RETURN_SEEN;
    }
    let new = way.client_port;
    if new == [0; 2] {
        return Stage::Pass;
    }
    let (at, old) = match way.direction {
        Direction::ToBackend => (0, scratch.segment.source_port),
        Direction::ToClient => (2, scratch.segment.destination_port),
    };
    let difference = replaced16(u16::from_ne_bytes(old), u16::from_ne_bytes(new));
    let place = scratch.l4() + at;
    // SAFETY: two bytes of the stack.
    let stored = unsafe { bpf_skb_store_bytes(skb, place, (&raw const new).cast(), 2, 0) == 0 };
    if stored && Tc(skb).replace_sums(ip.l4 + 16, ip.v6, 0, difference) {
        return Stage::Pass;
    }
    drop(Counter::EmitFailed)
}

/// Counts a packet that is about to be sent.
#[inline(always)]
fn count_packet(scratch: &Scratch, spliced: bool) {
    let way = &scratch.way;
    count(match way.direction {
        Direction::ToBackend => Counter::FromClient,
        Direction::ToClient => Counter::FromBackend,
    });
    count(if spliced { Counter::Spliced } else { Counter::Forwarded });
    let bytes = scratch.ip.l4_len as u64;
    count_backend(way.id, |stats| {
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
fn is_probe_due(way: &Way, hop: &Hop, segment: &Segment) -> bool {
    if segment.any(flags::SYN) {
        // The first answer finds a hop that was not asked about; where the client's SYN came again
        // it was asked about just now.
        return hop.asked != 0 && hop.asked != way.seconds;
    }
    !way.new && hop.asked != 0 && is_old(hop, way.seconds)
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
        hop.set_takes(hop_flags(hop.ifindex));
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
