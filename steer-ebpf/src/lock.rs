//! A flow's word: one CPU at a time changes a flow that is not yet settled.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use steer_common::{
    flow::{State, Word},
    shared::Flow,
};

use crate::verifier::limit;

/// Tries before a packet is given up: its sender repeats it. A holder needs microseconds.
const TRIES: i32 = 400;

/// The word as it is now.
#[inline(always)]
pub(crate) fn read(flow: *const Flow) -> Word {
    // SAFETY: callers hold a pointer to a whole map value.
    Word(unsafe { (&raw const (*flow).word).read_volatile() })
}

#[inline(always)]
fn swap(flow: *mut Flow, old: Word, new: Word) -> bool {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: as above; the field is 8-byte aligned.
    unsafe { atomic_cxchg::<u64, ORDER, ORDER>(&raw mut (*flow).word, old.0, new.0).1 }
}

/// Locks `flow`, which is nearly always free; as [`lock_flow`].
#[inline(always)]
pub(crate) fn lock(flow: *mut Flow) -> i32 {
    let word = read(flow);
    if !word.locked() && swap(flow, word, word.lock()) { word.state_number() as i32 } else { lock_flow(flow) }
}

/// Whether a flow is as the stage before left it: locked, and no other flow, evicted and made anew in the same place.
#[inline(always)]
pub(crate) fn is_held(flow: *const Flow, isn: u32) -> bool {
    !flow.is_null() && read(flow).locked() && read(flow).isn() == isn
}

/// Locks `flow`; its state's number, or -1 where another CPU holds it for too long or the slot is another flow's now.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lock_flow(flow: *mut Flow) -> i32 {
    if flow.is_null() {
        return -1;
    }
    let isn = read(flow).isn();
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

/// Unlocks a flow that this CPU holds and enters its new state. Where the slot was reused meanwhile nothing is changed.
#[inline(always)]
pub(crate) fn unlock(flow: *mut Flow, state: State) {
    let held = read(flow);
    if held.locked() {
        swap(flow, held, Word::new(state, held.isn()));
    }
}
