//! A backend's packet of a flow that is not settled, or from which something is still to be learned.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_store_bytes};
use steer_common::{
    checksum::replaced16,
    counters::Counter,
    flow::{State, Word},
    ranges,
    rehome::{self, ServerAct},
    shared::{FLOW_LEARNED, FLOW_RESET, Flow, ROLE_BACKEND, options},
    splice,
    wire::{
        tcp::{TCP_LEN, flags},
        tls::server_flight::Follow,
    },
};

use crate::{
    client::{copy_flow, forget, known, lookup, nothing_to_learn, segment, settle},
    forward::{ask, fib},
    hook::tc::Tc,
    lock::{self, unlock},
    maps::{
        FLOWS, HANDSHAKES, PENDING, Reset, SPLICES, Scratch, VIPS, backend, count, count_backend, count_index, listed,
        scratch,
    },
    next::{self, drop, pass},
    options::read_options,
    rehome::tell,
};

/// Bits of [`options`] that a hello's agreement is about.
const AGREED: u8 = options::SACK | options::TIMESTAMPS | options::WINDOW_SCALE;

/// A backend's segment: `scratch.backend` sent it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn server_segment(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    let id = scratch.backend;
    let Some(backend) = backend(id) else { return next::PASS };
    let Some(vip) = VIPS.get_ptr(&backend.vip) else { return next::PASS };
    // SAFETY: a map value, copied at once.
    scratch.vip = unsafe { *vip };
    let was = flow;
    let flow = known(scratch, was);
    let syn_ack = scratch.facts.flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN | flags::ACK;
    if syn_ack && let Some(handshake) = answered(scratch, flow) {
        return first_syn_ack(skb, handshake, flow.is_some() as u32);
    }
    let Some(flow) = flow else { return no_flow(skb, scratch, id) };
    scratch.held = lock::read(flow).isn();
    let mut state = lock::read(flow).state();
    if !matches!(state, State::Spliced | State::First) {
        let Some(held) = State::from_number(lock::lock(flow) as u8) else { return drop(Counter::FlowBusy) };
        state = held;
    }
    act(scratch, flow, state) | if flow == was { 0 } else { next::FRESH }
}

/// A SYN to no VIP. Where it dials a backend itself that is remembered, so that the backend's answers are not taken for
/// those of a forgotten flow of the VIP.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn direct_syn() -> i32 {
    let Some(scratch) = scratch() else { return next::PASS };
    let dialled = listed(&scratch.ip.destination, scratch.segment.destination_port);
    let Some(id) = dialled.filter(|listed| listed.role == ROLE_BACKEND).map(|listed| listed.id) else {
        return pass(Counter::NotOurs);
    };
    let Some(backend) = backend(id as u32) else { return pass(Counter::NotOurs) };
    scratch.key.client = scratch.ip.source;
    scratch.key.client_port = scratch.segment.source_port;
    scratch.key.service = backend.vip_id;
    scratch.flow = Flow::default();
    scratch.flow.word = Word::new(State::Direct, scratch.facts.seq).0;
    scratch.flow.first = id;
    scratch.flow.seen = scratch.facts.seconds;
    let _ = HANDSHAKES.insert(&scratch.key, &scratch.flow, 0);
    pass(Counter::DirectAccess)
}

/// The handshake that the SYN-ACK at hand answers, unless the flow it opened is known already.
#[inline(always)]
fn answered(scratch: &Scratch, flow: Option<*mut Flow>) -> Option<*mut Flow> {
    let (id, ack) = (scratch.backend, scratch.facts.ack);
    let handshake = HANDSHAKES.get_ptr_mut(&scratch.key)?;
    // SAFETY: a map value.
    let (word, first) = unsafe { (lock::read(handshake), (*handshake).first) };
    if word.state() == State::Direct || first as u32 != id || ack != word.isn().wrapping_add(1) {
        return None;
    }
    if flow.is_some_and(|flow| lock::read(flow).isn() == word.isn()) { None } else { Some(handshake) }
}

