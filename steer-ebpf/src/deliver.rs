//! A packet whose backend is known goes on: stamped into its flow, counted, its way chosen, sent.

use steer_common::{
    counters::Counter,
    flow::{State, Word},
    shared::{BACKEND_RETURN_SEEN, Backend, Flow, Hop},
    wire::{ip::Part, tcp::flags},
};

use crate::{
    forward::{Change, HOP_SECONDS, Refused, ask, fib, refresh, send, unfinished},
    hook::Hook,
    maps::{Scratch, backend, count, count_backend},
    options::OptionsHook,
    stamps::note,
};

/// How a packet goes on.
pub(crate) struct Plan {
    /// Backend it goes to or comes from.
    pub(crate) id: u32,
    /// Its flow, or the handshake that will be one.
    pub(crate) flow: Option<*mut Flow>,
    /// The direction.
    pub(crate) to_client: bool,
    /// Now, seconds.
    pub(crate) seconds: u32,
}

/// The next hop of a packet.
enum Way {
    /// As the hop says.
    Known(*mut Hop),
    /// Left to the kernel's neighbour discovery (TC only).
    Neighbour,
}

/// Sends a packet on to its backend or its client, spliced where its flow is.
#[inline(always)]
pub(crate) fn deliver<H: OptionsHook>(hook: &H, plan: &Plan, scratch: &mut Scratch) -> Result<i32, Refused> {
    let unfinished = unfinished(hook, &scratch.ip);
    if H::XDP && unfinished {
        return Err(Refused::OtherHook(Counter::XdpUnfinishedChecksum));
    }
    let Some(backend) = backend(plan.id) else { return Err(Refused::Dropped(Counter::NoBackend)) };
    // A backend that was removed from its pool keeps the flows it has; its slot stays until nothing names it.
    if backend.endpoint.port() == 0 {
        return Err(Refused::Dropped(Counter::NoBackend));
    }
    let to = if plan.to_client { &backend.vip } else { &backend.endpoint };
    scratch.change = Change::of_addresses(to, plan.to_client, !unfinished && !hook.aggregated());
    scratch.hop.ifindex = 0;
    scratch.route.hop.ifindex = 0;
    let mut new = true;
    let mut back = None;
    if let Some(flow) = plan.flow {
        // SAFETY: a map value; each field is read and written as a word, and a lost race costs one stamp.
        let flow = unsafe { &mut *flow };
        new = note(hook, &scratch.key, flow, &scratch.segment, plan.to_client, plan.seconds);
        if flow.client_hop.ifindex != 0 {
            back = Some(&raw mut flow.client_hop);
        }
        if Word(flow.word).state() == State::Spliced && flow.owner as u32 == plan.id {
            scratch.change.splice(flow);
        }
    }
    count_packet(plan, backend, scratch);
    let way = if plan.to_client {
        to_client(hook, plan, backend, back, new, scratch)
    } else {
        to_backend(hook, plan, backend, scratch)
    };
    match way? {
        Way::Known(hop) => {
            // SAFETY: the backend's, the flow's or the scratch space's, all of them map values.
            let hop = unsafe { &*hop };
            if !H::XDP && scratch.ip.part == Part::First {
                scratch.route.hop = *hop;
            }
            send(hook, &scratch.ip, &scratch.segment, &scratch.change, Some(hop))
        }
        Way::Neighbour => send(hook, &scratch.ip, &scratch.segment, &scratch.change, None),
    }
}

/// Counts a packet that is about to be sent.
#[inline(always)]
fn count_packet(plan: &Plan, backend: &mut Backend, scratch: &Scratch) {
    if plan.to_client {
        count(Counter::FromBackend);
        if backend.flags & BACKEND_RETURN_SEEN == 0 {
            backend.flags |= BACKEND_RETURN_SEEN;
        }
    } else {
        count(Counter::FromClient);
    }
    count(if scratch.change.spliced { Counter::Spliced } else { Counter::Forwarded });
    let bytes = scratch.ip.l4_len as u64;
    count_backend(plan.id, |stats| {
        stats.packets += 1;
        stats.bytes += bytes;
    });
}

/// The way to the backend, from the forwarding table.
#[inline(always)]
fn to_backend<H: Hook>(hook: &H, plan: &Plan, backend: &mut Backend, scratch: &mut Scratch) -> Result<Way, Refused> {
    let answer = refresh(hook, &mut backend.hop, &scratch.ip.source, &backend.endpoint.address, plan.seconds);
    way::<H>(answer, &raw mut backend.hop)
}

/// The way to the client: the one its packets come by, or the forwarding table's where none is known.
#[inline(always)]
fn to_client<H: Hook>(
    hook: &H,
    plan: &Plan,
    backend: &Backend,
    back: Option<*mut Hop>,
    new: bool,
    scratch: &mut Scratch,
) -> Result<Way, Refused> {
    let (from, to) = (&backend.vip.address, &scratch.ip.destination);
    let Some(hop) = back else {
        let answer = refresh(hook, &mut scratch.hop, from, to, plan.seconds);
        return way::<H>(answer, &raw mut scratch.hop);
    };
    // SAFETY: the flow's, a map value; a lost race costs one question more.
    let hop = unsafe { &mut *hop };
    if plan.seconds.wrapping_sub(hop.asked) <= HOP_SECONDS {
        return Ok(Way::Known(hop));
    }
    // A client that only listens shows no new hop: so now and then a packet that says nothing new, and may be lost, goes
    // by the forwarding table and the kernel's neighbour discovery, and the client's answer tells. Never two in a row, nor
    // the answer to a SYN: the forwarding table need not know the way that the client's packets come by.
    if !new && hop.asked != 0 && !scratch.segment.any(flags::SYN) {
        if H::XDP {
            return Err(Refused::OtherHook(Counter::XdpToTc));
        }
        hop.asked = 0;
        let answer = ask(hook, &mut scratch.fib, from, to);
        if answer == fib::SUCCESS || answer == fib::NO_NEIGHBOUR {
            return Ok(Way::Neighbour);
        }
    }
    hop.mtu = hook.mtu(hop.ifindex);
    hop.asked = plan.seconds;
    Ok(Way::Known(hop))
}

/// The way that an answer of the forwarding table leaves. XDP leaves all but a resolved hop to TC, TC leaves neighbours
/// to the kernel's discovery.
#[inline(always)]
fn way<H: Hook>(answer: i32, hop: *mut Hop) -> Result<Way, Refused> {
    match answer {
        fib::SUCCESS => Ok(Way::Known(hop)),
        _ if H::XDP => Err(Refused::OtherHook(Counter::XdpToTc)),
        fib::NO_NEIGHBOUR => Ok(Way::Neighbour),
        _ => Err(Refused::Dropped(Counter::NoRoute)),
    }
}
