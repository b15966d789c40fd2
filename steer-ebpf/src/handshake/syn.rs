//! A client's SYN: which backend it goes to, by which port, and what is remembered of it.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::{
        BACKEND_PRESENT, Backend, FLOW_COLLIDED, FLOW_MADE, Flow, NO_BACKEND, SWITCH_LEAVE,
        VIP_OBSERVE, VIP_RETURN_BY_ROUTE, flow_entrance, options,
    },
    splice,
    wire::{ip::Ip, tcp::flags},
};

use crate::{
    flows::{
        foreign,
        legs::{self, take_leg},
        stamps::{follow_hop, idle, record_hop},
        table::{is_up, lookup, remove},
        traces::{find_trace, forget_syn_trace, forget_trace, set_syn_trace},
    },
    handshake::unknown::{leaves_syn_traces, no_flow, port_there},
    hook::tc::Tc,
    maps::{FLOWS, HANDSHAKES, SPLICES, backend, count, count_backend, is_exempt, switch},
    packet::options::read_options,
    scratch::{Scratch, scratch},
    stage::{Stage, drop, pass, plain},
};

/// A SYN: the same first backend for a repeated one, the holder for a known flow, else as the
/// lookup table says.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn client_syn(skb: *mut __sk_buff) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if scratch.segment.flags & (flags::ACK | flags::RST | flags::FIN) != 0 {
        return no_flow(scratch);
    }
    if let Some(id) = holder(scratch) {
        count(Counter::SynKnownFlow);
        return on_known(skb, scratch, id);
    }
    // Where another flow has the port at its backend nobody can have it untranslated.
    let own = !legs::has(&scratch.key);
    if own && switch(SWITCH_LEAVE) && !is_of_handshake(scratch) {
        forget_over(scratch);
        return pass(Counter::Left);
    }
    if own && let Some(dialled) = scratch.key.dialled() {
        let there = |backend: &Backend| backend.flags & BACKEND_PRESENT != 0;
        if is_exempt(&scratch.vip, &scratch.key.client)
            || !backend(dialled as u32).is_some_and(there)
        {
            forget_over(scratch);
            foreign::remember(&scratch.key, scratch.seconds);
            return pass(Counter::Exempt);
        }
    }
    prepare_offer(skb, scratch);
    let (first, taken_at) = match repeated(scratch) {
        Repeated::At(id) => {
            count(Counter::SynRepeated);
            if let Some(handshake) = HANDSHAKES.get_ptr_mut(&scratch.key) {
                // SAFETY: a map value; each field is written as a word, and a lost race costs one
                // answer.
                let handshake = unsafe { &mut *handshake };
                follow_hop(skb, handshake);
                // What is sent there now needs no doubt.
                if handshake.client_hop.asked != 0 {
                    handshake.client_hop.asked = scratch.seconds;
                }
            }
            count_backend(id as u32, |stats| stats.syns += 1);
            return plain(scratch, id.into());
        }
        // Another handshake with these addresses is on its way: whichever is the client's, both can
        // go on.
        Repeated::Other(id) => {
            count(Counter::SynKnownFlow);
            return plain(scratch, id.into());
        }
        Repeated::No { taken_at } => (lookup(scratch), taken_at),
    };
    if first == NO_BACKEND {
        return drop(Counter::NoBackend);
    }
    if taken_at == first || legs::is_taken(scratch, first as u32) {
        // Where there is none its own has to do: whose record says that it is taken may be gone.
        let port = take_leg(first as u32, legs::service(scratch), scratch.segment.seq) as u16;
        // Of two flows to one pool one must have another.
        if port == 0 && scratch.key.is_beside() {
            return Stage::Drop;
        }
        scratch.first_port = port.to_ne_bytes();
    }
    count(Counter::Syn);
    count_backend(first as u32, |stats| stats.syns += 1);
    remember(skb, scratch, first);
    if leaves_syn_traces(scratch) {
        set_syn_trace(first as u32);
    }
    plain(scratch, first.into())
}

/// Reads what the SYN offers. Where the flow may move, what would keep it from moving is taken out.
#[inline(always)]
fn prepare_offer(skb: *mut __sk_buff, scratch: &mut Scratch) {
    let observes = scratch.vip.flags & VIP_OBSERVE != 0;
    let read = read_options(skb, 0);
    if read == 0
        && !observes
        && scratch.offer.cleared != 0
        && scratch.offer.options & options::SIGNED == 0
    {
        read_options(skb, 1);
    }
    if scratch.segment.accurate_ecn && !observes {
        clear_accurate_ecn(skb, &scratch.ip);
    }
}

/// Forgets what was there before on the ports of a connection that is left to the kernel, unless a
/// flow on them may live.
#[inline(always)]
fn forget_over(scratch: &Scratch) {
    // SAFETY: fields are read as words.
    let over = match unsafe { FLOWS.get(&scratch.key).or_else(|| SPLICES.get(&scratch.key)) } {
        Some(flow) => flow.closing(),
        None => find_trace() as u16 == NO_BACKEND,
    };
    if over {
        remove(scratch);
        let _ = SPLICES.remove(&scratch.key);
        let _ = HANDSHAKES.remove(&scratch.key);
        forget_trace();
        forget_syn_trace();
    }
}

/// Whether this very SYN was seen before.
#[inline(always)]
fn is_of_handshake(scratch: &Scratch) -> bool {
    // SAFETY: one word is read.
    let known = unsafe { HANDSHAKES.get(&scratch.key) };
    known.is_some_and(|known| StateWord(known.word).isn() == scratch.segment.seq)
}

/// What is known of a SYN from one before.
enum Repeated {
    /// The same one went to this backend, which is still up.
    At(u16),
    /// Another one did, and was answered a moment ago.
    Other(u16),
    /// It was not. The client's port is taken at this backend, which answered for another
    /// connection when a SYN came before.
    No { taken_at: u16 },
}

