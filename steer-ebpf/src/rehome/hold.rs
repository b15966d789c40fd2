//! Carries out what the state machine says about a client's data: buffer it, open the owner, or
//! give up.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::{
    counters::Counter,
    decide::hash_address,
    flow::{State, StateWord},
    ranges::{self, Inserted},
    rehome::{self, DataAct, Progress},
    rest,
    shared::{Address, Flow, options},
    wire::{ETHERNET_LEN, upper},
};

use crate::{
    decide::{
        hello::{decided, look_at_packet},
        verdict::{code, from_code},
    },
    flows::{
        events::{copy_flow, emit_event, tell_watchers},
        legs::{self, take_leg},
        lock::{self, unlock},
        table::{bypass, forget, settle, settle_for},
    },
    forward::{bridge, next_hop::hop_to},
    learn::certificate::expect_unread,
    maps::{PENDING, SPLICES, backend, backend_path, count, now, rest},
    packet::{options::read_options, sums::sum_payload},
    rehome::buffer::{new_buffer, store_in_buffer},
    scratch::{Scratch, StreamRange, scratch},
    stage::{Stage, drop},
};

/// The data in `scratch.range`, the first of a flow that this CPU holds: it is to be decided on,
/// held, or the flow is settled. Says what is next.
#[inline(always)]
pub(crate) fn first_data(scratch: *mut Scratch, skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    // SAFETY: the caller's.
    let scratch = unsafe { &mut *scratch };
    scratch.range.verdict = code::NEED_MORE;
    scratch.needed = 0;
    if scratch.range.offset == 0 {
        if bypass() {
            expect_unread(skb, flow);
        } else if look_at_packet(skb, flow, scratch) {
            return Stage::DecidePacket;
        }
    }
    decided(scratch, flow)
}

/// The data in `scratch.range` on a flow that this CPU holds: whether it can be held. Unlocks the
/// flow where it cannot.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn client_data(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let state = scratch.range.state();
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
            settle_for(flow, reason as u32);
            return Stage::Forward;
        }
    }
    Stage::Buffer
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

/// Buffers the data in `scratch.range`, and says whether what is there now is to be decided on.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn buffer_data(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let state = scratch.range.state();
    let Some(buffer) = PENDING.get_ptr_mut(&scratch.key) else {
        // Evicted: the client repeats everything, to the first backend.
        settle(flow);
        forget(scratch);
        return drop(Counter::PendingLost);
    };
    let StreamRange { offset, from, len, .. } = scratch.range;
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
    scratch.range.grown = (inserted == Inserted::Grown) as u32;
    scratch.range.grown_at = grown_at;
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
    scratch.range.have = have;
    match state {
        // Decided on already, from the packet.
        // SAFETY: as above.
        State::Established => unsafe { (*buffer).needed = scratch.needed },
        State::Gather if have != 0 && have >= needed => {
            return Stage::DecideBuffer;
        }
        _ => scratch.range.verdict = code::NEED_MORE,
    }
    Stage::Buffered
}

