//! A client's packet whose flow has no record in `flows`: whose it is, and the record that is made
//! where it is a flow's.

use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use core::ptr::null_mut;
use steer_common::{
    counters::Counter,
    flow::{Direction, State, StateWord},
    shared::{
        FLOW_ACK_SWALLOWED, FLOW_ENTRANCE, FLOW_HOP_WANTED, FLOW_LEARNED, FLOW_MADE, FLOW_RIVALLED,
        FLOW_UNCONFIRMED, Flow, NO_BACKEND, NO_ENTRANCE, PATH_SPEAKS_FIRST, SWITCH_BYPASS,
        SWITCH_LEAVE, SWITCH_RESIZING, VIP_OBSERVE, VIP_RETURN_BY_ROUTE, VIP_SWALLOW,
        flow_entrance, options,
    },
    wire::{
        tcp::{Segment, flags},
        tls::server_flight::Follow,
    },
};

use crate::{
    flows::{
        events::{copy_flow, emit_event},
        foreign, legs,
        lock::{self, mark, unmark},
        stamps::idle,
        table::{lookup, remove},
        traces::{find_syn_trace, find_trace, forget_syn_trace, set_syn_trace, set_trace},
    },
    maps::{
        EVENTS, FLOWS, HANDSHAKES, SETTINGS, SPLICES, agent_asks, backend_path, count,
        count_backend, switch,
    },
    scratch::{Scratch, scratch},
    stage::{Stage, drop, pass, plain},
};

/// A packet to a VIP of which nothing is known. A SYN here is one with other flags, which opens
/// nothing. While connections may live that are older than the gateway it is one of theirs,
/// remembered and passed; and so it is where the gateway only looks, or is being left. Else it goes
/// where the lookup table says and is remembered, so that what is answered is known.
#[inline(always)]
pub(crate) fn no_flow(scratch: &mut Scratch) -> Stage {
    let opens_nothing = scratch.segment.flags & (flags::RST | flags::SYN) != 0;
    if !taking_over(scratch) {
        let older = is_young(scratch);
        if older && !opens_nothing {
            foreign::remember(&foreign::to_vip(scratch), scratch.seconds);
        }
        if older || scratch.vip.flags & VIP_OBSERVE != 0 || switch(SWITCH_LEAVE) {
            return pass(Counter::ForeignPassed);
        }
    }
    let id = lookup(scratch);
    if id == NO_BACKEND {
        return drop(Counter::NoBackend);
    }
    // It goes there anyway.
    if scratch.key.dialled().is_some() {
        return pass(Counter::ForeignPassed);
    }
    // Its port is another flow's, and nobody knows by which one its backend would know it.
    if scratch.key.is_beside() {
        return drop(Counter::LegCollided);
    }
    count(Counter::NoFlowForwarded);
    if !opens_nothing {
        adopt(scratch, id);
    }
    plain(scratch, id.into())
}

/// Whether connections to the VIP that are older than the gateway may live: one that says nothing
/// for as long as a flow may be idle is gone.
#[inline(always)]
fn is_young(scratch: &Scratch) -> bool {
    let vip = &scratch.vip;
    vip.since != 0 && (scratch.seconds.wrapping_sub(vip.since) as i32) <= vip.flow_timeout as i32
}

/// Whether a handshake's record alone does not tell a connection of this gateway from another:
/// while older ones may live, or while the interface that the other side's packets come by may have
/// other tables.
#[inline(always)]
pub(crate) fn leaves_syn_traces(scratch: &Scratch) -> bool {
    is_young(scratch) || switch(SWITCH_RESIZING)
}

/// Whether the operator said that this gateway takes over the flows of another one, and that time
/// is not up.
#[inline(always)]
pub(crate) fn taking_over(scratch: &Scratch) -> bool {
    let until = SETTINGS.get(0).map_or(0, |settings| settings.takeover_until);
    until != 0 && (until.wrapping_sub(scratch.seconds) as i32) > 0
}

