//! What the agent is told.

use steer_common::{counters::Counter, shared::Event};

use crate::{
    maps::{EVENTS, WAKE, count, now},
    scratch::Scratch,
};

/// Tells the agent what happened to the flow in `scratch.flow`; false where it could not be told.
#[inline(always)]
pub(crate) fn emit_event(scratch: &mut Scratch, what: Counter) -> bool {
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
