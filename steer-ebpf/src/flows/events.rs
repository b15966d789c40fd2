//! What the agent, watchers and other gateways are told.

use steer_common::{
    counters::Counter,
    shared::{Event, Flow, JournalEntry},
};

use crate::{
    maps::{EVENTS, JOURNAL, JOURNALING, WAKE, WATCH, WATCHED, count, exact_now, now},
    scratch::{Scratch, scratch},
};

/// Copies a flow's record word by word: as one assignment it would pass through the stack.
///
/// # Safety
///
/// Both point to whole records.
#[inline(always)]
pub(crate) unsafe fn copy_flow(to: *mut Flow, from: *const Flow) {
    const WORDS: usize = size_of::<Flow>() / 8;
    // SAFETY: the caller vouches for both; the type is a multiple of eight bytes and so aligned.
    unsafe {
        let (to, from) = (to.cast::<u64>(), from.cast::<u64>());
        for i in 0..WORDS {
            to.add(i).write_volatile(from.add(i).read_volatile());
        }
    }
}

/// Tells the agent what happened to the flow in `scratch.flow`; false where it could not be told.
#[inline(always)]
pub(crate) fn emit_event(scratch: &mut Scratch, what: Counter) -> bool {
    scratch.event = Event {
        // A move takes less than a tick of `now`.
        at: exact_now(),
        flow: scratch.key,
        what: what as u16,
        first: scratch.flow.first,
        owner: scratch.flow.owner,
        zero: 0,
        hello_len: scratch.flow.hello_len,
        ticket: [0; 32],
    };
    let told = EVENTS.output(&scratch.event, WAKE).is_ok();
    if !told {
        count(Counter::EventsLost);
    }
    told
}

/// Tells who watches (`steer watch`) what became of a flow, and which backend that names; one look
/// into a map where nobody does.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn tell_watchers(flow: *mut Flow, what: u32, backend: u32) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    let until = WATCH.get(0).copied().unwrap_or(0);
    if (until.wrapping_sub(scratch.seconds) as i32) <= 0 {
        return 0;
    }
    let watched = &mut scratch.watched;
    watched.at = now();
    watched.key = scratch.key;
    watched.what = what as u16;
    watched.backend = backend as u16;
    // SAFETY: whole records.
    unsafe { copy_flow(&mut watched.flow, flow) };
    if WATCHED.output(&scratch.watched, WAKE).is_err() {
        count(Counter::WatchLost);
    }
    0
}

/// Notes, for other gateways, that the entry of a table (`JOURNAL_*`) changed whose key is in
/// `scratch.session` or `scratch.key`; one look into a map where there are no others.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note_change(table: u32) -> i32 {
    /// Whoever reads is woken where it has read all that there was.
    const WAKE_READER: u64 = 0;
    let Some(scratch) = scratch() else { return 0 };
    let until = JOURNALING.get(0).copied().unwrap_or(0);
    if (until.wrapping_sub(scratch.seconds) as i32) <= 0 {
        return 0;
    }
    scratch.changed = JournalEntry { table, session: scratch.session, flow: scratch.key };
    if JOURNAL.output(&scratch.changed, WAKE_READER).is_err() {
        count(Counter::JournalLost);
    }
    0
}