/// The first backend accepts a new connection: what it agreed to is remembered. An old flow on the same addresses ends
/// here, and only here: the backend itself vouches for the new one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn first_syn_ack(skb: *mut __sk_buff, handshake: *mut Flow, replaces: u32) -> i32 {
    let (Some(scratch), false) = (scratch(), handshake.is_null()) else { return next::DROP };
    let id = scratch.backend;
    if replaces != 0 {
        let _ = FLOWS.remove(&scratch.key);
        forget(scratch);
        count(Counter::FlowReplaced);
    }
    if read_options(skb, 0) != 0 {
        return next::PLAIN | id as i32;
    }
    let (facts, offer) = (&scratch.facts, &scratch.offer);
    // SAFETY: not null, a whole map value; a repeated SYN-ACK writes the same.
    let flow = unsafe { &mut *handshake };
    flow.first_isn = facts.seq;
    flow.first_ts = offer.ts;
    flow.first_scale = offer.scale;
    flow.first_window = facts.window;
    flow.agreed = (offer.options & AGREED & flow.offered) | ecn_agreed(facts.flags, flow.offered);
    flow.offered |= offer.options & options::SIGNED;
    flow.told_mss = offer.mss;
    flow.word = Word::new(State::SynAck, Word(flow.word).isn()).0;
    count(Counter::SynAck);
    clamp_mss(skb, scratch, flow);
    next::PLAIN | id as i32
}

/// ECN is agreed on where the SYN-ACK sets ECE and not CWR (RFC 3168 6.1.1).
#[inline(always)]
fn ecn_agreed(bits: u8, offered: u8) -> u8 {
    if bits & (flags::ECE | flags::CWR) == flags::ECE { offered & options::ECN } else { 0 }
}

/// Tells the client the pool's smallest MSS, so that any backend can take what it sends.
#[inline(always)]
fn clamp_mss(skb: *mut __sk_buff, scratch: &mut Scratch, flow: &mut Flow) {
    let Some(backend) = backend(scratch.backend) else { return };
    let (mss, at) = (scratch.offer.mss, scratch.offer.mss_at as u32);
    if backend.mss != mss {
        backend.mss = mss;
    }
    let Some(vip) = VIPS.get_ptr_mut(&backend.vip) else { return };
    // SAFETY: a map value; one aligned half-word.
    let smallest = unsafe {
        if (*vip).mss == 0 || mss < (*vip).mss {
            (*vip).mss = mss;
        }
        (*vip).mss
    };
    // A signed SYN-ACK is not touched, one without the option has nothing to lower.
    if at == 0 || mss <= smallest || flow.offered & options::SIGNED != 0 {
        return;
    }
    let place = scratch.facts.l4 + TCP_LEN as u32 + at - 1;
    let bytes = smallest.to_be_bytes();
    let difference = replaced16(u16::from_ne_bytes(mss.to_be_bytes()), u16::from_ne_bytes(bytes));
    // At an odd offset the value contributes its bytes swapped (RFC 1071 2B).
    let folded = steer_common::checksum::fold(difference);
    let difference = if at & 1 == 0 { folded.swap_bytes() } else { folded };
    // SAFETY: two bytes of the stack.
    if unsafe { bpf_skb_store_bytes(skb, place, (&raw const bytes).cast(), 2, 0) } == 0
        && Tc(skb).replace_sums(scratch.facts.l4 as usize + 16, scratch.facts.v6 != 0, 0, difference as u64)
    {
        flow.told_mss = smallest;
        count(Counter::MssClamped);
    }
}

/// A backend's packet of no known flow: of a handshake it goes to the client; else it takes the VIP's address where the
/// lookup table maps the client to that backend; all others are health checks and direct access.
#[inline(always)]
fn no_flow(skb: *mut __sk_buff, scratch: &mut Scratch, id: u32) -> i32 {
    if let Some(handshake) = HANDSHAKES.get_ptr_mut(&scratch.key) {
        // SAFETY: a map value; a lost race costs one stamp.
        let handshake = unsafe { &mut *handshake };
        if Word(handshake.word).state() == State::Direct {
            handshake.seen = scratch.facts.seconds;
            return pass(Counter::BackendPassed);
        }
        if handshake.first as u32 == id {
            return next::PLAIN | id as i32;
        }
    }
    let syn = scratch.facts.flags & flags::SYN != 0;
    if syn || lookup(scratch) as u32 != id || is_local(skb) != 0 {
        return pass(Counter::BackendPassed);
    }
    count(Counter::NoFlowTranslated);
    next::PLAIN | id as i32
}

