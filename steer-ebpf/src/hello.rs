//! Decides whose a flow is by what its hello offers: the hello is read whole, from the packet or from the buffer, and
//! each identifier in it is looked up in turn.

use core::mem::offset_of;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::{
    counters::Counter,
    decide::{self, Verdict},
    session::{Kind, NameLayout},
    shared::{
        FLOW_ECH, FLOW_HELLO, FLOW_HIT, FLOW_NAMED, FLOW_OFFERED, Flow, LOOKUP_SLOTS, NO_BACKEND, NO_PSK, PENDING_MAX,
        PENDING_SLACK, Pending, SessionKey, Vip,
    },
    wire::tls::{
        Version,
        client_hello::{
            self, FRAMING_STEPS, Framing, HELLO_STEPS, Joined, PSK_IDENTITIES, SESSION_ID_AT, STREAM, Start, Stream,
            Walk, word,
        },
    },
};

use crate::{
    client::is_up,
    maps::{
        KEY_NAME_TRIES, KEY_NAMES, LOOKUP, SESSIONS, Scratch, backend, count, count_backend, joined, scratch, spare,
    },
    verifier::{limit, size},
};

/// What is said of a hello: an owner's number, or one of these.
pub(crate) mod said {
    /// Too few bytes; `scratch.needed` says how many it takes.
    pub(crate) const NEED_MORE: i32 = 0x2_0000;
    /// The first backend; the counter's index in the lower 16 bits is the reason.
    pub(crate) const FIRST: i32 = 0x1_0000;
    /// An identifier is not known.
    pub(super) const UNKNOWN: i32 = 0x4_0000;
}

const _: () = assert!(STREAM == PENDING_MAX + PENDING_SLACK, "a hello is read where it is buffered");

fn first(reason: Counter) -> i32 {
    said::FIRST | reason as i32
}

/// What was said, as the state machine wants it.
#[inline(always)]
pub(crate) fn verdict(said: i32) -> Verdict {
    match said {
        first if first & said::FIRST != 0 => Verdict::First(reason(first as u32 & 0xffff)),
        said::NEED_MORE => Verdict::NeedMore,
        owner => Verdict::Owner(owner as u16),
    }
}

/// The reasons that are given here.
#[inline(always)]
fn reason(index: u32) -> Counter {
    const REASONS: [Counter; 13] = [
        Counter::NotTls,
        Counter::HelloMalformed,
        Counter::HelloNoSession,
        Counter::SessionMiss,
        Counter::SessionExpired,
        Counter::SessionHit,
        Counter::TicketMiss,
        Counter::KeyNameShared,
        Counter::KeyNameGivenUp,
        Counter::OwnerDown,
        Counter::OwnerDrained,
        Counter::HelloCut,
        Counter::Bypassed,
    ];
    let mut found = Counter::SessionMiss;
    for counter in REASONS {
        if counter as u32 == index {
            found = counter;
        }
    }
    found
}

/// Decides on the client's first `len` bytes, which lie at `from` of the packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn decide_packet(skb: *mut __sk_buff, flow: *mut Flow, from: u32, len: u32) -> i32 {
    let (Some(text), false) = (spare(), flow.is_null()) else { return said::NEED_MORE };
    let have = if len as usize > STREAM { STREAM } else { len as usize };
    let Some(n) = size::<STREAM>(have) else { return said::NEED_MORE };
    // SAFETY: at most the array's size.
    if unsafe { bpf_skb_load_bytes(skb.cast(), from, (&raw mut (*text).data).cast(), n) } != 0 {
        return said::NEED_MORE;
    }
    decide_hello(flow, text, n, 0)
}

/// Decides on the first `have` bytes of the client's stream, which lie in `text`; with `last` there will be no more.
/// The flow is locked; what the hello offers is noted in it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn decide_hello(flow: *mut Flow, text: *mut Pending, have: u32, last: u32) -> i32 {
    let (Some(scratch), false, false) = (scratch(), flow.is_null(), text.is_null()) else { return said::NEED_MORE };
    if have as usize > STREAM {
        return said::NEED_MORE;
    }
    scratch.needed = 0;
    scratch.in_joined = 0;
    let how = read_hello(text, have);
    if how == HELLO_NOT_TLS {
        return first(Counter::NotTls);
    }
    if how == HELLO_MALFORMED {
        count(Counter::Hello);
        return first(Counter::HelloMalformed);
    }
    // SAFETY: not null, a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    let whole = how == HELLO_WHOLE;
    if !whole && last == 0 {
        return early(flow, text, have);
    }
    record.offered_kind = 0;
    record.flags &= !FLOW_OFFERED;
    let owner = find_owner(flow, text);
    record.flags |= FLOW_HELLO;
    count(Counter::Hello);
    if whole {
        return owner;
    }
    // What was missing might have said more: only an owner counts.
    if owner & said::FIRST != 0 {
        return first(Counter::HelloCut);
    }
    count(Counter::HelloCut);
    owner
}

