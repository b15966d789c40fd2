//! What a backend's handshake teaches of ticket keys: a ticket that it issued or accepted has a name whose key it holds, one
//! that it rejected has not, and the order in which backends come to new names is followed ([`rotation`]).
//!
//! [`rotation`]: steer_common::rotation

use steer_common::{
    counters::Counter,
    decide::note_tried,
    flow::{State, Word},
    rotation as rotations,
    session::{Kind, LAYOUTS, SESSION_ID_MAX},
    shared::{
        Event, FLOW_ECH, FLOW_HIT, FLOW_NAMED, FLOW_NAMELESS, Flow, KEY_NAME_CONFIGURED, KEY_NAME_OPENED_TWO,
        KEY_NAME_PROVEN, KEY_NAME_SHARED, KEY_NAME_TRIES as TRIES, KeyName, NO_BACKEND, ROTATION_BACKENDS,
        VIP_TELL_TICKETS,
    },
};

use crate::{
    maps::{EVENTS, KEY_NAME_TRIES, KEY_NAMES, Scratch, WAKE, count, now, rotation, scratch},
    offers::enter_name,
    verifier::limit,
};

/// The ticket of [`ticket`] is the one that the client offered, or the one that the backend issued.
pub(crate) const OFFERED: u32 = 0;
pub(crate) const LESSON: u32 = 1;

/// The backend issued or accepted a ticket: it has the key.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn ticket(flow: *mut Flow, which: u32) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a whole map value.
    let flow = unsafe { &mut *flow };
    let (bytes, nameless) = if which == LESSON {
        (&flow.follow.lesson, (flow.follow.lesson_len as usize) < SESSION_ID_MAX)
    } else {
        (&flow.offered_bytes, flow.flags & FLOW_NAMELESS != 0)
    };
    if nameless {
        return 0;
    }
    // Behind ECH the client chooses what is read here.
    if scratch.vip.flags & VIP_TELL_TICKETS != 0 && (which == LESSON || flow.flags & FLOW_ECH == 0) {
        scratch.event = Event {
            at: now(),
            flow: scratch.key,
            what: Counter::TicketTold as u16,
            first: scratch.backend as u16,
            owner: scratch.backend as u16,
            zero: 0,
            zero2: 0,
            ticket: *bytes,
        };
        let told = EVENTS.output(&scratch.event, WAKE).is_ok();
        count(if told { Counter::TicketTold } else { Counter::EventsLost });
    }
    let mut learned = KNOWN_NAME;
    for i in 0..limit::<{ LAYOUTS as i32 }>() {
        learned = learn_name(flow, which, i, learned as u32);
        if learned == NO_NAME {
            break;
        }
    }
    0
}

const NO_NAME: i32 = 0;
const KNOWN_NAME: i32 = 1;
const NEW_NAME: i32 = 2;

/// The backend has the key of a ticket: its name by the `i`-th layout is noted. `longer` is what was said of the one before,
/// which is longer.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn learn_name(flow: *mut Flow, which: u32, i: u32, longer: u32) -> i32 {
    const ONLY_NEW: u64 = 1;
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return NO_NAME };
    // SAFETY: not null, a whole map value.
    let flow = unsafe { &*flow };
    let bytes = if which == LESSON { &flow.follow.lesson } else { &flow.offered_bytes };
    if !enter_name(scratch, bytes, i) {
        return NO_NAME;
    }
    let (owner, seconds) = (scratch.backend, scratch.facts.seconds);
    let tail = u16::from_ne_bytes([bytes[30], bytes[31]]);
    // Behind ECH the client chooses what is read here, whatever it is that its backend accepted. And what is no name looks as
    // if it changed with every ticket.
    let vouched = which == LESSON || flow.flags & FLOW_ECH == 0;
    let followed = scratch.vip.flags & VIP_TELL_TICKETS == 0 && vouched;
    if let Some(name) = KEY_NAMES.get_ptr_mut(&scratch.session) {
        // SAFETY: a map value; a lost race costs one stamp.
        let name = unsafe { &mut *name };
        name.last_seen = seconds;
        if name.owner as u32 == owner {
            name.accepted = name.accepted.wrapping_add(1);
            let second = name.flags & (KEY_NAME_OPENED_TWO | KEY_NAME_CONFIGURED) == 0 && name.tried[0] != tail;
            if longer as i32 == NEW_NAME {
                name.flags |= KEY_NAME_PROVEN;
            }
            if second && followed {
                name.flags |= KEY_NAME_OPENED_TWO;
                rotate(owner, CONFIRM);
            }
        } else if name.flags & KEY_NAME_SHARED == 0 && vouched {
            name.flags |= KEY_NAME_SHARED;
            count(Counter::KeyNameBecameShared);
        }
        return KNOWN_NAME;
    }
    scratch.name = KeyName {
        owner: owner as u16,
        flags: 0,
        first_seen: seconds,
        last_seen: seconds,
        hits: 0,
        accepted: 1,
        tried: [NO_BACKEND; TRIES],
    };
    scratch.name.tried[0] = tail;
    if KEY_NAMES.insert(&scratch.session, &scratch.name, ONLY_NEW).is_ok() {
        count(Counter::KeyNameLearned);
        if followed {
            rotate(owner, LEARN);
        }
    }
    let _ = KEY_NAME_TRIES.remove(&scratch.session);
    NEW_NAME
}

