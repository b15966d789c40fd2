//! Carries out what the state machine says about a client's data: buffer it, open the owner, or give up.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::{
    counters::Counter,
    flow::{State, Word},
    ranges::{self, Inserted},
    rehome::{self, DataAct, Progress},
    shared::{Event, Flow, VIP_OBSERVE, options},
    wire::ETHERNET_LEN,
};

use crate::{
    buffer::{new_buffer, store_in_buffer},
    certificate::expect_unread,
    client::{copy_flow, forget, nothing_to_learn, settle},
    emit::hop_to,
    hello::{decide_hello, decide_packet, said, verdict},
    journey::{drop, next},
    lock::{self, unlock},
    maps::{EVENTS, PENDING, Piece, SETTINGS, SPLICES, Scratch, WAKE, count, count_index, now, scratch},
    options::read_options,
    sums::sum_payload,
};

/// The data in `scratch.piece` on a flow that this CPU holds: whether it is to be held. Unlocks the flow where it is not.
#[inline(always)]
pub(crate) fn client_data(skb: *mut __sk_buff, flow: *mut Flow, state: State, scratch: &mut Scratch) -> i32 {
    if state == State::Established && !worth_holding(skb, flow, scratch) {
        return next::FORWARD;
    }
    scratch.facts.now = now();
    if sum_payload(skb) != 0 || scratch.facts.sum_good == 0 {
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
            return next::FORWARD;
        }
    }
    next::HOLD
}

/// Notes what segments made of the buffered data will need, from the first packet that is held: timestamps, window, and
/// the start of the IP header. 0, or -1 where the packet lacks the timestamps that were agreed on.
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
    record.first_ts = scratch.offer.ts_echo;
    record.hello_window = scratch.facts.window;
    // SAFETY: four bytes of a map value.
    unsafe { bpf_skb_load_bytes(skb.cast(), ETHERNET_LEN as u32, (&raw mut record.ip_word).cast(), 4) as i32 }
}

/// Whether the first data of a flow is to be held: false where it settles the flow, which is then unlocked.
#[inline(always)]
fn worth_holding(skb: *mut __sk_buff, flow: *mut Flow, scratch: &mut Scratch) -> bool {
    let bypass = SETTINGS.get(0).is_some_and(|s| s.bypass != 0);
    let passive = bypass || scratch.vip.flags & VIP_OBSERVE != 0;
    let Piece { offset, from, len, .. } = scratch.piece;
    let mut reason = if bypass { Counter::Bypassed } else { Counter::Observed } as u32;
    scratch.piece.said = said::NEED_MORE;
    scratch.needed = 0;
    if offset == 0 && !bypass {
        scratch.piece.said = decide_packet(skb, flow, from, len);
    } else if offset == 0 {
        expect_unread(skb, flow);
    }
    let said = scratch.piece.said;
    if said & said::FIRST != 0 {
        reason = said as u32 & 0xffff;
    } else if !passive {
        return true;
    } else if said == said::NEED_MORE && !bypass {
        reason = Counter::HelloCut as u32;
    }
    settle(flow);
    count_index(reason);
    if reason == Counter::NotTls as u32 {
        nothing_to_learn(flow);
    }
    false
}