/// A hello that is not whole yet. Its session ID comes first, and where that is known nothing behind it could say
/// otherwise: a client with a ticket makes its ID up.
#[inline(always)]
fn early(flow: *mut Flow, text: *mut Pending, have: u32) -> i32 {
    let Some(scratch) = scratch() else { return said::NEED_MORE };
    const WITH_ID: u32 = SESSION_ID_AT as u32 + 32;
    // SAFETY: not null, checked by the caller.
    let len = client_hello::early_session_id(unsafe { &(*text).data }, have);
    if have < WITH_ID && (scratch.needed > WITH_ID || scratch.needed == 0) {
        scratch.needed = if have == 0 || have < SESSION_ID_AT as u32 { have + 1 } else { WITH_ID };
    }
    if len == 0 {
        return said::NEED_MORE;
    }
    let found = look_up(flow, text, SESSION_ID_AT as u32, len, Kind::SessionId as u32);
    if found == said::UNKNOWN {
        return said::NEED_MORE;
    }
    offer(flow, text, SESSION_ID_AT as u32, len, Kind::SessionId as u32);
    // SAFETY: not null, a whole map value that this CPU has locked.
    unsafe { (*flow).flags |= FLOW_HELLO | FLOW_OFFERED };
    count(Counter::Hello);
    found
}

const HELLO_WHOLE: i32 = 0;
const HELLO_CUT: i32 = 1;
const HELLO_MALFORMED: i32 = 2;
const HELLO_NOT_TLS: i32 = 3;

/// Reads the hello at the start of `text` into `scratch.hello`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_hello(text: *mut Pending, have: u32) -> i32 {
    let (Some(scratch), false) = (scratch(), text.is_null()) else { return HELLO_CUT };
    scratch.hello = client_hello::Hello::default();
    // SAFETY: not null, a whole map value.
    match client_hello::start(unsafe { &(*text).data }, have) {
        Start::NeedMore => HELLO_CUT,
        Start::NotTls => HELLO_NOT_TLS,
        Start::Malformed => HELLO_MALFORMED,
        Start::OneRecord { len } => {
            const BASE: u32 = steer_common::wire::tls::RECORD_HEADER as u32;
            scratch.needed = BASE + len;
            walk(text, BASE, len, have)
        }
        Start::Split => {
            scratch.framing = Framing { have, ..Framing::default() };
            scratch.in_joined = 1;
            for _ in 0..limit::<{ FRAMING_STEPS as i32 }>() {
                match framing_step(text) {
                    JOINED_MORE => {}
                    JOINED_MALFORMED => return HELLO_MALFORMED,
                    _ => break,
                }
            }
            scratch.needed = scratch.framing.needed;
            let Some(joined) = joined() else { return HELLO_CUT };
            let (len, got) = (scratch.framing.len, scratch.framing.joined);
            if len == 0 {
                return HELLO_CUT;
            }
            walk(joined, 0, len, got)
        }
    }
}

const JOINED_MORE: i32 = 0;
const JOINED_END: i32 = 1;
const JOINED_MALFORMED: i32 = 2;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn framing_step(text: *mut Pending) -> i32 {
    let (Some(scratch), Some(joined), false) = (scratch(), joined(), text.is_null()) else { return JOINED_END };
    // SAFETY: not null, whole map values, and different ones.
    match scratch.framing.step(unsafe { &(*text).data }, unsafe { &mut (*joined).data }) {
        Joined::More => JOINED_MORE,
        Joined::Whole | Joined::NeedMore => JOINED_END,
        Joined::Malformed => JOINED_MALFORMED,
    }
}

/// Walks over the message of `len` bytes at `base` of `text`, which ends at `end` at the latest.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk(text: *mut Pending, base: u32, len: u32, end: u32) -> i32 {
    let (Some(scratch), false) = (scratch(), text.is_null()) else { return HELLO_CUT };
    if base > PENDING_SLACK as u32 || len > 1 << 24 || end > STREAM as u32 {
        return HELLO_MALFORMED;
    }
    scratch.hello.begin(base, len, end);
    let mut step = WALK_MORE;
    for _ in 0..limit::<{ HELLO_STEPS as i32 }>() {
        if step != WALK_MORE {
            break;
        }
        step = walk_step(text);
    }
    match step {
        WALK_DONE => HELLO_WHOLE,
        WALK_CUT => HELLO_CUT,
        WALK_MALFORMED => HELLO_MALFORMED,
        // More than any hello that we know: what was found counts.
        _ => HELLO_WHOLE,
    }
}

const WALK_MORE: i32 = 0;
const WALK_DONE: i32 = 1;
const WALK_CUT: i32 = 2;
const WALK_MALFORMED: i32 = 3;