/// Whether a SYN of these addresses was seen before. A backend that answered a moment ago keeps its
/// handshake, also where it left its pool since: the client may have that answer by now. One with
/// another number is an attacker's or the next connection's: it must not take the place of a
/// handshake that its client is about to complete.
#[inline(always)]
fn repeated(scratch: &mut Scratch) -> Repeated {
    /// Seconds within which a client acknowledges what it got.
    const PATIENCE: u32 = 2;
    // SAFETY: the fields are read at once.
    let known = unsafe { HANDSHAKES.get(&scratch.key) };
    let known = known.filter(|known| known.entrance() == scratch.entrance);
    let Some(known) = known else { return Repeated::No { taken_at: NO_BACKEND } };
    let (word, first, port, bits) =
        (StateWord(known.word), known.first, known.first_port, known.flags);
    let fresh = idle(known, scratch.seconds) <= PATIENCE;
    // A flow that was moved there since may have the port.
    let lost = word.state() == State::Syn
        && port == [0; 2]
        && scratch.key.dialled().is_some()
        && legs::has(&scratch.key);
    let taken_at = if lost || bits & FLOW_COLLIDED != 0 { first } else { NO_BACKEND };
    let answered = word.state() == State::SynAck && fresh;
    // It went to the holder of a flow that was live, which did not take it: who dials a backend
    // itself gets that one.
    let held =
        word.state() == State::Syn && scratch.key.dialled().is_some_and(|dialled| dialled != first);
    if taken_at != NO_BACKEND || held || !(is_up(first) || answered) {
        return Repeated::No { taken_at };
    }
    match word.state() {
        State::Syn | State::SynAck if word.isn() == scratch.segment.seq => {
            scratch.first_port = port;
            Repeated::At(first)
        }
        State::SynAck if answered && bits & FLOW_MADE == 0 => {
            scratch.first_port = port;
            Repeated::Other(first)
        }
        _ => Repeated::No { taken_at },
    }
}

/// A SYN on a known live flow goes to the backend that has it, and is remembered in case that one
/// takes it for a new one.
#[inline(always)]
fn on_known(skb: *mut __sk_buff, scratch: &mut Scratch, id: u16) -> Stage {
    prepare_offer(skb, scratch);
    if let Repeated::No { .. } = repeated(scratch) {
        // SAFETY: the fields are read at once.
        let flow = unsafe { FLOWS.get(&scratch.key).or_else(|| SPLICES.get(&scratch.key)) };
        scratch.first_port =
            flow.map_or_else(|| port_there(scratch, id), |flow| flow.port_at_holder());
        count(Counter::Syn);
        remember(skb, scratch, id);
    }
    plain(scratch, id.into())
}

/// The backend that holds a live flow of these addresses: a SYN must not move it, whoever sent it.
/// A flow that both sides ended is not live: its ports are free for the next one, which goes where
/// the lookup table says today.
#[inline(always)]
fn holder(scratch: &Scratch) -> Option<u16> {
    // SAFETY: the fields are read at once.
    let id = match unsafe { FLOWS.get(&scratch.key).or_else(|| SPLICES.get(&scratch.key)) } {
        Some(flow) => {
            let live = !flow.closing() && idle(flow, scratch.seconds) <= scratch.vip.flow_timeout;
            if live { flow.holder() } else { NO_BACKEND }
        }
        None => match find_trace() as u16 {
            // Nobody knows its port there any more.
            id if scratch.key.is_beside() && port_there(scratch, id) == [0; 2] => NO_BACKEND,
            id => id,
        },
    };
    (id != NO_BACKEND && is_up(id)).then_some(id)
}

/// Clears the request for AccECN (the AE bit): the servers then agree on classic ECN, which can be
/// compared.
#[inline(always)]
fn clear_accurate_ecn(skb: *mut __sk_buff, ip: &Ip) {
    let at = ip.l4 as u32 + 12;
    let mut bytes = [0u8; 2];
    // SAFETY: two bytes of the stack.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), at, (&raw mut bytes).cast(), 2) != 0 {
            return;
        }
        let old = u16::from_ne_bytes(bytes);
        bytes[0] &= !1;
        let new = u16::from_ne_bytes(bytes);
        if bpf_skb_store_bytes(skb, at, (&raw const bytes).cast(), 2, 0) == 0 {
            let difference = steer_common::checksum::replaced16(old, new);
            Tc(skb).replace_sums(ip.l4 + 16, ip.v6, 0, difference);
        }
    }
}

/// Remembers what the SYN offers.
#[inline(always)]
fn remember(skb: *mut __sk_buff, scratch: &mut Scratch, first: u16) {
    let (segment, offer) = (&scratch.segment, &scratch.offer);
    let ecn = splice::ecn_offered(segment.flags);
    let flow = &mut scratch.flow;
    *flow = Flow::default();
    flow.word = StateWord::new(State::Syn, segment.seq).0;
    flow.flags = flow_entrance(scratch.entrance);
    flow.first = first;
    flow.owner = first;
    flow.seen = scratch.seconds;
    flow.client_ts = offer.ts;
    flow.syn_window = segment.window;
    flow.client_mss = offer.mss;
    flow.client_scale = offer.scale;
    flow.offered = offer.options | ecn;
    flow.first_port = scratch.first_port;
    if scratch.vip.flags & VIP_RETURN_BY_ROUTE == 0 {
        record_hop(&Tc(skb), &mut flow.client_hop);
    }
    // A full table forgets its oldest; the client then gets plain layer 4.
    let _ = HANDSHAKES.insert(&scratch.key, &*flow, 0);
}
