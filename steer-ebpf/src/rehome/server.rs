//! A backend's packet of a flow that is not settled, or from which something is still to be
//! learned.

use aya_ebpf::bindings::__sk_buff;
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    ranges,
    rehome::{self, ServerAct},
    rest,
    shared::{
        FLOW_LEARNED, FLOW_RIVALLED, Flow, JOURNAL_SPLICES, PATH_SPEAKS_FIRST, SERVICE_BACKEND,
        options,
    },
    splice,
    wire::{tcp::flags, tls::server_flight::Follow},
};

use crate::{
    flows::{
        events::{copy_flow, emit_event, note_change, tell_watchers},
        foreign::{self, at_backend},
        legs,
        lock::{self, mark, unlock},
        stamps::{AHEAD, idle},
        table::{self, forget, nothing_to_learn, settle_for},
        traces::forget_trace,
    },
    handshake::{
        syn_ack::{answered, first_syn_ack, note_mss},
        unknown::known,
        vouched::{has_another, no_flow},
    },
    maps::{
        PENDING, SPLICES, backend, backend_path, count, count_answer, count_backend, count_index,
        now, rest, vip_of,
    },
    packet::options::read_options,
    scratch::{Reset, Scratch, scratch},
    stage::{Stage, direct_plain, drop, pass},
};

/// A backend's segment: `scratch.backend` sent it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn server_segment(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    let id = scratch.backend;
    let Some(backend) = backend(id) else { return Stage::Pass };
    let Some(vip) = vip_of(backend) else { return Stage::Pass };
    // SAFETY: a map value, copied at once.
    scratch.vip = unsafe { *vip };
    let was = flow;
    let mut flow = known(scratch, was);
    if let Some(dialled) = scratch.key.dialled() {
        // The next connection of its client from the same port may have come there, too.
        if dialled as u32 != id
            && (flow.is_null() || is_over(scratch, flow))
            && answered(scratch, flow).is_none()
        {
            return drop(Counter::LegOver);
        }
    } else if (flow.is_null() || !knows_by(flow, id as u16, [0; 2]))
        && let Some(leg) = legs::find(scratch, id)
    {
        // The client has another port here than its own.
        scratch.first_port = scratch.key.client_port;
        legs::follow(scratch, &leg);
        if leg.service & SERVICE_BACKEND != 0 {
            if scratch.segment.flags & (flags::SYN | flags::FIN | flags::RST) != 0 {
                let there = u16::from_ne_bytes(scratch.first_port);
                legs::record_direct_end(id, u16::from_ne_bytes(leg.port) as u32, there as u32);
            }
            return direct_plain(scratch, id);
        }
        let its = table::find(scratch);
        flow = known(scratch, its);
    }
    if !flow.is_null() && is_elsewhere(flow, id as u16, scratch.first_port) {
        return pass(Counter::BackendPassed);
    }
    if !flow.is_null() {
        // SAFETY: a map value; a word is read.
        scratch.entrance = unsafe { (*flow).entrance() };
    }
    let syn_ack =
        scratch.segment.flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN | flags::ACK;
    if syn_ack && let Some(handshake) = answered(scratch, flow) {
        return first_syn_ack(skb, handshake, replaces(flow, id as u16, scratch.first_port) as u32);
    }
    if flow.is_null() || is_over(scratch, flow) {
        return no_flow(skb, scratch, id);
    }
    scratch.held = lock::read(flow).isn();
    let mut state = lock::read(flow).state();
    if !matches!(state, State::Spliced | State::First) {
        let Some(held) = State::from_number(lock::lock(flow) as u8) else {
            return drop(Counter::FlowBusy);
        };
        state = held;
    }
    // SAFETY: a map value; two half-words are read.
    let (first, owner) = unsafe { ((*flow).first as u32, (*flow).owner as u32) };
    if state == State::Spliced && id == first && id != owner && has_another(scratch, id) {
        return pass(Counter::BackendPassed);
    }
    scratch.fresh = (flow != was) as u32;
    act(scratch, flow, state)
}

/// Whether a SYN-ACK to this port ends the flow of its addresses. A backend that has that flow
/// there would have answered otherwise if it still knew it. Another one, which got the SYN because
/// the flow's is down or gone, knows nothing of it: only the client can tell, by its
/// acknowledgement.
#[inline(always)]
fn replaces(flow: *mut Flow, id: u16, port: [u8; 2]) -> bool {
    if flow.is_null() {
        return false;
    }
    // SAFETY: a map value; fields are read as words.
    let (over, holder) = unsafe { ((*flow).closing(), (*flow).holding()) };
    if over || holder == (id, port) {
        return true;
    }
    mark(flow, FLOW_RIVALLED);
    false
}

/// Whether a backend is one that a flow concerns, and knows it by this port.
#[inline(always)]
fn knows_by(flow: *mut Flow, id: u16, port: [u8; 2]) -> bool {
    // SAFETY: a map value; half-words are read.
    unsafe { (*flow).port_at(id) == Some(port) }
}

/// Whether a backend knows the flow by another port than this one: what it sends to this one is
/// another connection's.
#[inline(always)]
fn is_elsewhere(flow: *mut Flow, id: u16, port: [u8; 2]) -> bool {
    // SAFETY: as above.
    let flow = unsafe { &*flow };
    // One that is over claims nothing.
    !flow.closing() && flow.port_at(id).is_some_and(|at| at != port)
}