#[inline(always)]
fn walked(walk: Walk) -> i32 {
    match walk {
        Walk::More => WALK_MORE,
        Walk::Done => WALK_DONE,
        Walk::Cut => WALK_CUT,
        Walk::Malformed => WALK_MALFORMED,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_step(text: *mut Pending) -> i32 {
    let (Some(scratch), false) = (scratch(), text.is_null()) else { return WALK_CUT };
    // SAFETY: not null, a whole map value.
    walked(scratch.hello.step(unsafe { &(*text).data }))
}

/// The name layout of a VIP's tickets.
#[inline(always)]
pub(crate) fn layout(vip: &Vip) -> NameLayout {
    NameLayout { at: vip.name_at & 31, len: vip.name_len }
}

/// Looks up what the hello in `scratch.hello` offers, in this order: the ticket, its key's name, the PSK identities and
/// their keys' names, the session ID.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_owner(flow: *mut Flow, text: *mut Pending) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return said::NEED_MORE };
    // What was joined lies elsewhere.
    let text = if scratch.in_joined != 0 { joined() } else { Some(text) };
    let Some(text) = text.filter(|text| !text.is_null()) else { return said::NEED_MORE };
    let mut flags = 0;
    if scratch.hello.ech != 0 {
        flags |= FLOW_ECH;
    }
    let mut unknown = Counter::HelloNoSession;
    let ticket = scratch.hello.ticket;
    if scratch.hello.at_hand(ticket, 32) {
        flags |= FLOW_OFFERED;
        unknown = Counter::TicketMiss;
        let found = look_up_ticket(flow, text, ticket.at, ticket.len, NO_PSK as u32);
        if found != said::UNKNOWN {
            note(flow, flags);
            return found;
        }
    }
    for i in 0..PSK_IDENTITIES {
        let psk = scratch.hello.psk[i];
        if !scratch.hello.at_hand(psk, 32) {
            continue;
        }
        flags |= FLOW_OFFERED;
        unknown = Counter::TicketMiss;
        let found = look_up_ticket(flow, text, psk.at, psk.len, i as u32);
        if found != said::UNKNOWN {
            note(flow, flags);
            return found;
        }
    }
    let id = scratch.hello.session_id;
    if id.len != 0 {
        let found = look_up(flow, text, id.at, id.len, Kind::SessionId as u32);
        // One that speaks TLS 1.3 sends an ID whether it has a session or not (RFC 8446 D.4).
        if found != said::UNKNOWN || scratch.hello.version_offered() < Version::Tls13 as u16 {
            flags |= FLOW_OFFERED;
        }
        if found != said::UNKNOWN || unknown as u32 == Counter::HelloNoSession as u32 {
            offer(flow, text, id.at, id.len, Kind::SessionId as u32);
            unknown = Counter::SessionMiss;
        }
        if found != said::UNKNOWN {
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

#[inline(always)]
fn note(flow: *mut Flow, flags: u16) {
    // SAFETY: not null, a whole map value that this CPU has locked.
    unsafe { (*flow).flags |= flags };
}

/// Looks up a ticket of `len` bytes at `at` of `text`, by itself and by its key's name. `index` is that of the PSK
/// identity that it is, or [`NO_PSK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_up_ticket(flow: *mut Flow, text: *mut Pending, at: u32, len: u32, index: u32) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return said::UNKNOWN };
    let layout = layout(&scratch.vip);
    let mut found = said::UNKNOWN;
    // Those of TLS 1.3 are known by themselves only where they have no name: clients offer each once.
    if index == NO_PSK as u32 || layout.len == 0 {
        found = look_up(flow, text, at, len, Kind::Ticket as u32);
    }
    if found == said::UNKNOWN && layout.fits(len) {
        found = look_up(flow, text, at + layout.at as u32, layout.len as u32, Kind::KeyName as u32);
    }
    // SAFETY: not null, a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    if found != said::UNKNOWN || record.offered_kind == 0 {
        offer(flow, text, at, len, Kind::Ticket as u32);
        record.offered_index = index as u16;
    }
    found
}

/// Copies the first bytes of an identifier of `len` bytes at `at`; returns how many they are.
#[inline(always)]
fn identifier(text: &Stream, at: u32, len: u32, to: &mut [u8; 32]) -> u8 {
    let len = if len > 32 { 32 } else { len };
    for i in 0..limit::<8>() {
        // SAFETY: `i` is below 8, and both arrays that are written stand at multiples of four (checked below).
        unsafe { to.as_mut_ptr().cast::<u32>().add(i as usize).write(word(text, at, len, i)) };
    }
    len as u8
}

const _: () = assert!(offset_of!(SessionKey, bytes) % 4 == 0 && align_of::<SessionKey>() % 4 == 0);
const _: () = assert!(offset_of!(Flow, offered_bytes) % 4 == 0 && align_of::<Flow>() % 4 == 0);

/// Notes an identifier of the client in its flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn offer(flow: *mut Flow, text: *mut Pending, at: u32, len: u32, kind: u32) -> i32 {
    if flow.is_null() || text.is_null() || at as usize > STREAM {
        return 0;
    }
    // SAFETY: not null, whole map values; this CPU has the flow locked.
    let (flow, text) = unsafe { (&mut *flow, &(*text).data) };
    flow.offered_kind = kind as u8;
    flow.offered_len = identifier(text, at, len, &mut flow.offered_bytes);
    flow.offered_index = NO_PSK;
    0
}

/// Looks up one identifier, at `at` of `text`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_up(flow: *mut Flow, text: *mut Pending, at: u32, len: u32, kind: u32) -> i32 {
    let (Some(scratch), false, false) = (scratch(), flow.is_null(), text.is_null()) else { return said::UNKNOWN };
    if at as usize > STREAM || len == 0 {
        return said::UNKNOWN;
    }
    scratch.session.vip = scratch.vip.id;
    scratch.session.kind = kind as u8;
    // SAFETY: not null, a whole map value.
    let text = unsafe { &(*text).data };
    scratch.session.len = identifier(text, at, len, &mut scratch.session.bytes);
    // SAFETY: not null, a whole map value that this CPU has locked.
    let flow = unsafe { &mut *flow };
    let seconds = scratch.facts.seconds;
    let (owner, verdict);
    if kind == Kind::KeyName as u32 {
        let Some(name) = KEY_NAMES.get_ptr_mut(&scratch.session) else { return said::UNKNOWN };
        // SAFETY: a map value; a lost race costs one hit.
        let name = unsafe { &mut *name };
        owner = name.owner;
        let Some(backend) = backend(owner as u32) else { return first(Counter::OwnerDown) };
        verdict = decide::key_name(name, backend, &scratch.vip, flow.first, seconds);
        name.hits = name.hits.wrapping_add(1);
        flow.flags |= FLOW_NAMED;
        count(Counter::KeyNameHit);
    } else {
        // SAFETY: copied at once.
        let Some(session) = (unsafe { SESSIONS.get(&scratch.session) }) else { return said::UNKNOWN };
        let session = *session;
        owner = session.owner;
        let Some(backend) = backend(owner as u32) else { return first(Counter::OwnerDown) };
        verdict = decide::session(&session, backend, &scratch.vip, flow.first, seconds);
    }
    flow.flags |= FLOW_HIT;
    count_backend(owner as u32, |stats| stats.hits += 1);
    match verdict {
        Verdict::NeedMore => said::NEED_MORE,
        Verdict::First(reason) => first(reason),
        Verdict::Owner(owner) => owner as i32,
    }
}

