//! Looks up what a hello offers, and searches the owner of a key name that nobody knows.

use core::mem::offset_of;
use steer_common::{
    counters::Counter,
    decide::{self, Verdict},
    refusals::{self, Offer},
    session::{Kind, LAYOUTS, LONGEST, NameLayout},
    shared::{
        BACKEND_DRAINING, BACKEND_PRESENT, BACKEND_UP, FLOW_AT_OWNER, FLOW_ECH, FLOW_HELLO,
        FLOW_HIT, FLOW_NAMED, FLOW_NAMELESS, FLOW_OFFERED, Flow, KEY_NAME_PROVEN, KEY_NAME_SHARED,
        LOOKUP_SLOTS, NO_BACKEND, NO_PSK, Pending, ROTATION_BACKENDS, SessionKey, VIP_TELL_TICKETS,
        backend_bit,
    },
    wire::tls::{
        Version,
        client_hello::{PSK_IDENTITIES, STREAM, Stream, word},
    },
};

use crate::{
    decide::verdict::{code, first},
    flows::{
        lock::{mark, unmark},
        table::is_up,
    },
    learn::key_names::set_name,
    maps::{
        KEY_NAME_TRIES, KEY_NAMES, LOOKUP, SESSIONS, backend, count, count_backend, refusals,
        rotation,
    },
    scratch::{Scratch, joined, scratch},
    verifier::{limit, opaque},
};

/// Looks up what the hello in `scratch.hello` offers, in this order: the ticket, its key's name,
/// the PSK identities and their keys' names, the session ID.
#[inline(always)]
pub(crate) fn find_owner(scratch: *mut Scratch, flow: *mut Flow, text: *mut Pending) -> i32 {
    // SAFETY: the caller's.
    let scratch = unsafe { &mut *scratch };
    // What was joined lies elsewhere.
    let text = if scratch.in_joined != 0 { joined() } else { Some(text) };
    let Some(text) = text.filter(|text| !text.is_null()) else { return code::NEED_MORE };
    let mut flags = 0;
    if scratch.hello.ech != 0 {
        flags |= FLOW_ECH;
    }
    let mut unknown = Counter::HelloNoSession;
    for i in 0..1 + PSK_IDENTITIES {
        let (ticket, index) = if i == 0 {
            (scratch.hello.ticket, NO_PSK as u32)
        } else {
            (scratch.hello.psk[i - 1], i as u32 - 1)
        };
        if !scratch.hello.at_hand(ticket, 32) {
            continue;
        }
        flags |= FLOW_OFFERED;
        unknown = Counter::TicketMiss;
        let found = look_up_ticket(flow, text, ticket.at, ticket.len, index);
        if found != code::UNKNOWN {
            note(flow, flags);
            return found;
        }
    }
    let id = scratch.hello.session_id;
    if id.len != 0 {
        let found = if scratch.id_unknown != 0 {
            code::UNKNOWN
        } else {
            look_up(flow, text, id.at, id.len, Kind::SessionId as u32)
        };
        // One that speaks TLS 1.3 sends an ID whether it has a session or not (RFC 8446 D.4).
        if found != code::UNKNOWN || scratch.hello.version_offered() < Version::Tls13 as u16 {
            flags |= FLOW_OFFERED;
        }
        if found != code::UNKNOWN || unknown as u32 == Counter::HelloNoSession as u32 {
            if scratch.id_unknown == 0 {
                offer(flow, text, id.at, id.len, Kind::SessionId as u32);
            } else {
                // SAFETY: not null, a whole map value that this CPU has locked.
                offer_id(scratch, unsafe { &mut *flow });
            }
            // One that speaks TLS 1.3 makes up an ID where it has no session: nothing is missed
            // then.
            if found != code::UNKNOWN || scratch.hello.version_offered() < Version::Tls13 as u16 {
                unknown = Counter::SessionMiss;
            }
        }
        if found != code::UNKNOWN {
            note(flow, flags);
            return found;
        }
    }
    note(flow, flags);
    if unknown as u32 == Counter::TicketMiss as u32 && flags & FLOW_ECH == 0 {
        return search(flow);
    }
    first(unknown)
}

