//! Carries out what the state machine says about a client's data: buffer it, open the owner, or
//! give up.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::{
    counters::Counter,
    flow::{State, Word},
    ranges::{self, Inserted},
    rehome::{self, DataAct, Progress},
    shared::{Event, Flow, SWITCH_BYPASS, VIP_OBSERVE, options},
    wire::ETHERNET_LEN,
};

use crate::{
    buffer::{new_buffer, store_in_buffer},
    certificate::expect_unread,
    client::{forget, nothing_to_learn, settle},
    emit::hop_to,
    hello::look_at_packet,
    legs::{self, take_leg},
    lock::{self, unlock},
    maps::{
        EVENTS, PENDING, Piece, SPLICES, Scratch, WAKE, count, count_index, now, scratch, switch,
    },
    options::read_options,
    stage::{Stage, drop},
    sums::sum_payload,
    unknown::copy_flow,
    verdict::{said, verdict},
};

/// The data in `scratch.piece`, the first of a flow that this CPU holds: it is to be decided on,
/// held, or the flow is settled. Says what is next.
#[inline(always)]
pub(crate) fn first_data(scratch: *mut Scratch, skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    // SAFETY: the caller's.
    let scratch = unsafe { &mut *scratch };
    scratch.piece.said = said::NEED_MORE;
    scratch.needed = 0;
    if scratch.piece.offset == 0 {
        if bypass() {
            expect_unread(skb, flow);
        } else if look_at_packet(skb, flow, scratch) {
            return Stage::DecidePacket;
        }
    }
    decided(scratch, flow)
}

#[inline(always)]
fn bypass() -> bool {
    switch(SWITCH_BYPASS)
}

/// The data in `scratch.piece` on a flow that this CPU holds: whether it can be held. Unlocks the
/// flow where it cannot.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn client_data(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let state = scratch.piece.state();
    scratch.now = now();
    if sum_payload(skb) != 0 || scratch.sum.good == 0 {
        unlock(flow, state);
        return drop(Counter::BadChecksum);
    }
    if state == State::Established {
        let reason = match note_hello(skb, flow) {
            0 if new_buffer(scratch) => None,
            0 => Some(Counter::PendingLost),
            _ => Some(Counter::NotMovable),
        };
        if let Some(reason) = reason {
            settle(flow);
            count(reason);
            return Stage::Forward;
        }
    }
    Stage::Hold
}

/// Notes what segments made of the buffered data will need, from the first packet that is held:
/// timestamps, window, and the start of the IP header. 0, or -1 where the packet lacks the
/// timestamps that were agreed on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_hello(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return -1 };
    // SAFETY: not null, a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    let timestamps = record.agreed & options::TIMESTAMPS;
    if read_options(skb, 0) != 0 || scratch.offer.options & timestamps != timestamps {
        return -1;
    }
    record.hello_ts = scratch.offer.ts;
    // A client that echoes nothing, or an older one, has seen the SYN-ACK's: time must not run
    // backwards for it.
    let echo = scratch.offer.ts_echo;
    if (echo.wrapping_sub(record.first_ts) as i32) > 0 {
        record.first_ts = echo;
    }
    record.hello_window = scratch.segment.window;
    // SAFETY: four bytes of a map value.
    unsafe {
        bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, (&raw mut record.ip_word).cast(), 4)
            as i32
    }
}

/// What follows from what was said of a flow's first data: it is to be held, or the flow is settled
/// and unlocked.
#[inline(always)]
pub(crate) fn decided(scratch: &Scratch, flow: *mut Flow) -> Stage {
    let (said, bypass) = (scratch.piece.said, bypass());
    let reason = if said & said::FIRST != 0 {
        said as u32 & 0xffff
    } else if bypass {
        Counter::Bypassed as u32
    } else if scratch.vip.flags & VIP_OBSERVE == 0 {
        return Stage::Data;
    } else if said == said::NEED_MORE {
        Counter::HelloCut as u32
    } else {
        Counter::Observed as u32
    };
    settle(flow);
    count_index(reason);
    if reason == Counter::NotTls as u32 {
        nothing_to_learn(flow);
    }
    Stage::Forward
}