/// Enters the key name of the ticket that the flow's client offered; false where it has none.
#[inline(always)]
pub(crate) fn enter_name(scratch: &mut Scratch, ticket: &[u8; 32], len: u32) -> bool {
    let layout = layout(&scratch.vip);
    if !layout.fits(len) || layout.at as u32 + layout.len as u32 > 32 {
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

/// Backends of the lookup table that a search looks at.
const CANDIDATES: i32 = 12;
/// Slots between them: prime to the table's size.
const STRIDE: u32 = 2053;

/// The ticket's key name is not known. The first backend gets it, unless it rejected that name before: then another one
/// that did not, until all have been tried.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search(flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return first(Counter::TicketMiss) };
    // SAFETY: not null, a whole map value that this CPU has locked.
    let flow = unsafe { &mut *flow };
    if !enter_name(scratch, &flow.offered_bytes, flow.offered_len as u32) {
        return first(Counter::TicketMiss);
    }
    let Some(tries) = KEY_NAME_TRIES.get_ptr_mut(&scratch.session) else { return first(Counter::TicketMiss) };
    // SAFETY: a map value; a lost race costs one try.
    let tried = unsafe { &(*tries).tried };
    if !decide::was_tried(tried, flow.first) {
        return first(Counter::TicketMiss);
    }
    if decide::search_is_over(tried) {
        return first(Counter::KeyNameGivenUp);
    }
    let start = decide::slot(&scratch.vip, &scratch.key.client, scratch.key.client_port);
    let mut slot = start;
    for _ in 0..limit::<CANDIDATES>() {
        slot = slot.wrapping_add(STRIDE) % LOOKUP_SLOTS;
        let id = LOOKUP.get(scratch.vip.lookup_base.wrapping_add(slot)).copied().unwrap_or(NO_BACKEND);
        if id != NO_BACKEND && id != flow.first && !decide::was_tried(tried, id) && is_up(id) {
            count(Counter::KeyNameSearch);
            return id as i32;
        }
    }
    first(Counter::KeyNameGivenUp)
}