/// Remembers the flow in `scratch.key` as one that went to a backend, and of which nothing else is
/// known. Its place is among handshakes, which anybody can fill: what pushed out the handshake of
/// this flow may push out this record, too, before its backend answers, so that a trace is left.
#[inline(always)]
fn adopt(scratch: &mut Scratch, first: u16) {
    let (seconds, entrance, flow) = (scratch.seconds, scratch.entrance, &mut scratch.flow);
    *flow = Flow::default();
    flow.word = StateWord::new(State::Adopted, 0).0;
    flow.flags = flow_entrance(entrance);
    flow.first = first;
    flow.owner = first;
    flow.seen = seconds;
    let _ = HANDSHAKES.insert(&scratch.key, &*flow, 0);
    set_syn_trace(first as u32);
}

/// A client's packet whose flow has no record: one is made where it completes a handshake, or where
/// a trace is left of the flow. `Err` says what else becomes of the packet.
#[inline(always)]
pub(crate) fn make_record(scratch: &mut Scratch) -> Result<*mut Flow, Stage> {
    let handshake = HANDSHAKES.get_ptr_mut(&scratch.key);
    if let Some(handshake) = handshake
        && let Some(made) = establish(scratch, handshake)
    {
        return made;
    }
    if foreign::is_known(&foreign::to_vip(scratch), scratch.seconds, scratch.vip.flow_timeout) {
        return Err(pass(Counter::ForeignPassed));
    }
    let first = find_trace() as u16;
    if first != NO_BACKEND {
        if scratch.key.is_beside() && port_there(scratch, first) == [0; 2] {
            return Err(drop(Counter::LegCollided));
        }
        // Whether a reset is its client's its backend can tell.
        if scratch.segment.flags & flags::RST != 0 {
            scratch.first_port = port_there(scratch, first);
            return Err(plain(scratch, first.into()));
        }
        return restore(scratch, first).ok_or(plain(scratch, first.into()));
    }
    let Some(handshake) = handshake else {
        if scratch.segment.flags & flags::RST == 0 {
            let first = find_syn_trace() as u16;
            if first != NO_BACKEND {
                count(Counter::NoFlowForwarded);
                adopt(scratch, first);
                return Err(plain(scratch, first.into()));
            }
        }
        return Err(no_flow(scratch));
    };
    // SAFETY: a map value; a lost race costs one stamp.
    let handshake = unsafe { &mut *handshake };
    scratch.first_port = handshake.first_port;
    if StateWord(handshake.word).state() != State::Adopted {
        count(Counter::HandshakeMismatch);
    }
    handshake.seen = scratch.seconds;
    Err(plain(scratch, handshake.first.into()))
}

/// The flow's record, `flow` where `flows` has it; where only `splices` has it, or knows more, it is
/// put into `flows`. Null where nobody has it.
#[inline(always)]
pub(crate) fn known(scratch: &mut Scratch, flow: *mut Flow) -> *mut Flow {
    if !flow.is_null() {
        // SAFETY: a whole map value.
        let lives = idle(unsafe { &*flow }, scratch.seconds) <= scratch.vip.flow_timeout;
        if lives && !ended_waiting(scratch, flow) {
            return flow;
        }
        if !lives {
            remove(scratch);
        }
    }
    let Some(kept) = SPLICES.get_ptr_mut(&scratch.key) else { return null_mut() };
    // Another gateway may have carried the flow meanwhile.
    // SAFETY: a whole map value.
    if idle(unsafe { &*kept }, scratch.seconds) > scratch.vip.flow_timeout {
        let _ = SPLICES.remove(&scratch.key);
        return null_mut();
    }
    // SAFETY: map values of the same type.
    unsafe {
        (*kept).seen = scratch.seconds;
        if FLOWS.insert(&scratch.key, &*kept, 0).is_err() {
            return null_mut();
        }
    }
    FLOWS.get_ptr_mut(&scratch.key).unwrap_or(null_mut())
}

