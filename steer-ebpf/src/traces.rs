//! What is left of flows that `flows` may have forgotten ([`steer_common::trace`]).

use steer_common::{
    counters::Counter,
    flow::{Direction, State, StateWord},
    shared::{
        FLOW_HOP_WANTED, FLOW_LEARNED, FLOW_UNCONFIRMED, Flow, NO_BACKEND, TraceLine,
        VIP_RETURN_BY_ROUTE,
    },
    trace::{self, Place},
};

use crate::{
    legs,
    maps::{FLOWS, SETTINGS, SYN_TRACES, Scratch, TRACES, backend, count, scratch},
};

/// The place of the flow in `scratch.key`.
#[inline(always)]
fn place(scratch: &Scratch) -> Option<(&'static mut TraceLine, Place)> {
    let secret = SETTINGS.get(0)?.secret;
    let place = trace::place(&scratch.key, secret);
    // SAFETY: array elements live as long as the program; a lost race costs one trace.
    let line = unsafe { &mut *TRACES.get_ptr_mut(place.line)? };
    Some((line, place))
}

/// As [`place`], of a handshake.
#[inline(always)]
fn syn_place(scratch: &Scratch) -> Option<(&'static mut TraceLine, Place)> {
    let secret = SETTINGS.get(0)?.secret;
    let place = trace::place(&scratch.key, secret);
    // SAFETY: as in `place`.
    let line = unsafe { &mut *SYN_TRACES.get_ptr_mut(place.line & (trace::SYN_LINES - 1))? };
    Some((line, place))
}

/// A trace's backend, or [`NO_BACKEND`] where that number is another VIP's by now.
#[inline(always)]
fn of_its_vip(scratch: &Scratch, found: Option<u16>) -> i32 {
    let its =
        |id: &u16| backend(*id as u32).is_some_and(|backend| backend.vip_id == scratch.key.service);
    found.filter(its).unwrap_or(NO_BACKEND) as i32
}

/// Leaves the handshake in `scratch.key`, which went to `backend`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn set_syn_trace(backend: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let seconds = scratch.seconds;
    if let Some((line, place)) = syn_place(scratch) {
        trace::enter(line, place.fingerprint, backend as u16, seconds);
    }
    0
}

/// Forgets the handshake in `scratch.key`: a flow was made of it, or its client uses the port for
/// something else.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forget_syn_trace() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    if let Some((line, place)) = syn_place(scratch) {
        trace::forget(line, place.fingerprint);
    }
    0
}

/// The backend that the handshake in `scratch.key` went to, or [`NO_BACKEND`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_syn_trace() -> i32 {
    let Some(scratch) = scratch() else { return NO_BACKEND as i32 };
    let seconds = scratch.seconds;
    let found =
        syn_place(scratch).and_then(|(line, place)| trace::find(line, place.fingerprint, seconds));
    of_its_vip(scratch, found)
}

/// Leaves the flow in `scratch.key`, which `backend` holds.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn set_trace(backend: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let seconds = scratch.seconds;
    if let Some((line, place)) = place(scratch) {
        trace::enter(line, place.fingerprint, backend as u16, seconds);
    }
    0
}

/// Forgets the flow in `scratch.key`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forget_trace() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    if let Some((line, place)) = place(scratch) {
        trace::forget(line, place.fingerprint);
    }
    0
}

/// The backend that the flow in `scratch.key` was left at, or [`NO_BACKEND`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_trace() -> i32 {
    let Some(scratch) = scratch() else { return NO_BACKEND as i32 };
    let seconds = scratch.seconds;
    let found =
        place(scratch).and_then(|(line, place)| trace::find(line, place.fingerprint, seconds));
    of_its_vip(scratch, found)
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