/// Whether the packet's destination is this host's own address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_local(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return 1 };
    (ask(&Tc(skb), &mut scratch.fib, &scratch.ip.source, &scratch.ip.destination) == fib::NOT_FORWARDED) as i32
}

/// Carries out what the state machine says; the flow is locked where its state is not final.
#[inline(always)]
fn act(scratch: &mut Scratch, flow: *mut Flow, state: State) -> i32 {
    let id = scratch.backend;
    let segment = segment(&scratch.facts);
    // SAFETY: a map value; locked where it may change.
    let record = unsafe { &mut *flow };
    match rehome::server(record, state, id as u16, &segment) {
        ServerAct::Forward => {
            unlock(flow, state);
            let settled = matches!(state, State::Spliced | State::First);
            if settled && record.flags & FLOW_LEARNED == 0 { next::LEARN } else { next::FORWARD }
        }
        ServerAct::Settle(reason) => {
            if scratch.facts.flags & flags::RST != 0 {
                record.flags |= FLOW_RESET;
            }
            settle(flow);
            nothing_to_learn(flow);
            forget(scratch);
            count_index(reason as u32);
            next::FORWARD
        }
        ServerAct::Drop(reason) => {
            unlock(flow, state);
            drop(reason)
        }
        ServerAct::ResetSender(reason) => {
            unlock(flow, state);
            count_index(reason as u32);
            scratch.reset = Reset { backend: id, seq: scratch.facts.ack };
            next::RESET
        }
        ServerAct::Judge => next::JUDGE,
        ServerAct::GiveUp { reason, reset } => {
            settle(flow);
            count_index(reason as u32);
            scratch.reset = Reset { backend: id, seq: scratch.facts.ack };
            if reset {
                count(Counter::OwnerReset);
                return next::RESET_THEN_FIRST;
            }
            next::FLUSH
        }
    }
}

/// The owner's SYN-ACK: splices the flow, or falls back. Unlocks the flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn judge(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let id = scratch.backend;
    // SAFETY: a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    let expected = Word(record.word).isn().wrapping_add(1);
    scratch.reset = Reset { backend: id, seq: expected };
    let read = read_options(skb, 0);
    let agreed = (scratch.offer.options & (AGREED | options::SIGNED)) | ecn_agreed(scratch.facts.flags, options::ECN);
    if read != 0 || !splice::compatible(record, agreed, scratch.offer.mss) {
        return abandon(flow, Counter::OwnerIncompatible);
    }
    // SAFETY: a map value; the flow that it belongs to is locked.
    let buffered = PENDING.get_ptr_mut(&scratch.key).is_some_and(|p| unsafe { ranges::contiguous(&(*p).ranges) } != 0);
    if !buffered {
        return abandon(flow, Counter::PendingLost);
    }
    splice::open(record, scratch.facts.seq, &scratch.offer);
    record.server_next = record.owner_isn.wrapping_add(1);
    record.follow = Follow::new(record.server_next);
    // SAFETY: whole records.
    unsafe { copy_flow(&mut scratch.flow, record) };
    scratch.flow.word = Word::new(State::Spliced, expected.wrapping_sub(1)).0;
    if SPLICES.insert(&scratch.key, &scratch.flow, 0).is_err() {
        return abandon(flow, Counter::SplicesFull);
    }
    unlock(flow, State::Spliced);
    count(Counter::SpliceOpened);
    count(Counter::FirstReset);
    count_backend(id, |stats| stats.rehomed += 1);
    tell(scratch, Counter::SpliceOpened);
    scratch.reset.backend = record.first as u32;
    next::RESET_THEN_OWNER
}

/// The owner cannot take the flow: it is reset, and the first backend gets what is buffered.
#[inline(always)]
fn abandon(flow: *mut Flow, reason: Counter) -> i32 {
    settle(flow);
    count_index(reason as u32);
    count(Counter::OwnerReset);
    next::RESET_THEN_FIRST
}