/// Notes the first PSK identity of the hello in `scratch.hello`, a client's second one. What it
/// offers is not looked up.
#[inline(always)]
pub(crate) fn offer_again(scratch: &Scratch, flow: *mut Flow, text: *mut Pending) {
    let text = if scratch.in_joined != 0 { joined() } else { Some(text) };
    let Some(text) = text.filter(|text| !text.is_null()) else { return };
    let ticket = scratch.hello.psk[0];
    if scratch.hello.at_hand(ticket, 32) {
        offer(flow, text, ticket.at, ticket.len, Kind::Ticket as u32);
        // SAFETY: not null, a whole map value; only this client's segments write here.
        unsafe { (*flow).offered_index = 0 };
    }
}

#[inline(always)]
fn note(flow: *mut Flow, flags: u32) {
    // SAFETY: not null, a whole map value that this CPU has locked.
    unsafe { (*flow).flags |= flags };
}

/// Looks up a ticket of `len` bytes at `at` of `text`, by itself and by its key's name. `index` is
/// that of the PSK identity that it is, or [`NO_PSK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_up_ticket(
    flow: *mut Flow,
    text: *mut Pending,
    at: u32,
    len: u32,
    index: u32,
) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return code::UNKNOWN };
    let mut found = code::UNKNOWN;
    let named = NameLayout::has_any(len) && NameLayout::of(&scratch.vip, 0).len != 0;
    // Those of TLS 1.3 are known by themselves only where they have no name: clients offer each
    // once.
    if index == NO_PSK as u32 || !named {
        found = look_up(flow, text, at, len, Kind::Ticket as u32);
    }
    // A ticket may live longer than what is remembered of it: its key's name still tells whose it
    // is.
    if named && (found == code::UNKNOWN || found == first(Counter::SessionExpired)) {
        for i in 0..limit::<{ LAYOUTS as i32 }>() {
            let layout = NameLayout::of(&scratch.vip, i);
            if layout.len == 0 {
                break;
            }
            let named =
                look_up(flow, text, at + layout.at as u32, layout.len as u32, Kind::KeyName as u32);
            if named != code::UNKNOWN {
                found = named;
                break;
            }
        }
    }
    // SAFETY: not null, a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    if found != code::UNKNOWN || record.offered_kind == 0 {
        offer(flow, text, at, len, Kind::Ticket as u32);
        record.offered_index = index as u8;
    }
    found
}

/// Copies the first bytes of an identifier of `len` bytes at `at`; returns how many they are.
#[inline(always)]
pub(crate) fn identifier(text: &Stream, at: u32, len: u32, to: &mut [u8; 32]) -> u8 {
    /// Where an identifier of full length may start.
    const WHOLE: usize = STREAM - 32;
    let start = opaque(at as usize);
    if len >= 32 && start <= WHOLE {
        // SAFETY: 32 bytes from `start` on lie in the stream. As words in packets they need no
        // alignment.
        unsafe { copy_identifier(to.as_mut_ptr().cast(), text.as_ptr().add(start).cast()) };
        return 32;
    }
    let len = if len > 32 { 32 } else { len };
    for i in 0..limit::<8>() {
        // SAFETY: `i` is below 8, and both arrays that are written stand at multiples of four
        // (checked below).
        unsafe { to.as_mut_ptr().cast::<u32>().add(i as usize).write(word(text, at, len, i)) };
    }
    len as u8
}

