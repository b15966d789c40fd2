//! A flow's word: one CPU at a time changes a flow that is not yet settled.

use core::intrinsics::{AtomicOrdering, atomic_and, atomic_cxchg, atomic_or};

use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::Flow,
};

use crate::{maps::count, scratch::scratch, verifier::limit};

/// Tries of one call of [`try_for_a_while`].
const TRIES: i32 = 400;
/// Calls before a packet is given up: its sender repeats it. A holder needs some microseconds, a
/// call one or two.
const CALLS: i32 = 32;

/// The word as it is now.
#[inline(always)]
pub(crate) fn read(flow: *const Flow) -> StateWord {
    // SAFETY: callers hold a pointer to a whole map value.
    StateWord(unsafe { (&raw const (*flow).word).read_volatile() })
}

#[inline(always)]
fn swap(flow: *mut Flow, old: StateWord, new: StateWord) -> bool {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: as above; the field is 8-byte aligned.
    unsafe { atomic_cxchg::<u64, ORDER, ORDER>(&raw mut (*flow).word, old.0, new.0).1 }
}

/// Locks `flow`, which is nearly always free; as [`lock_flow`].
#[inline(always)]
pub(crate) fn lock(flow: *mut Flow) -> i32 {
    let word = read(flow);
    if !word.locked() && swap(flow, word, word.lock()) {
        word.state_number() as i32
    } else {
        lock_flow(flow)
    }
}

/// Whether a flow is as the stage before left it: locked, and no other flow, evicted and made anew
/// in the same place.
#[inline(always)]
pub(crate) fn is_held(flow: *const Flow, isn: u32) -> bool {
    !flow.is_null() && read(flow).locked() && read(flow).isn() == isn
}

/// Waits for another CPU to let go of `flow` and locks it; its state's number, or -1 where that
/// takes too long or the slot is another flow's now.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lock_flow(flow: *mut Flow) -> i32 {
    if flow.is_null() {
        return -1;
    }
    count(Counter::FlowWaited);
    let isn = read(flow).isn();
    for _ in 0..limit::<CALLS>() {
        let state = try_for_a_while(flow, isn);
        if state >= 0 || read(flow).isn() != isn {
            return state;
        }
    }
    -1
}

/// As [`lock_flow`], for as long as the verifier likes to walk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn try_for_a_while(flow: *mut Flow, isn: u32) -> i32 {
    if flow.is_null() {
        return -1;
    }
    for _ in 0..limit::<TRIES>() {
        let word = read(flow);
        if word.isn() != isn {
            return -1;
        }
        if !word.locked() && swap(flow, word, word.lock()) {
            return word.state_number() as i32;
        }
    }
    -1
}

/// Unlocks the flow that this CPU holds, whose client's initial sequence number is in
/// `scratch.held`, and enters its new state. Where the slot was reused meanwhile for another flow
/// nothing is changed, locked or not.
#[inline(always)]
pub(crate) fn unlock(flow: *mut Flow, state: State) {
    let Some(scratch) = scratch() else { return };
    let held = read(flow);
    if held.locked() && held.isn() == scratch.held {
        swap(flow, held, StateWord::new(state, held.isn()));
    }
}

/// Enters that the first backend has a flow that nobody holds, unless its word, which was read, is
/// another one now.
#[inline(always)]
pub(crate) fn settle_unlocked(flow: *mut Flow, word: StateWord) {
    swap(flow, word, StateWord::new(State::First, word.isn()));
}

/// Sets bits of a flow's flags. Packets of both directions do so at once, on two CPUs: nothing gets
/// lost.
#[inline(always)]
pub(crate) fn mark(flow: *mut Flow, bits: u32) {
    const ORDER: AtomicOrdering = AtomicOrdering::Relaxed;
    // SAFETY: callers hold a pointer to a whole map value; the field is aligned.
    unsafe { atomic_or::<u32, u32, ORDER>(&raw mut (*flow).flags, bits) };
}

/// Clears bits of a flow's flags, as [`mark`] sets them.
#[inline(always)]
pub(crate) fn unmark(flow: *mut Flow, bits: u32) {
    const ORDER: AtomicOrdering = AtomicOrdering::Relaxed;
    // SAFETY: as in `mark`.
    unsafe { atomic_and::<u32, u32, ORDER>(&raw mut (*flow).flags, !bits) };
}