/// Does what follows from the data that is buffered and what was said of it. Unlocks the flow,
/// unless the owner is to be opened or a last look is to be taken.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn on_buffered(flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    let (state, verdict) = (scratch.range.state(), scratch.range.verdict);
    let progress = Progress {
        offset: scratch.range.offset,
        grown: scratch.range.grown != 0,
        contiguous: scratch.range.have,
        grown_at: scratch.range.grown_at,
        now: scratch.now,
        verdict: from_code(verdict),
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
        DataAct::Flush(reason) if state != State::Wait && verdict == code::NEED_MORE => {
            scratch.range.reason = reason as u32;
            Stage::DecideLast
        }
        DataAct::Flush(reason) => {
            if reason as u32 == Counter::OwnerSilent as u32
                && let Some(rest) = rest(record.owner as u32)
            {
                rest::note_silence(rest, source_of(&scratch.key.client), scratch.seconds);
            }
            give_up(flow, reason as u32)
        }
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

/// A hash of who a client is: of IPv6 its network of 64 bits, for a host may have all of that.
#[inline(always)]
fn source_of(client: &Address) -> u32 {
    let [a, b, ..] = client.words();
    let source = if client.is_v4() { *client } else { Address::from_words([a, b, 0, 0]) };
    hash_address(&source)
}

/// Gathering ends, and a last look was taken: where even that found no owner, the reason to end it
/// stands.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn stop_gathering(flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    match rehome::stop_gathering(from_code(scratch.range.verdict)) {
        Some(owner) => {
            scratch.backend = owner as u32;
            Stage::OpenOwner
        }
        None => give_up(flow, scratch.range.reason),
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
    if backend(owner).is_some_and(|owner| owner.endpoint.address == scratch.key.client) {
        return give_up(flow, Counter::OwnerIsClient as u32);
    }
    if rest(owner).is_some_and(|rest| rest::rests(rest, scratch.seconds)) {
        return give_up(flow, Counter::OwnerResting as u32);
    }
    if scratch.port.is_bridges()
        && let Some(reason) = bridge::refuses(record.first as u32, owner, scratch.seconds)
    {
        return give_up(flow, reason as u32);
    }
    let inline = scratch.key.dialled().is_some();
    if hop_to(skb, owner) != 0 || inline && leads_back(record, owner) {
        return give_up(flow, Counter::OwnerNoRoute as u32);
    }
    // Its client's port was taken there.
    let again = record.owner as u32 == owner;
    record.owner = owner as u16;
    record.owner_tries = 1;
    record.owner_syn_at = rehome::milliseconds(scratch.now);
    record.owner_port = [0; 2];
    if legs::is_taken(scratch, owner) {
        let service = scratch.key.service_of_leg(record.entrance()) as u32;
        let port = take_leg(owner, service, StateWord(record.word).isn()) as u16;
        if port == 0 {
            return give_up(flow, Counter::LegTaken as u32);
        }
        record.owner_port = port.to_ne_bytes();
    } else if scratch.key.dialled().is_some() && !legs::hold(scratch, owner) {
        return give_up(flow, Counter::LegTaken as u32);
    }
    // The slot is reserved before the SYN leaves: a splice that was begun can always be kept.
    // SAFETY: whole records.
    unsafe { copy_flow(&mut scratch.flow, record) };
    scratch.flow.word = StateWord::new(State::Wait, StateWord(record.word).isn()).0;
    if SPLICES.insert(&scratch.key, &scratch.flow, 0).is_err() {
        return give_up(flow, Counter::SplicesFull as u32);
    }
    unlock(flow, State::Wait);
    if !again {
        count(Counter::Rehome);
        emit_event(scratch, Counter::Rehome);
        tell_watchers(flow, Counter::Rehome as u32, owner);
    }
    Stage::SynToOwner
}

/// Whether in an inline pool the way to an owner leads to the station that the client's packets come
/// from, and the way to the first backend does not: what remains of the forwarding table once the
/// owner's own way is gone is the default route, and a balancer there would send the SYN back.
#[inline(always)]
fn leads_back(flow: &Flow, owner: u32) -> bool {
    let client = flow.client_hop.words();
    let is_clients = |id: u32| {
        backend_path(id).is_some_and(|path| {
            let hop = path.hop.words();
            let same = hop[0] == client[0] && upper(hop[1]) == upper(client[1]);
            same && path.hop.ifindex == flow.client_hop.ifindex
        })
    };
    flow.client_hop.ifindex != 0 && is_clients(owner) && !is_clients(flow.first as u32)
}

/// The first backend gets the flow because of `reason`, a counter's index.
#[inline(always)]
fn give_up(flow: *mut Flow, reason: u32) -> Stage {
    settle_for(flow, reason);
    Stage::Flush
}