/// Copies 32 bytes, a word at a time.
///
/// # Safety
///
/// Both point to that many; `to` is aligned.
#[inline(always)]
unsafe fn copy_identifier(to: *mut u32, from: *const u32) {
    for i in 0..8 {
        // SAFETY: the caller vouches for it; volatile lest it becomes a call of memcpy.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}

const _: () = assert!(
    offset_of!(SessionKey, bytes).is_multiple_of(4) && align_of::<SessionKey>().is_multiple_of(4)
);
const _: () = assert!(
    offset_of!(Flow, offered_bytes).is_multiple_of(4) && align_of::<Flow>().is_multiple_of(4)
);

/// Notes an identifier of the client in its flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn offer(flow: *mut Flow, text: *mut Pending, at: u32, len: u32, kind: u32) -> i32 {
    if flow.is_null() || text.is_null() || at as usize > STREAM {
        return 0;
    }
    let nameless = !NameLayout::has_any(len);
    // SAFETY: not null, whole map values; only this client's segments write here.
    let (record, text) = unsafe { (&mut *flow, &(*text).data) };
    record.offered_kind = kind as u8;
    record.offered_len = identifier(text, at, len, &mut record.offered_bytes);
    record.offered_index = NO_PSK;
    if nameless != (record.flags & FLOW_NAMELESS != 0) {
        if nameless { mark(flow, FLOW_NAMELESS) } else { unmark(flow, FLOW_NAMELESS) }
    }
    0
}

/// Looks up one identifier, at `at` of `text`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_up(flow: *mut Flow, text: *mut Pending, at: u32, len: u32, kind: u32) -> i32 {
    let (Some(scratch), false, false) = (scratch(), flow.is_null(), text.is_null()) else {
        return code::UNKNOWN;
    };
    if at as usize > STREAM || len == 0 {
        return code::UNKNOWN;
    }
    scratch.session.vip = scratch.vip.id;
    scratch.session.kind = kind as u8;
    // SAFETY: not null, a whole map value.
    let text = unsafe { &(*text).data };
    scratch.session.len = identifier(text, at, len, &mut scratch.session.bytes);
    // SAFETY: not null, a whole map value that this CPU has locked.
    let flow = unsafe { &mut *flow };
    if kind == Kind::KeyName as u32 { key_name(scratch, flow) } else { session(scratch, flow) }
}

/// Looks up the name of a ticket key in `scratch.session`.
#[inline(always)]
fn key_name(scratch: &mut Scratch, flow: &mut Flow) -> i32 {
    let searched = scratch.vip.flags & VIP_TELL_TICKETS != 0;
    if searched {
        record_tried(scratch);
    }
    let Some(name) = KEY_NAMES.get_ptr_mut(&scratch.session) else { return code::UNKNOWN };
    // SAFETY: a map value; a lost race costs one hit.
    let name = unsafe { &mut *name };
    // What several backends have is no name, nor is what leads to one that rejected a longer name
    // than this, unless that one accepted different ones.
    let rejected =
        name.flags & KEY_NAME_PROVEN == 0 && scratch.name.tried & backend_bit(name.owner) != 0;
    if searched && (name.flags & KEY_NAME_SHARED != 0 || rejected) {
        return code::UNKNOWN;
    }
    let Some(backend) = backend(name.owner as u32) else { return first(Counter::OwnerDown) };
    let verdict = decide::key_name(name, backend, &scratch.vip, flow.first, scratch.seconds);
    let found = found(flow, name.owner, verdict, Offer::KeyName, scratch.seconds);
    if found & code::FIRST == 0 || flow.flags & FLOW_AT_OWNER != 0 {
        name.hits = name.hits.wrapping_add(1);
        flow.flags |= FLOW_NAMED;
        count(Counter::KeyNameHit);
    }
    found
}

/// Enters who rejected the name in `scratch.session` into `scratch.name`; where nobody did, who
/// rejected the longer names that were looked up before it stands there still.
#[inline(always)]
fn record_tried(scratch: &mut Scratch) {
    let tried = tried(scratch);
    if scratch.session.len == LONGEST || tried != 0 {
        scratch.name.tried = tried;
    }
}

