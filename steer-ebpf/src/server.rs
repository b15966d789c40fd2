//! A backend's packet of a flow that is not settled, or from which something is still to be learned.

use core::ptr::null_mut;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_store_bytes};
use steer_common::{
    checksum::replaced16,
    counters::Counter,
    flow::{State, Word},
    ranges,
    rehome::{self, ServerAct},
    shared::{
        FLOW_ANSWERED_TWICE, FLOW_COLLIDED, FLOW_LEARNED, FLOW_MADE, Flow, SERVICE_BACKEND, SWITCH_RESIZING,
        VIP_OBSERVE, options,
    },
    splice,
    wire::{
        tcp::{TCP_LEN, flags},
        tls::server_flight::Follow,
    },
};

use crate::{
    client::{forget, lookup, nothing_to_learn, segment, settle},
    foreign::{self, at_backend},
    forward::{ask, fib},
    hook::tc::Tc,
    legs,
    lock::{self, mark, unlock},
    maps::{
        FLOWS, HANDSHAKES, PENDING, Reset, SPLICES, Scratch, VIPS, backend, backend_path, count, count_backend,
        count_index, scratch, switch,
    },
    next::{self, drop, pass},
    options::read_options,
    rehome::tell,
    stamps::AHEAD,
    traces::{find_syn_trace, find_trace, forget_trace, restore},
    unknown::{copy_flow, known, leaves_syn_traces, taking_over},
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
    let mut flow = known(scratch, was);
    scratch.first_port = [0; 2];
    if (flow.is_null() || !knows_by(flow, id as u16, [0; 2]))
        && let Some(leg) = legs::find(scratch, id)
    {
        // The client has another port here than its own.
        scratch.first_port = scratch.key.client_port;
        scratch.key.client_port = leg.port;
        if leg.service & SERVICE_BACKEND != 0 {
            if scratch.facts.flags & (flags::SYN | flags::FIN | flags::RST) != 0 {
                let there = u16::from_ne_bytes(scratch.first_port);
                legs::note_direct(id, u16::from_ne_bytes(leg.port) as u32, there as u32);
            }
            return next::DIRECT_PLAIN | id as i32;
        }
        let its = FLOWS.get_ptr_mut(&scratch.key).unwrap_or(null_mut());
        flow = known(scratch, its);
    }
    if !flow.is_null() && is_elsewhere(flow, id as u16, scratch.first_port) {
        return pass(Counter::BackendPassed);
    }
    let syn_ack = scratch.facts.flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN | flags::ACK;
    if syn_ack && let Some(handshake) = answered(scratch, flow) {
        return first_syn_ack(skb, handshake, !flow.is_null() as u32);
    }
    if flow.is_null() || is_over(scratch, flow) {
        return no_flow(skb, scratch, id);
    }
    scratch.held = lock::read(flow).isn();
    let mut state = lock::read(flow).state();
    if !matches!(state, State::Spliced | State::First) {
        let Some(held) = State::from_number(lock::lock(flow) as u8) else { return drop(Counter::FlowBusy) };
        state = held;
    }
    // SAFETY: a map value; two half-words are read.
    let (first, owner) = unsafe { ((*flow).first as u32, (*flow).owner as u32) };
    if state == State::Spliced && id == first && id != owner && has_another(scratch, id) {
        return pass(Counter::BackendPassed);
    }
    act(scratch, flow, state) | if flow == was { 0 } else { next::FRESH }
}

/// Whether the client in `scratch.key` has another connection at a backend with its port, one that it dialled itself.
#[inline(always)]
fn has_another(scratch: &Scratch, id: u32) -> bool {
    foreign::is_known(&at_backend(scratch, id), scratch.facts.seconds, scratch.vip.flow_timeout)
}

/// Whether a backend is one that a flow concerns, and knows it by this port.
#[inline(always)]
fn knows_by(flow: *mut Flow, id: u16, port: [u8; 2]) -> bool {
    // SAFETY: a map value; half-words are read.
    unsafe { (*flow).port_at(id) == Some(port) }
}

/// Whether a backend knows the flow by another port than this one: what it sends to this one is another connection's.
#[inline(always)]
fn is_elsewhere(flow: *mut Flow, id: u16, port: [u8; 2]) -> bool {
    // SAFETY: as above.
    let flow = unsafe { &*flow };
    // One that is over claims nothing.
    !flow.closing() && flow.port_at(id).is_some_and(|at| at != port)
}