/// What [`rotate`] notes of a backend: a key name was learned of it, opened a second ticket, or was not the one of a ticket that
/// the backend was given on a guess.
const LEARN: u32 = 0;
const CONFIRM: u32 = 1;
const MISS: u32 = 2;

/// Notes what is learned of a backend's keys in the order of its pool.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rotate(backend: u32, what: u32) -> i32 {
    const ALL: i32 = ROTATION_BACKENDS as i32;
    let Some(scratch) = scratch() else { return 0 };
    let Some(rotation) = rotation(scratch.vip.id) else { return 0 };
    match what {
        LEARN => rotations::note(rotation, limit::<ALL>(), backend as u16),
        CONFIRM => rotations::confirm(rotation, limit::<ALL>(), backend as u16),
        _ => rotations::miss(rotation, limit::<ALL>(), backend as u16),
    }
    0
}

/// The backend could not open the client's ticket: it has not its key, as far as that is not known better.
#[inline(always)]
pub(crate) fn rejected(scratch: &Scratch, flow: &mut Flow) {
    let named = flow.flags & FLOW_NAMED != 0;
    if named {
        count(Counter::KeyNameRejected);
    }
    // What led it here may be no name while the layout is not known.
    let guessed = named && scratch.vip.flags & VIP_TELL_TICKETS != 0;
    let unknown = flow.flags & (FLOW_HIT | FLOW_ECH) == 0;
    let moved = Word(flow.word).state() == State::Spliced;
    if unknown && moved {
        rotate(scratch.backend, MISS);
    }
    if flow.offered_kind != Kind::Ticket as u8 || flow.flags & FLOW_NAMELESS != 0 || !(guessed || unknown) {
        return;
    }
    for i in 0..limit::<{ LAYOUTS as i32 }>() {
        if note_rejected(flow, i) == 0 {
            break;
        }
    }
}

/// The backend rejected the flow's ticket: noted of its name by the `i`-th layout, unless that is known. 0 where there is no
/// more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_rejected(flow: *mut Flow, i: u32) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a whole map value.
    if !enter_name(scratch, unsafe { &(*flow).offered_bytes }, i) {
        return 0;
    }
    // SAFETY: only asked whether it is there.
    if unsafe { KEY_NAMES.get(&scratch.session) }.is_some() {
        return 1;
    }
    let backend = scratch.backend as u16;
    if let Some(tries) = KEY_NAME_TRIES.get_ptr_mut(&scratch.session) {
        // SAFETY: a map value; a lost race costs one try.
        let tries = unsafe { &mut *tries };
        tries.last_seen = scratch.facts.seconds;
        note_tried(&mut tries.tried, backend);
        return 1;
    }
    let seconds = scratch.facts.seconds;
    scratch.name = KeyName {
        owner: NO_BACKEND,
        flags: 0,
        first_seen: seconds,
        last_seen: seconds,
        hits: 0,
        accepted: 0,
        tried: [NO_BACKEND; TRIES],
    };
    scratch.name.tried[0] = backend;
    let _ = KEY_NAME_TRIES.insert(&scratch.session, &scratch.name, 0);
    1
}