/// Whether a flow that waits for its owner here does so no more: where an agent died between two
/// interfaces, the other side's programs have another `flows`, and what they made of the flow
/// stands in `splices`, which all of them have. A flow that was given up there is settled here.
#[inline(always)]
fn ended_waiting(scratch: &Scratch, flow: *mut Flow) -> bool {
    let word = lock::read(flow);
    // A slot in `splices` is reserved before a flow waits.
    if word.state() != State::Wait || word.locked() || !switch(SWITCH_RESIZING) {
        return false;
    }
    // SAFETY: a map value; a word is read.
    match unsafe { SPLICES.get(&scratch.key) } {
        Some(kept) => {
            let kept = StateWord(kept.word);
            kept.state() == State::Spliced && kept.isn() == word.isn()
        }
        None => {
            lock::settle_unlocked(flow, word);
            false
        }
    }
}

/// Whether the client's packet completes another handshake than its flow's, which it thereby gave
/// up. No such handshake is waited for longer than its backend repeats its answer.
#[inline(always)]
pub(crate) fn rival_completed(scratch: &Scratch, flow: *mut Flow) -> bool {
    /// Seconds for which Linux repeats a SYN-ACK (`net.ipv4.tcp_synack_retries`), and a few more.
    const PATIENCE: u32 = 70;
    if !is_rivalled(flow) {
        return false;
    }
    // SAFETY: fields are read as words.
    match unsafe { HANDSHAKES.get(&scratch.key) } {
        Some(rival) if idle(rival, scratch.seconds) <= PATIENCE => {
            completes(rival, &scratch.segment)
        }
        _ => {
            unmark(flow, FLOW_RIVALLED);
            false
        }
    }
}

/// Whether another backend answered a SYN on the flow's addresses.
#[inline(always)]
pub(crate) fn is_rivalled(flow: *const Flow) -> bool {
    // SAFETY: callers hold a pointer to a whole map value; a word is read.
    unsafe { (*flow).flags & FLOW_RIVALLED != 0 }
}

/// Whether a client's segment acknowledges its first backend's SYN-ACK.
#[inline(always)]
fn completes(handshake: &Flow, segment: &Segment) -> bool {
    /// A first segment further ahead than any window without scale is not of this handshake, bytes.
    const REACH: u32 = u16::MAX as u32;
    let word = StateWord(handshake.word);
    // A keepalive stands one before the first byte.
    let ahead = segment.seq.wrapping_sub(word.isn());
    word.state() == State::SynAck
        && segment.any(flags::ACK)
        && !segment.any(flags::RST)
        && segment.ack == handshake.first_isn.wrapping_add(1)
        && ahead <= REACH
}

/// Makes a flow of a handshake whose first backend this segment acknowledges, `None` where it does
/// not; `Err` says what becomes of the packet.
#[inline(always)]
fn establish(scratch: &mut Scratch, known: *mut Flow) -> Option<Result<*mut Flow, Stage>> {
    // SAFETY: a map value; copied at once.
    unsafe { copy_flow(&mut scratch.flow, known) };
    let (segment, flow) = (&scratch.segment, &scratch.flow);
    let isn = StateWord(flow.word).isn();
    if !completes(flow, segment) {
        return None;
    }
    let bare = segment.payload_len == 0 && !segment.any(flags::FIN);
    if bare
        && scratch.vip.flags & VIP_SWALLOW != 0
        && flow.flags & FLOW_ACK_SWALLOWED == 0
        && swallow(known) != 0
    {
        return Some(Err(Stage::Drop));
    }
    let flow = &mut scratch.flow;
    // What a handshake was marked with is not the flow's: a refused SYN, say, ends no connection.
    flow.flags &= FLOW_ENTRANCE;
    flow.word = StateWord::new(State::Established, isn).0;
    flow.seen = scratch.seconds;
    flow.client_next = isn.wrapping_add(1);
    flow.server_next = flow.first_isn.wrapping_add(1);
    flow.follow = Follow::new(flow.server_next);
    let (first, first_port) = (flow.first, flow.first_port);
    // Where two CPUs race, one inserts and both go on with what is there.
    const ONLY_NEW: u64 = 1;
    if FLOWS.insert(&scratch.key, &*flow, ONLY_NEW).is_ok() {
        mark(known, FLOW_MADE);
        count(Counter::FlowEstablished);
        count_backend(first as u32, |stats| stats.flows += 1);
        set_trace(first as u32);
        legs::enter_way_of_first(scratch, first as u32, first_port);
        foreign::forget(&foreign::to_vip(scratch));
        if leaves_syn_traces(scratch) {
            forget_syn_trace();
        }
    }
    Some(FLOWS.get_ptr_mut(&scratch.key).ok_or(plain(scratch, first.into())))
}

