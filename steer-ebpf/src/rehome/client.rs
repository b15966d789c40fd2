//! A client's packet of a flow that is not settled: the data that decides.

use aya_ebpf::bindings::__sk_buff;
use core::ptr::null_mut;
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    rehome::{self, ClientAct},
    shared::{FLOW_CLOSED, FLOW_LEARNED, FLOW_RESET, Flow},
    wire::{ip::Part, tcp::flags},
};

use crate::{
    flows::{
        lock::{self, mark, unlock},
        stamps::{comes_by, follow_hop, is_exact, record_end, record_hop},
        table::{forget, settle, settle_for},
        traces::forget_trace,
    },
    handshake::{
        syn_ack::replace,
        unknown::{is_rivalled, known, make_record, rival_completed},
    },
    hook::tc::Tc,
    learn::certificate::read_client_certificate,
    maps::{FLOWS, PENDING, count},
    packet::sums::is_sound,
    rehome::hold::first_data,
    scratch::{Reset, Scratch, StreamRange, scratch},
    stage::{Stage, drop},
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
    if scratch.segment.any(flags::FIN | flags::RST) || record.flags & FLOW_CLOSED != 0 {
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
            settle_for(flow, reason as u32);
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