/// What is said of an identifier that was found.
#[inline(always)]
fn found(flow: &mut Flow, owner: u16, verdict: Verdict, offer: Offer, seconds: u32) -> i32 {
    flow.flags |= FLOW_HIT;
    count_backend(owner as u32, |stats| stats.hits += 1);
    match verdict {
        Verdict::NeedMore => code::NEED_MORE,
        Verdict::First(reason) => {
            if reason as u32 == Counter::SessionHit as u32 {
                flow.flags |= FLOW_AT_OWNER;
            }
            first(reason)
        }
        Verdict::Owner(owner) if holds_back(owner, offer, seconds) => first(Counter::OwnerRefuses),
        Verdict::Owner(owner) => owner as i32,
    }
}

/// Whether a backend refused so many of such offers that the flow is not worth a move to it.
#[inline(always)]
fn holds_back(owner: u16, offer: Offer, seconds: u32) -> bool {
    refusals(owner as u32).is_some_and(|refusals| refusals::holds_back(refusals, offer, seconds))
}

/// Looks up the session ID of `len` bytes in `scratch.session`, and notes it where it is known.
#[inline(always)]
pub(crate) fn look_up_id(scratch: &mut Scratch, flow: &mut Flow, len: u8) -> i32 {
    scratch.session.vip = scratch.vip.id;
    scratch.session.kind = Kind::SessionId as u8;
    scratch.session.len = len;
    let verdict = session(scratch, flow);
    if verdict == code::UNKNOWN {
        scratch.id_unknown = 1;
        return verdict;
    }
    offer_id(scratch, flow);
    flow.flags |= FLOW_HELLO | FLOW_OFFERED;
    count(Counter::Hello);
    verdict
}

/// Notes the session ID in `scratch.session` in its client's flow.
#[inline(always)]
fn offer_id(scratch: &Scratch, flow: &mut Flow) {
    flow.offered_kind = Kind::SessionId as u8;
    flow.offered_len = scratch.session.len;
    flow.offered_index = NO_PSK;
    flow.flags |= FLOW_NAMELESS;
    // SAFETY: two arrays of 32 bytes at multiples of four (checked above).
    unsafe {
        copy_identifier(
            flow.offered_bytes.as_mut_ptr().cast(),
            scratch.session.bytes.as_ptr().cast(),
        )
    };
}

/// Enters the word `i` (0 to 7) of a session ID.
#[inline(always)]
pub(crate) fn set_id(scratch: &mut Scratch, i: usize, word: u32) {
    // SAFETY: the array holds eight words, at a multiple of four (checked above).
    unsafe { scratch.session.bytes.as_mut_ptr().cast::<u32>().add(i & 7).write(word) };
}

/// Looks up the session in `scratch.session`.
#[inline(always)]
fn session(scratch: &Scratch, flow: &mut Flow) -> i32 {
    // SAFETY: copied at once.
    let Some(session) = (unsafe { SESSIONS.get(&scratch.session) }) else { return code::UNKNOWN };
    let session = *session;
    let Some(backend) = backend(session.owner as u32) else { return first(Counter::OwnerDown) };
    let verdict = decide::session(&session, backend, &scratch.vip, flow.first, scratch.seconds);
    let offer =
        if scratch.session.kind == Kind::Ticket as u8 { Offer::Ticket } else { Offer::SessionId };
    found(flow, session.owner, verdict, offer, scratch.seconds)
}

/// Enters the name by which the owner of the flow's ticket is searched; 0 where it has none. While
/// several layouts may be the VIP's it is the shortest of which nothing is known: most tickets have
/// it in common.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn set_search(flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a whole map value.
    let flow = unsafe { &*flow };
    if flow.flags & FLOW_NAMELESS != 0 {
        return 0;
    }
    if scratch.vip.flags & VIP_TELL_TICKETS == 0 {
        return set_name(scratch, &flow.offered_bytes, 0) as i32;
    }
    let mut entered = 0;
    for i in 0..limit::<{ LAYOUTS as i32 }>() {
        if set_name(scratch, &flow.offered_bytes, LAYOUTS - 1 - i) {
            entered = 1;
            // SAFETY: only asked whether it is there.
            if unsafe { KEY_NAMES.get(&scratch.session) }.is_none() {
                break;
            }
        }
    }
    entered
}