/// Buffers the data in `scratch.piece`, and says whether what is there now is to be decided on.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn hold(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let state = scratch.piece.state();
    let Some(buffer) = PENDING.get_ptr_mut(&scratch.key) else {
        // Evicted: the client repeats everything, to the first backend.
        settle(flow);
        forget(scratch);
        return drop(Counter::PendingLost);
    };
    let Piece { offset, from, len, .. } = scratch.piece;
    // SAFETY: a whole map value; the flow that it belongs to is locked.
    let (decided, inserted, grown_at) = unsafe {
        let decided = ranges::contiguous(&(*buffer).ranges);
        let inserted = ranges::insert(&mut (*buffer).ranges, offset, offset + len);
        (decided, inserted, (*buffer).grown_at)
    };
    if inserted == Inserted::Full {
        unlock(flow, if state == State::Established { State::Gather } else { state });
        return drop(Counter::GatherHoles);
    }
    scratch.piece.grown = (inserted == Inserted::Grown) as u32;
    scratch.piece.grown_at = grown_at;
    if inserted == Inserted::Grown {
        // The owner gets this copy of what was decided on: what the other one offered teaches
        // nothing.
        if state == State::Wait && offset < decided {
            // SAFETY: a whole map value that this CPU has locked.
            unsafe { (*flow).offered_kind = 0 };
        }
        if store_in_buffer(skb, buffer, offset, from, len) != 0 {
            settle(flow);
            forget(scratch);
            return drop(Counter::EmitFailed);
        }
        count(Counter::Buffered);
        // SAFETY: as above.
        unsafe { (*buffer).grown_at = scratch.now };
    }
    // SAFETY: as above.
    let (have, needed) = unsafe { (ranges::contiguous(&(*buffer).ranges), (*buffer).needed) };
    scratch.piece.have = have;
    match state {
        // Decided on already, from the packet.
        // SAFETY: as above.
        State::Established => unsafe { (*buffer).needed = scratch.needed },
        State::Gather if have != 0 && have >= needed => {
            return Stage::DecideBuffer;
        }
        _ => scratch.piece.said = said::NEED_MORE,
    }
    Stage::Held
}

/// Does what follows from the data that is buffered and what was said of it. Unlocks the flow,
/// unless the owner is to be opened or a last look is to be taken.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn held(flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let (state, said) = (scratch.piece.state(), scratch.piece.said);
    let progress = Progress {
        offset: scratch.piece.offset,
        grown: scratch.piece.grown != 0,
        contiguous: scratch.piece.have,
        grown_at: scratch.piece.grown_at,
        now: scratch.now,
        verdict: verdict(said),
        owner_tries: scratch.vip.owner_tries,
    };
    // SAFETY: a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    match rehome::data(record, state, &progress) {
        DataAct::Hold if state == State::Established => {
            unlock(flow, State::Gather);
            drop(Counter::Gather)
        }
        DataAct::Hold => {
            unlock(flow, state);
            Stage::Drop
        }
        DataAct::Flush(reason) if state != State::Wait && said == said::NEED_MORE => {
            scratch.piece.reason = reason as u32;
            Stage::DecideLast
        }
        DataAct::Flush(reason) => give_up(flow, reason as u32),
        DataAct::OpenOwner(owner) => {
            scratch.backend = owner as u32;
            Stage::OpenOwner
        }
        DataAct::RepeatOwnerSyn => {
            record.owner_tries += 1;
            record.owner_syn_at = rehome::milliseconds(scratch.now);
            unlock(flow, State::Wait);
            count(Counter::OwnerSynRepeated);
            Stage::SynToOwner
        }
    }
}

/// Gathering ends, and a last look was taken: where even that found no owner, the reason to end it
/// stands.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn exit(flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    match rehome::exit(verdict(scratch.piece.said)) {
        Some(owner) => {
            scratch.backend = owner as u32;
            Stage::OpenOwner
        }
        None => give_up(flow, scratch.piece.reason),
    }
}

/// Opens the owner, `scratch.backend`, of a flow that this CPU holds: everything that is needed is
/// remembered, a splice reserved, the flow unlocked.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn open_owner(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let owner = scratch.backend;
    // SAFETY: a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    if hop_to(skb, owner) != 0 {
        return give_up(flow, Counter::OwnerNoRoute as u32);
    }
    record.owner = owner as u16;
    record.owner_tries = 1;
    record.owner_syn_at = rehome::milliseconds(scratch.now);
    record.owner_port = [0; 2];
    if legs::is_taken(scratch, owner) {
        let port = take_leg(owner, scratch.key.service as u32, Word(record.word).isn()) as u16;
        if port == 0 {
            return give_up(flow, Counter::LegTaken as u32);
        }
        record.owner_port = port.to_ne_bytes();
    }
    // The slot is reserved before the SYN leaves: a splice that was begun can always be kept.
    // SAFETY: whole records.
    unsafe { copy_flow(&mut scratch.flow, record) };
    scratch.flow.word = Word::new(State::Wait, Word(record.word).isn()).0;
    if SPLICES.insert(&scratch.key, &scratch.flow, 0).is_err() {
        return give_up(flow, Counter::SplicesFull as u32);
    }
    unlock(flow, State::Wait);
    count(Counter::Rehome);
    tell(scratch, Counter::Rehome);
    Stage::SynToOwner
}

/// The first backend gets the flow because of `reason`, a counter's index.
#[inline(always)]
fn give_up(flow: *mut Flow, reason: u32) -> Stage {
    settle(flow);
    count_index(reason);
    Stage::Flush
}

/// Tells the agent what happened to the flow in `scratch.flow`; false where it could not be told.
#[inline(always)]
pub(crate) fn tell(scratch: &mut Scratch, what: Counter) -> bool {
    scratch.event = Event {
        at: now(),
        flow: scratch.key,
        what: what as u16,
        first: scratch.flow.first,
        owner: scratch.flow.owner,
        zero: 0,
        zero2: 0,
        ticket: [0; 32],
    };
    let told = EVENTS.output(&scratch.event, WAKE).is_ok();
    if !told {
        count(Counter::EventsLost);
    }
    told
}
