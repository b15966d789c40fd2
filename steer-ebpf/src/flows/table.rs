//! A flow's record and its backend: who is up, where a client belongs, how a flow is settled and
//! forgotten.

use core::ptr::null_mut;

use steer_common::{
    decide::slot,
    flow::State,
    shared::{BACKEND_PRESENT, BACKEND_UP, FLOW_LEARNED, Flow, NO_BACKEND, SWITCH_BYPASS},
};

use crate::{
    flows::{
        events::tell_watchers,
        fast::{is_on, take_back_fast},
        lock::{mark, unlock},
    },
    maps::{FLOWS, LOOKUP, PENDING, SPLICES, backend, count_index, switch},
    scratch::Scratch,
};

#[inline(always)]
pub(crate) fn is_up(id: u16) -> bool {
    const UP: u16 = BACKEND_PRESENT | BACKEND_UP;
    backend(id as u32).is_some_and(|b| b.flags & UP == UP)
}

/// The backend that the client dialled, or that the VIP's lookup table names for it.
#[inline(always)]
pub(crate) fn lookup(scratch: &Scratch) -> u16 {
    if let Some(dialled) = scratch.key.dialled() {
        return dialled;
    }
    let slot = slot(&scratch.vip, &scratch.key.client, scratch.key.client_port);
    LOOKUP.get(scratch.vip.lookup_base.wrapping_add(slot)).copied().unwrap_or(NO_BACKEND)
}

/// The record of the flow in `scratch.key`, with what its slot in `fast` knew; the slot is empty
/// then.
#[inline(always)]
pub(crate) fn find(scratch: &Scratch) -> *mut Flow {
    let flow = FLOWS.get_ptr_mut(&scratch.key).unwrap_or(null_mut());
    if is_on() {
        take_back_fast(&raw const scratch.key, flow);
    }
    flow
}

/// Forgets the record of the flow in `scratch.key`.
#[inline(always)]
pub(crate) fn remove(scratch: &Scratch) {
    let _ = FLOWS.remove(&scratch.key);
    if is_on() {
        take_back_fast(&raw const scratch.key, null_mut());
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

/// As [`settle`], for this reason, a counter's index: counts it, and tells who watches.
#[inline(always)]
pub(crate) fn settle_for(flow: *mut Flow, reason: u32) {
    // SAFETY: callers hold a pointer to a whole map value; a half-word is read.
    settle_at(flow, reason, unsafe { (*flow).owner } as u32);
}

/// As [`settle_for`]; `backend` is the one that the reason names.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn settle_at(flow: *mut Flow, reason: u32, backend: u32) -> i32 {
    if flow.is_null() {
        return 0;
    }
    settle(flow);
    count_index(reason);
    tell_watchers(flow, reason, backend)
}

/// Marks a settled flow as one from which nothing is learned.
#[inline(always)]
pub(crate) fn nothing_to_learn(flow: *mut Flow) {
    mark(flow, FLOW_LEARNED);
}

#[inline(always)]
pub(crate) fn bypass() -> bool {
    switch(SWITCH_BYPASS)
}