/// Whether a flow that both sides ended has nothing to do with the backend's segment at hand: its ports may have been used
/// again by a connection that is not steer's.
#[inline(always)]
fn is_over(scratch: &Scratch, flow: *mut Flow) -> bool {
    /// How far ahead of where its flow ended a segment may be, bytes; behind it, as far as a window reaches ([`AHEAD`]).
    const NEAR: u32 = 1 << 17;
    // SAFETY: a map value; fields are read as words.
    let flow = unsafe { &*flow };
    let facts = &scratch.facts;
    let is_near = |end: u32, seen: u32| seen.wrapping_sub(end).wrapping_add(AHEAD) < AHEAD + NEAR;
    let in_space = is_near(flow.server_next, facts.seq)
        && (facts.flags & flags::ACK == 0 || is_near(flow.client_next, facts.ack))
        && facts.flags & flags::SYN == 0;
    flow.closing() && !in_space
}

/// The handshake that the SYN-ACK at hand answers, unless the flow it opened is known already.
#[inline(always)]
fn answered(scratch: &Scratch, flow: *mut Flow) -> Option<*mut Flow> {
    let (id, ack) = (scratch.backend, scratch.facts.ack);
    let handshake = HANDSHAKES.get_ptr_mut(&scratch.key)?;
    // SAFETY: a map value.
    let (word, first) = unsafe { (lock::read(handshake), (*handshake).first) };
    // SAFETY: as above.
    let port = unsafe { (*handshake).first_port };
    if word.state() == State::Adopted
        || first as u32 != id
        || port != scratch.first_port
        || ack != word.isn().wrapping_add(1)
    {
        return None;
    }
    let opened = !flow.is_null() && lock::read(flow).isn() == word.isn();
    if opened { None } else { Some(handshake) }
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
        forget_trace();
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
    count_backend(id, |stats| stats.syn_acks += 1);
    note_mss(scratch, id);
    clamp_mss(skb, scratch, flow);
    next::PLAIN | id as i32
}

/// ECN is agreed on where the SYN-ACK sets ECE and not CWR (RFC 3168 6.1.1).
#[inline(always)]
fn ecn_agreed(bits: u8, offered: u8) -> u8 {
    if bits & (flags::ECE | flags::CWR) == flags::ECE { offered & options::ECN } else { 0 }
}

/// Notes the MSS of a SYN-ACK. A backend derives it from what it knows of the path to this one client (RFC 9293 3.7.1), so
/// only the largest of many says what the backend itself takes; one that takes less from now on is known as such within two
/// windows of time.
#[inline(always)]
fn note_mss(scratch: &Scratch, id: u32) {
    /// Length of a window, seconds.
    const WINDOW: u32 = 120;
    let Some(path) = backend_path(id) else { return };
    let (mss, seconds) = (scratch.offer.mss, scratch.facts.seconds);
    if path.mss == 0 || seconds.wrapping_sub(path.mss_since) > WINDOW {
        path.mss_before = path.mss;
        path.mss_since = seconds;
        path.mss = mss;
    } else if mss > path.mss {
        path.mss = mss;
    }
}