/// Whether a flow that both sides ended has nothing to do with the backend's segment at hand: its
/// ports may have been used again by a connection that is not steer's.
#[inline(always)]
fn is_over(scratch: &Scratch, flow: *mut Flow) -> bool {
    /// How far ahead of where its flow ended a segment may be, bytes; behind it, as far as a window
    /// reaches ([`AHEAD`]).
    const NEAR: u32 = 1 << 17;
    // SAFETY: a map value; fields are read as words.
    let flow = unsafe { &*flow };
    let segment = &scratch.segment;
    let is_near = |end: u32, seen: u32| seen.wrapping_sub(end).wrapping_add(AHEAD) < AHEAD + NEAR;
    let in_space = is_near(flow.server_next, segment.seq)
        && (!segment.any(flags::ACK) || is_near(flow.client_next, segment.ack))
        && !segment.any(flags::SYN);
    flow.closing() && !in_space
}

/// Who speaks within so many seconds of its client's acknowledgement greets it; later it complains
/// that nothing came.
const PROMPT: u32 = 2;

#[inline(always)]
fn note_speaks_first(id: u32) {
    if let Some(path) = backend_path(id) {
        path.flags |= PATH_SPEAKS_FIRST;
    }
}

/// Carries out what the state machine says; the flow is locked where its state is not final.
#[inline(always)]
fn act(scratch: &mut Scratch, flow: *mut Flow, state: State) -> Stage {
    let id = scratch.backend;
    let segment = scratch.segment;
    // SAFETY: a map value; locked where it may change.
    let record = unsafe { &mut *flow };
    match rehome::server(record, state, id as u16, &segment) {
        ServerAct::Forward => {
            unlock(flow, state);
            if !matches!(state, State::Spliced | State::First) {
                return Stage::Forward;
            }
            if record.flags & FLOW_LEARNED == 0 { Stage::Learn } else { Stage::Settled }
        }
        ServerAct::Pass => {
            unlock(flow, state);
            pass(Counter::BackendPassed)
        }
        ServerAct::Settle(reason) => {
            if segment.payload_len != 0 && idle(record, scratch.seconds) <= PROMPT {
                note_speaks_first(id);
            }
            settle_for(flow, reason as u32);
            nothing_to_learn(flow);
            forget(scratch);
            Stage::Settled
        }
        ServerAct::Drop(reason) => {
            unlock(flow, state);
            drop(reason)
        }
        ServerAct::ResetSender(reason) => {
            unlock(flow, state);
            count_index(reason as u32);
            scratch.reset = Reset { backend: id, seq: scratch.segment.ack };
            Stage::Reset
        }
        ServerAct::Judge => Stage::CompleteSplice,
        ServerAct::AnotherPort => {
            note_answer(id);
            count(Counter::OwnerPortTaken);
            legs::release(scratch, id);
            foreign::remember(&at_backend(scratch, id), scratch.seconds);
            scratch.now = now();
            Stage::OpenOwner
        }
        ServerAct::GiveUp(reason) => {
            note_answer(id);
            settle_for(flow, reason as u32);
            Stage::Flush
        }
    }
}

/// An owner answered a move, whatever it said.
#[inline(always)]
fn note_answer(id: u32) {
    if let Some(rest) = rest(id) {
        rest::note_answer(rest);
    }
}

/// The owner's SYN-ACK: splices the flow, or falls back. Unlocks the flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn complete_splice(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let id = scratch.backend;
    note_answer(id);
    // SAFETY: a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    let expected = StateWord(record.word).isn().wrapping_add(1);
    scratch.reset = Reset { backend: id, seq: expected };
    let read = read_options(skb, 0);
    let agreed = (scratch.offer.options & (splice::AGREED | options::SIGNED))
        | splice::ecn_agreed(scratch.segment.flags, options::ECN);
    note_mss(scratch, id);
    let largest = backend_path(id).map_or(0, |path| path.largest_mss());
    if read != 0 || !splice::compatible(record, agreed, scratch.offer.mss, largest) {
        return abandon(flow, Counter::OwnerIncompatible);
    }
    // SAFETY: a map value; the flow that it belongs to is locked.
    let have = PENDING
        .get_ptr_mut(&scratch.key)
        .map_or(0, |p| unsafe { ranges::contiguous(&(*p).ranges) });
    if have == 0 {
        return abandon(flow, Counter::PendingLost);
    }
    splice::open(record, scratch.segment.seq, &scratch.offer);
    forget_trace();
    record.server_next = record.owner_isn.wrapping_add(1);
    record.follow = Follow::new(record.server_next);
    // SAFETY: whole records.
    unsafe { copy_flow(&mut scratch.flow, record) };
    scratch.flow.word = StateWord::new(State::Spliced, expected.wrapping_sub(1)).0;
    if SPLICES.insert(&scratch.key, &scratch.flow, 0).is_err() {
        return abandon(flow, Counter::SplicesFull);
    }
    unlock(flow, State::Spliced);
    note_change(JOURNAL_SPLICES);
    count(Counter::SpliceOpened);
    count(Counter::FirstReset);
    count_backend(id, |stats| stats.rehomed += 1);
    if have < record.hello_len {
        // Nobody answers half a hello.
        count_answer(id, |answers| answers.withdrawn += 1);
    }
    emit_event(scratch, Counter::SpliceOpened);
    tell_watchers(flow, Counter::SpliceOpened as u32, id);
    scratch.reset.backend = record.first as u32;
    Stage::ResetThenOwner
}

/// The owner cannot take the flow: it is reset, and the first backend gets what is buffered.
#[inline(always)]
fn abandon(flow: *mut Flow, reason: Counter) -> Stage {
    settle_for(flow, reason as u32);
    count(Counter::OwnerReset);
    Stage::ResetThenFirst
}