/// Whether the client's first bare acknowledgement is dropped: where its hello may still move the
/// flow, and where the agent hears of it, so that it asks for another one if no hello comes. Nobody
/// but the client can repeat it, and a server that keeps nothing of a handshake (SYN cookies), or
/// that speaks first, needs it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn swallow(handshake: *mut Flow) -> i32 {
    /// As much as this in the ring, bytes, says that it is read too slowly.
    const UNREAD: u64 = 64 << 10;
    /// Asks the ring how much is in it (BPF_RB_AVAIL_DATA).
    const AVAILABLE: u64 = 0;
    let (Some(scratch), false) = (scratch(), handshake.is_null()) else { return 0 };
    let flow = &scratch.flow;
    let speaks =
        backend_path(flow.first as u32).is_none_or(|path| path.flags & PATH_SPEAKS_FIRST != 0);
    // With a window of nothing no hello can come before the server says more.
    if speaks
        || flow.first_window == 0
        || flow.offered & options::SIGNED != 0
        || flow.client_hop.ifindex == 0
        || switch(SWITCH_BYPASS)
        || !agent_asks(scratch.seconds)
        // SAFETY: the map's own address.
        || unsafe { bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), AVAILABLE) } > UNREAD
        || !emit_event(scratch, Counter::AckSwallowed)
    {
        return 0;
    }
    mark(handshake, FLOW_ACK_SWALLOWED);
    // The client is connected: what it sends finds its server also where this record is pushed out
    // meanwhile.
    set_trace(scratch.flow.first as u32);
    count(Counter::AckSwallowed);
    1
}

/// The client's port at a backend: its own (0), or that of its leg.
#[inline(always)]
pub(crate) fn port_there(scratch: &Scratch, id: u16) -> [u8; 2] {
    legs::way_there(scratch, id as u32, false).map_or([0; 2], |leg| leg.port)
}

/// Puts the flow in `scratch.key` back into `flows`: backend `first` holds it, and where it stands
/// the packet at hand says.
#[inline(always)]
pub(crate) fn restore(scratch: &mut Scratch, first: u16) -> Option<*mut Flow> {
    let there = port_there(scratch, first);
    let by_client = scratch.direction == Direction::ToBackend;
    let (segment, by_route) = (&scratch.segment, scratch.vip.flags & VIP_RETURN_BY_ROUTE != 0);
    let flow = &mut scratch.flow;
    *flow = Flow::default();
    flow.word = StateWord::new(State::First, 0).0;
    flow.flags = FLOW_LEARNED | if by_route { 0 } else { FLOW_HOP_WANTED };
    if scratch.entrance != NO_ENTRANCE {
        flow.flags |= flow_entrance(scratch.entrance);
    }
    if by_client {
        flow.flags |= FLOW_UNCONFIRMED;
    }
    flow.seen = scratch.seconds;
    flow.first = first;
    flow.owner = first;
    flow.first_port = if by_client { there } else { scratch.first_port };
    (flow.client_next, flow.server_next) =
        if by_client { (segment.seq, segment.ack) } else { (segment.ack, segment.seq) };
    // Where two CPUs race, one inserts and both go on with what is there.
    const ONLY_NEW: u64 = 1;
    if FLOWS.insert(&scratch.key, &*flow, ONLY_NEW).is_ok() {
        count(Counter::TraceFound);
        // What was adopted, or has a leg, left none.
        set_trace(first as u32);
        forget_syn_trace();
    }
    FLOWS.get_ptr_mut(&scratch.key)
}