/// Buffers the data in `scratch.piece` and does what follows from it. Unlocks the flow, unless the owner is to be opened.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn hold(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let state = State::from_number(scratch.piece.state as u8).unwrap_or(State::First);
    let Some(buffer) = PENDING.get_ptr_mut(&scratch.key) else {
        // Evicted: the client repeats everything, to the first backend.
        settle(flow);
        forget(scratch);
        return drop(Counter::PendingLost);
    };
    let held_state = if state == State::Established { State::Gather } else { state };
    let Piece { offset, from, len, .. } = scratch.piece;
    scratch.id_unknown = 0;
    // SAFETY: a whole map value; the flow that it belongs to is locked.
    let (inserted, grown_at) = unsafe {
        let inserted = ranges::insert(&mut (*buffer).ranges, offset, offset + len);
        (inserted, (*buffer).grown_at)
    };
    if inserted == Inserted::Full {
        unlock(flow, held_state);
        return drop(Counter::GatherHoles);
    }
    if inserted == Inserted::Grown {
        if store_in_buffer(skb, buffer, offset, from, len) != 0 {
            settle(flow);
            forget(scratch);
            return drop(Counter::EmitFailed);
        }
        count(Counter::Buffered);
        // SAFETY: as above.
        unsafe { (*buffer).grown_at = scratch.facts.now };
    }
    // SAFETY: as above.
    let (contiguous, needed) = unsafe { (ranges::contiguous(&(*buffer).ranges), (*buffer).needed) };
    let said = match state {
        // Decided on already, from the packet.
        State::Established => scratch.piece.said,
        State::Gather if contiguous != 0 && contiguous >= needed => decide_hello(flow, buffer, contiguous, 0),
        _ => {
            scratch.needed = needed;
            said::NEED_MORE
        }
    };
    // SAFETY: as above.
    unsafe { (*buffer).needed = scratch.needed };
    let progress = Progress {
        offset,
        grown: inserted == Inserted::Grown,
        contiguous,
        grown_at,
        now: scratch.facts.now,
        verdict: verdict(said),
        owner_tries: scratch.vip.owner_tries,
    };
    // SAFETY: a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    let mut act = rehome::data(record, state, &progress);
    if let DataAct::Flush(_) = act
        && state != State::Wait
        && said == said::NEED_MORE
    {
        act = rehome::exit(act, verdict(decide_hello(flow, buffer, contiguous, 1)));
    }
    match act {
        DataAct::Hold => {
            unlock(flow, held_state);
            if state == State::Established {
                count(Counter::Gather);
            }
            next::DROP
        }
        DataAct::Flush(reason) => give_up(flow, reason),
        DataAct::OpenOwner(owner) => {
            scratch.backend = owner as u32;
            next::OPEN_OWNER
        }
        DataAct::RepeatOwnerSyn => {
            record.owner_tries += 1;
            record.owner_syn_at = scratch.facts.now;
            unlock(flow, State::Wait);
            count(Counter::OwnerSynRepeated);
            next::SYN_TO_OWNER
        }
    }
}

/// Opens the owner, `scratch.backend`, of a flow that this CPU holds: everything that is needed is remembered, a splice
/// reserved, the flow unlocked.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn open_owner(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let owner = scratch.backend;
    // SAFETY: a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    if hop_to(skb, owner) != 0 {
        return give_up(flow, Counter::OwnerNoRoute);
    }
    record.owner = owner as u16;
    record.owner_tries = 1;
    record.owner_syn_at = scratch.facts.now;
    // The slot is reserved before the SYN leaves: a splice that was begun can always be kept.
    // SAFETY: whole records.
    unsafe { copy_flow(&mut scratch.flow, record) };
    scratch.flow.word = Word::new(State::Wait, Word(record.word).isn()).0;
    if SPLICES.insert(&scratch.key, &scratch.flow, 0).is_err() {
        return give_up(flow, Counter::SplicesFull);
    }
    unlock(flow, State::Wait);
    count(Counter::Rehome);
    tell(scratch, Counter::Rehome);
    next::SYN_TO_OWNER
}

/// The first backend gets the flow because of `reason`.
#[inline(always)]
fn give_up(flow: *mut Flow, reason: Counter) -> i32 {
    settle(flow);
    count_index(reason as u32);
    next::FLUSH
}

/// Tells the agent what happened to the flow in `scratch.flow`.
#[inline(always)]
pub(crate) fn tell(scratch: &mut Scratch, what: Counter) {
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
    if EVENTS.output(&scratch.event, WAKE).is_err() {
        count(Counter::EventsLost);
    }
}