/// Tells the client the pool's smallest MSS, so that any backend can take what it sends.
#[inline(always)]
fn clamp_mss(skb: *mut __sk_buff, scratch: &mut Scratch, flow: &mut Flow) {
    let (mss, at) = (scratch.offer.mss, scratch.offer.mss_at as u32);
    let smallest = scratch.vip.mss;
    // A signed SYN-ACK is not touched, one without the option has nothing to lower. Where nothing moves all is left as it is.
    if at == 0
        || smallest == 0
        || mss <= smallest
        || flow.offered & options::SIGNED != 0
        || scratch.vip.flags & VIP_OBSERVE != 0
    {
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

/// A backend's packet whose flow has no record: of a handshake, or of a flow that left a trace, it goes to the client. Else
/// nothing says that it is of the VIP: a health check, a connection that its client dialled itself, or one that the kernel
/// translates. It passes, unless the operator said that this gateway takes over from another one.
#[inline(always)]
fn no_flow(skb: *mut __sk_buff, scratch: &mut Scratch, id: u32) -> i32 {
    if let Some(handshake) = HANDSHAKES.get_ptr_mut(&scratch.key)
        // SAFETY: a map value; a lost race costs one stamp.
        && let handshake = unsafe { &mut *handshake }
        && handshake.first as u32 == id
        && handshake.first_port == scratch.first_port
        // What a flow was made of says nothing more, once the flow is over.
        && handshake.flags & FLOW_MADE == 0
    {
        match of_handshake(scratch, handshake) {
            Whose::Its => {
                // Its backend knows nothing of what was adopted: no connection is there.
                if Word(handshake.word).state() == State::Adopted {
                    let _ = HANDSHAKES.remove(&scratch.key);
                }
                return next::PLAIN | id as i32;
            }
            Whose::Another => {
                mark(handshake, FLOW_ANSWERED_TWICE);
                return next::PLAIN | id as i32;
            }
            Whose::Others if switch(SWITCH_RESIZING) && find_syn_trace() as u32 == id => {}
            // A SYN in a flow's name, forged or not, does not make its trace another's.
            Whose::Others if is_traced(scratch, id) => {}
            Whose::Others => {
                mark(handshake, FLOW_COLLIDED);
                return pass(Counter::BackendPassed);
            }
            Whose::Flows => {
                return restore(scratch, id as u16).map_or(next::PLAIN | id as i32, |_| next::FORWARD | next::FRESH);
            }
        }
    }
    // A leg is evidence, too.
    let by_leg = scratch.first_port != [0; 2];
    if (by_leg || is_traced(scratch, id)) && restore(scratch, id as u16).is_some() {
        return next::FORWARD | next::FRESH;
    }
    // The handshake's record was pushed out, or another interface's programs have it.
    if leaves_syn_traces(scratch) && find_syn_trace() as u32 == id && !has_another(scratch, id) {
        count(Counter::TraceFound);
        return next::PLAIN | id as i32;
    }
    let syn = scratch.facts.flags & flags::SYN != 0;
    if syn || !taking_over(scratch) || lookup(scratch) as u32 != id || is_local(skb) != 0 {
        return pass(Counter::BackendPassed);
    }
    count(Counter::NoFlowTranslated);
    next::PLAIN | id as i32
}

/// Whether a flow left a trace at a backend, where it has its client's own port.
#[inline(always)]
fn is_traced(scratch: &Scratch, id: u32) -> bool {
    find_trace() as u32 == id && legs::way_there(scratch, id, false).is_none()
}

/// Whose a first backend's packet is that answers no SYN as it should.
enum Whose {
    /// The handshake's.
    Its,
    /// The answer to another SYN of the same addresses, which stands in no record.
    Another,
    /// Of a flow that was adopted: the backend vouches for it.
    Flows,
    /// Of another connection with this client's port.
    Others,
}

#[inline(always)]
fn of_handshake(scratch: &Scratch, handshake: &Flow) -> Whose {
    let (word, facts) = (Word(handshake.word), &scratch.facts);
    let rst = facts.flags & flags::RST != 0;
    if word.state() == State::Adopted {
        return if rst { Whose::Its } else { Whose::Flows };
    }
    let answers = facts.ack == word.isn().wrapping_add(1);
    let syn_ack = facts.flags & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK;
    if answers {
        return Whose::Its;
    }
    // What it sends behind its own SYN-ACK is of the connection that this opened.
    let ahead = facts.seq.wrapping_sub(handshake.first_isn.wrapping_add(1));
    if word.state() == State::SynAck && !syn_ack && ahead < AHEAD {
        return Whose::Its;
    }
    let answered_twice = handshake.flags & FLOW_ANSWERED_TWICE != 0;
    if !(syn_ack || answered_twice) || has_another(scratch, scratch.backend) {
        return Whose::Others;
    }
    if syn_ack {
        Whose::Another
    } else if rst {
        Whose::Its
    } else {
        Whose::Flows
    }
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
            if !matches!(state, State::Spliced | State::First) {
                return next::FORWARD;
            }
            if record.flags & FLOW_LEARNED == 0 { next::LEARN } else { next::SETTLED }
        }
        ServerAct::Pass => {
            unlock(flow, state);
            pass(Counter::BackendPassed)
        }
        ServerAct::Settle(reason) => {
            settle(flow);
            nothing_to_learn(flow);
            forget(scratch);
            count_index(reason as u32);
            next::SETTLED
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
            if reason as u32 == Counter::OwnerChallenge as u32 {
                // The next move of this client there takes another port.
                foreign::remember(&at_backend(scratch, id), scratch.facts.seconds);
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
    note_mss(scratch, id);
    let largest = backend_path(id).map_or(0, |path| path.largest_mss());
    if read != 0 || !splice::compatible(record, agreed, scratch.offer.mss, largest) {
        return abandon(flow, Counter::OwnerIncompatible);
    }
    // SAFETY: a map value; the flow that it belongs to is locked.
    let buffered = PENDING.get_ptr_mut(&scratch.key).is_some_and(|p| unsafe { ranges::contiguous(&(*p).ranges) } != 0);
    if !buffered {
        return abandon(flow, Counter::PendingLost);
    }
    splice::open(record, scratch.facts.seq, &scratch.offer);
    forget_trace();
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
