//! A client's packet of a flow that is not settled: the data that decides.

use core::ptr::null_mut;

use aya_ebpf::bindings::__sk_buff;
use steer_common::{
    counters::Counter,
    decide::slot,
    flow::{State, StateWord},
    rehome::{self, ClientAct},
    shared::{
        BACKEND_PRESENT, BACKEND_UP, FLOW_CLOSED, FLOW_LEARNED, FLOW_RESET, Flow, NO_BACKEND,
    },
    wire::{ip::Part, tcp::flags},
};

use crate::{
    certificate::read_client_certificate,
    hook::tc::Tc,
    lock::{self, mark, unlock},
    maps::{
        FLOWS, LOOKUP, PENDING, Reset, SPLICES, Scratch, StreamRange, backend, count, count_index,
        scratch,
    },
    rehome::first_data,
    stage::{Stage, drop},
    stamps::{comes_by, follow_hop, is_exact, record_end, record_hop},
    sums::is_sound,
    syn_ack::replace,
    traces::forget_trace,
    unknown::{is_rivalled, known, make_record, rival_completed},
};

/// Any other segment of a client.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn client_segment(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    let was = flow;
    let mut flow = known(scratch, was);
    if !flow.is_null() && is_rivalled(flow) {
        // Another CPU may have made another one of it meanwhile.
        flow = FLOWS.get_ptr_mut(&scratch.key).unwrap_or(null_mut());
        if !flow.is_null() && rival_completed(scratch, flow) {
            replace(scratch);
            flow = null_mut();
        }
    }
    if flow.is_null() {
        flow = match make_record(scratch) {
            Ok(flow) => flow,
            Err(stage) => return stage,
        };
    }
    scratch.fresh = (flow != was) as u32;
    scratch.held = lock::read(flow).isn();
    let Some(state) = State::from_number(lock::lock(flow) as u8) else {
        return drop(Counter::FlowBusy);
    };
    if !matches!(state, State::First | State::Spliced) {
        return unsettled(scratch, skb, flow, state);
    }
    unlock(flow, state);
    Stage::Settled
}

/// What else a client's packet says of its settled flow: an end, the client's certificate or its
/// second hello, another way back to it. 1 where the segment may be the client's second hello.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn settled_client(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a map value.
    let record = unsafe { &mut *flow };
    if scratch.segment.flags & (flags::FIN | flags::RST) != 0 {
        record_end(skb, flow);
    }
    let carries = scratch.payload_len() != 0 || scratch.ip.part != Part::Whole;
    let mut again = 0;
    if carries && record.flags & FLOW_LEARNED == 0 {
        again = read_client_certificate(skb, flow);
    }
    let moved = is_exact(record, &scratch.segment) && !comes_by(&Tc(skb), record);
    if moved && is_sound(skb) != 0 {
        record_hop(&Tc(skb), &mut record.client_hop);
    }
    again
}

#[inline(always)]
pub(crate) fn is_up(id: u16) -> bool {
    const UP: u16 = BACKEND_PRESENT | BACKEND_UP;
    backend(id as u32).is_some_and(|b| b.flags & UP == UP)
}

/// The backend that the VIP's lookup table names for the client.
#[inline(always)]
pub(crate) fn lookup(scratch: &Scratch) -> u16 {
    let slot = slot(&scratch.vip, &scratch.key.client, scratch.key.client_port);
    LOOKUP.get(scratch.vip.lookup_base.wrapping_add(slot)).copied().unwrap_or(NO_BACKEND)
}
/// A segment on an established, gathering or waiting flow, which this CPU holds; unlocks it unless
/// the data is to be dealt with.
#[inline(always)]
fn unsettled(scratch: *mut Scratch, skb: *mut __sk_buff, flow: *mut Flow, state: State) -> Stage {
    // SAFETY: the caller's.
    let scratch = unsafe { &mut *scratch };
    let segment = scratch.segment;
    let buffer = if state == State::Established { None } else { PENDING.get_ptr_mut(&scratch.key) };
    // SAFETY: a map value; the flow is locked.
    let highest =
        buffer.map_or(0, |buffer| steer_common::ranges::highest(unsafe { &(*buffer).ranges }));
    // SAFETY: a map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    let expected = StateWord(record.word).isn().wrapping_add(1);
    if is_exact(record, &segment) {
        follow_hop(skb, record);
    }
    match rehome::client(record, state, &segment, !scratch.ip.is_plain(), highest) {
        ClientAct::Forward => {
            unlock(flow, state);
            // An end is noted, so that nobody waits for the flow's.
            if scratch.segment.flags & flags::RST != 0 { Stage::Settled } else { Stage::Forward }
        }
        ClientAct::Drop(reason) => {
            unlock(flow, state);
            drop(reason)
        }
        ClientAct::Settle(reason) => {
            settle(flow);
            count_index(reason as u32);
            if state == State::Established { Stage::Settled } else { Stage::Flush }
        }
        ClientAct::Reset => {
            mark(flow, FLOW_RESET | FLOW_CLOSED);
            scratch.reset = Reset { backend: record.first as u32, seq: expected };
            settle(flow);
            forget(scratch);
            forget_trace();
            count(Counter::WaitReset);
            Stage::Reset
        }
        ClientAct::Data(data) => {
            let from = scratch.payload_at() + data.skip;
            scratch.range = StreamRange {
                offset: data.offset,
                from,
                len: data.len,
                state: state as u32,
                ..StreamRange::default()
            };
            if state == State::Established { first_data(scratch, skb, flow) } else { Stage::Data }
        }
    }
}

/// Forgets what was kept of a flow for the case that it moves.
#[inline(always)]
pub(crate) fn forget(scratch: &Scratch) {
    let _ = PENDING.remove(&scratch.key);
    let _ = SPLICES.remove(&scratch.key);
}

/// The first backend gets a flow that this CPU holds, for good.
#[inline(always)]
pub(crate) fn settle(flow: *mut Flow) {
    unlock(flow, State::First);
}

/// Marks a settled flow as one from which nothing is learned.
#[inline(always)]
pub(crate) fn nothing_to_learn(flow: *mut Flow) {
    mark(flow, FLOW_LEARNED);
}
