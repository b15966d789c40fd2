//! What a backend's handshake teaches of ticket keys: a ticket that it issued or accepted has a
//! name whose key it holds, one that it rejected has not, and the order in which backends come to
//! new names is followed ([`rotation`]).
//!
//! [`rotation`]: steer_common::rotation

use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    rotation as rotations,
    session::{Kind, LAYOUTS, NameLayout, SESSION_ID_MAX},
    shared::{
        Event, FLOW_ECH, FLOW_HIT, FLOW_NAMED, FLOW_NAMELESS, Flow, JOURNAL_KEY_NAMES,
        KEY_NAME_CONFIGURED, KEY_NAME_OPENED_TWO, KEY_NAME_PROVEN, KEY_NAME_SHARED, KeyName,
        NO_BACKEND, VIP_TELL_TICKETS, backend_bit,
    },
};

use crate::{
    flows::events::note_change,
    maps::{EVENTS, KEY_NAME_TRIES, KEY_NAMES, WAKE, count, now, rotation},
    scratch::{Scratch, scratch},
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
    if scratch.vip.flags & VIP_TELL_TICKETS != 0 && (which == LESSON || flow.flags & FLOW_ECH == 0)
    {
        scratch.event = Event {
            at: now(),
            flow: scratch.key,
            what: Counter::TicketTold as u16,
            first: scratch.backend as u16,
            owner: scratch.backend as u16,
            zero: 0,
            hello_len: 0,
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

/// The backend has the key of a ticket: its name by the `i`-th layout is noted. `longer` is what
/// was said of the one before, which is longer.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn learn_name(flow: *mut Flow, which: u32, i: u32, longer: u32) -> i32 {
    const ONLY_NEW: u64 = 1;
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return NO_NAME };
    // SAFETY: not null, a whole map value.
    let flow = unsafe { &*flow };
    let bytes = if which == LESSON { &flow.follow.lesson } else { &flow.offered_bytes };
    if !set_name(scratch, bytes, i) {
        return NO_NAME;
    }
    let (owner, seconds) = (scratch.backend, scratch.seconds);
    let tail = u16::from_ne_bytes([bytes[30], bytes[31]]);
    // Behind ECH the client chooses what is read here, whatever it is that its backend accepted.
    // And what is no name looks as if it changed with every ticket.
    let vouched = which == LESSON || flow.flags & FLOW_ECH == 0;
    let followed = scratch.vip.flags & VIP_TELL_TICKETS == 0 && vouched;
    if let Some(name) = KEY_NAMES.get_ptr_mut(&scratch.session) {
        // SAFETY: a map value; a lost race costs one stamp.
        let name = unsafe { &mut *name };
        name.last_seen = seconds;
        if name.owner as u32 == owner {
            name.accepted = name.accepted.wrapping_add(1);
            let second =
                name.flags & (KEY_NAME_OPENED_TWO | KEY_NAME_CONFIGURED) == 0 && name.tail != tail;
            if longer as i32 == NEW_NAME {
                name.flags |= KEY_NAME_PROVEN;
            }
            if second && followed {
                name.flags |= KEY_NAME_OPENED_TWO;
                rotate(scratch, owner, Turn::Confirmed);
            }
        } else if name.flags & KEY_NAME_SHARED == 0 && vouched {
            name.flags |= KEY_NAME_SHARED;
            count(Counter::KeyNameBecameShared);
            note_change(JOURNAL_KEY_NAMES);
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
        tail,
        zero: 0,
        tried: 0,
    };
    if KEY_NAMES.insert(&scratch.session, &scratch.name, ONLY_NEW).is_ok() {
        count(Counter::KeyNameLearned);
        note_change(JOURNAL_KEY_NAMES);
        if followed {
            rotate(scratch, owner, Turn::Learned);
        }
    }
    let _ = KEY_NAME_TRIES.remove(&scratch.session);
    NEW_NAME
}

/// What is noted of a backend's keys.
#[derive(Clone, Copy)]
pub(crate) enum Turn {
    /// It answered a hello of TLS 1.3.
    Answered,
    /// A key name of it was learned.
    Learned,
    /// A key name of it opened a second ticket.
    Confirmed,
    /// It refused a ticket that it was given on a guess.
    Missed,
}

/// Notes what is learned of the keys of a VIP's backend.
#[inline(always)]
pub(crate) fn rotate(scratch: &Scratch, backend: u32, turn: Turn) {
    let Some(rotation) = rotation(scratch.vip.id) else { return };
    let (backend, seconds) = (backend as u16, scratch.seconds);
    match turn {
        Turn::Answered => rotations::answered(rotation, backend, seconds),
        Turn::Learned => rotations::note(rotation, backend, seconds),
        Turn::Confirmed => rotations::confirm(rotation, backend),
        Turn::Missed => rotations::miss(rotation, backend),
    }
}

/// The backend could not open the client's ticket: it has not its key, as far as that is not known
/// better.
#[inline(always)]
pub(crate) fn rejected(scratch: &Scratch, flow: &mut Flow) {
    let named = flow.flags & FLOW_NAMED != 0;
    if named {
        count(Counter::KeyNameRejected);
    }
    // What led it here may be no name while the layout is not known.
    let guessed = named && scratch.vip.flags & VIP_TELL_TICKETS != 0;
    let unknown = flow.flags & (FLOW_HIT | FLOW_ECH) == 0;
    let moved = StateWord(flow.word).state() == State::Spliced;
    if unknown && moved {
        rotate(scratch, scratch.backend, Turn::Missed);
    }
    if flow.offered_kind != Kind::Ticket as u8
        || flow.flags & FLOW_NAMELESS != 0
        || !(guessed || unknown)
    {
        return;
    }
    for i in 0..limit::<{ LAYOUTS as i32 }>() {
        if note_rejected(flow, i) == 0 {
            break;
        }
    }
}

/// The backend rejected the flow's ticket: noted of its name by the `i`-th layout, unless that is
/// known. 0 where there is no more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_rejected(flow: *mut Flow, i: u32) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a whole map value.
    if !set_name(scratch, unsafe { &(*flow).offered_bytes }, i) {
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
        tries.last_seen = scratch.seconds;
        tries.tried |= backend_bit(backend);
        return 1;
    }
    let seconds = scratch.seconds;
    scratch.name = KeyName {
        owner: NO_BACKEND,
        flags: 0,
        first_seen: seconds,
        last_seen: seconds,
        hits: 0,
        accepted: 0,
        tail: 0,
        zero: 0,
        tried: backend_bit(backend),
    };
    let _ = KEY_NAME_TRIES.insert(&scratch.session, &scratch.name, 0);
    1
}

/// Enters the key name of a ticket whose first 32 bytes are these, by the `i`-th layout that the
/// VIP's names may have; false where there is none.
#[inline(always)]
pub(crate) fn set_name(scratch: &mut Scratch, ticket: &[u8; 32], i: u32) -> bool {
    let layout = NameLayout::of(&scratch.vip, i);
    if layout.len == 0 || layout.at as u32 + layout.len as u32 > 32 {
        return false;
    }
    scratch.session.vip = scratch.vip.id;
    scratch.session.kind = Kind::KeyName as u8;
    scratch.session.len = layout.len;
    for i in 0..32usize {
        let byte = ticket[(i + layout.at as usize) & 31];
        scratch.session.bytes[i] = if i < layout.len as usize { byte } else { 0 };
    }
    true
}