/// Places of the lookup table that a search looks at: of twenty backends of one weight it misses
/// the last one in 4 of 100 cases.
const DRAWS: i32 = 64;
/// Slots between them: prime to the table's size.
const STRIDE: u32 = 2053;

/// The ticket's key name is not known. Where backends are known to change their keys, the one of
/// which that is the most likely is tried first; else the first backend, then the likely ones, then
/// any that did not reject the name yet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search(flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else {
        return first(Counter::TicketMiss);
    };
    // SAFETY: not null, a whole map value that this CPU has locked.
    let flow = unsafe { &mut *flow };
    if set_search(flow) == 0 {
        return first(Counter::TicketMiss);
    }
    let tried = tried(scratch);
    let at_first = tried & backend_bit(flow.first) != 0;
    if decide::search_is_over(tried) {
        return first(if at_first { Counter::KeyNameGivenUp } else { Counter::TicketMiss });
    }
    let likely = likely(tried) as u16;
    let is_due = rotation(scratch.vip.id).is_some_and(|rotation| rotation.changes != 0);
    if likely != NO_BACKEND && likely != flow.first && (is_due || at_first) {
        count(if is_due { Counter::KeyNameDue } else { Counter::KeyNameSearch });
        return likely as i32;
    }
    if !at_first {
        return first(Counter::TicketMiss);
    }
    let mut slot = decide::slot(&scratch.vip, &scratch.key.client, scratch.key.client_port);
    for _ in 0..limit::<DRAWS>() {
        slot = slot.wrapping_add(STRIDE) % LOOKUP_SLOTS;
        let id =
            LOOKUP.get(scratch.vip.lookup_base.wrapping_add(slot)).copied().unwrap_or(NO_BACKEND);
        if id != NO_BACKEND && tried & backend_bit(id) == 0 && is_up(id) {
            count(Counter::KeyNameSearch);
            return id as i32;
        }
    }
    first(Counter::KeyNameGivenUp)
}

/// The backends that rejected tickets of the name in `scratch.session`.
#[inline(always)]
fn tried(scratch: &Scratch) -> u64 {
    // SAFETY: copied at once.
    unsafe { KEY_NAME_TRIES.get(&scratch.session) }.map_or(0, |tries| tries.tried)
}

/// The backend of the pool that a ticket of an unknown name is most likely of, of those that did
/// not reject it, or [`NO_BACKEND`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn likely(tried: u64) -> u32 {
    let Some(scratch) = scratch() else { return NO_BACKEND as u32 };
    let Some(known) = rotation(scratch.vip.id) else { return NO_BACKEND as u32 };
    let (mut best, mut most) = (NO_BACKEND as u32, 0);
    for i in 0..limit::<{ ROTATION_BACKENDS as i32 }>() {
        let this = &known.backends[i as usize % ROTATION_BACKENDS];
        let overdue = this.overdue();
        if overdue > most && tried & backend_bit(this.id()) == 0 && is_guess(scratch, this.id()) {
            (best, most) = (this.id() as u32, overdue);
        }
    }
    best
}

/// Whether a flow may be moved to a backend on a guess.
#[inline(always)]
fn is_guess(scratch: &Scratch, id: u16) -> bool {
    takes_new_sessions(id, scratch.vip.id) && !holds_back(id, Offer::KeyName, scratch.seconds)
}

/// Whether a backend of a VIP is up and may get clients that have no session there.
#[inline(always)]
fn takes_new_sessions(id: u16, vip: u16) -> bool {
    const STATES: u16 = BACKEND_PRESENT | BACKEND_UP | BACKEND_DRAINING;
    backend(id as u32).is_some_and(|backend| {
        backend.vip_id == vip
            && backend.flags & STATES == BACKEND_PRESENT | BACKEND_UP
            && backend.weight != 0
    })
}
