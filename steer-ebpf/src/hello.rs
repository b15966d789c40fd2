//! Reads a hello, from the packet or from the buffer, and decides whose its flow is by what it offers ([`offers`]).
//!
//! [`offers`]: crate::offers

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_probe_read_kernel, bpf_skb_load_bytes},
};
use steer_common::{
    counters::Counter,
    decide::Verdict,
    session::SESSION_ID_MAX,
    shared::{
        FLOW_AT_OWNER, FLOW_ECH, FLOW_HELLO, FLOW_HIT, FLOW_NAMED, FLOW_OFFERED, Flow, PENDING_MAX, PENDING_SLACK,
        Pending,
    },
    wire::{
        Packet as _, byte, proxy,
        tls::client_hello::{self, FRAMING_STEPS, Framing, HELLO_STEPS, Joined, SESSION_ID_AT, STREAM, Start, Walk},
    },
};

use crate::{
    certificate::{expect_answer, expect_behind, expect_in, said_behind},
    hook::{Hook as _, Window, tc::Tc},
    lock::{self, unmark},
    maps::{Look, PENDING, Piece, Scratch, count, joined, scratch, shifted, spare},
    next::{self, drop},
    offers::{enter_id, find_owner, identifier, look_up_id, offer_again},
    rehome::decided,
    verifier::{limit, opaque, size},
};

/// What is said of a hello: an owner's number, or one of these.
pub(crate) mod said {
    /// Too few bytes; `scratch.needed` says how many it takes.
    pub(crate) const NEED_MORE: i32 = 0x2_0000;
    /// The first backend; the counter's index in the lower 16 bits is the reason.
    pub(crate) const FIRST: i32 = 0x1_0000;
    /// An identifier is not known.
    pub(crate) const UNKNOWN: i32 = 0x4_0000;
}

const _: () = assert!(STREAM == PENDING_MAX + PENDING_SLACK, "a hello is read where it is buffered");

/// The first backend, for this reason.
#[inline(always)]
pub(crate) fn first(reason: Counter) -> i32 {
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
    const REASONS: [Counter; 14] = [
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
        Counter::OwnerRefuses,
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

/// Forgets what a look at the client's hello found before: another copy of it may say something else.
#[inline(always)]
fn forget_offer(flow: *mut Flow) {
    const OFFER: u32 = FLOW_HIT | FLOW_NAMED | FLOW_AT_OWNER | FLOW_ECH | FLOW_OFFERED;
    // SAFETY: callers hold a pointer to a whole map value; a word is read.
    if unsafe { (*flow).flags } & OFFER != 0 {
        unmark(flow, OFFER);
    }
}

/// Looks at the client's first bytes in the packet, `scratch.piece`, for a session ID that is known, which decides; else
/// copies them. Whether they are to be decided on.
#[inline(always)]
pub(crate) fn look_at_packet(skb: *mut __sk_buff, flow: *mut Flow, scratch: &mut Scratch) -> bool {
    let (Some(text), false) = (spare(), flow.is_null()) else { return false };
    // SAFETY: not null, a whole map value that this CPU has locked.
    let flow = unsafe { &mut *flow };
    let Piece { from, len, .. } = scratch.piece;
    scratch.id_unknown = 0;
    forget_offer(flow);
    let said = id_in_packet(&Tc(skb).window(), scratch, flow, from, len);
    if said != said::UNKNOWN {
        scratch.piece.said = said;
        return false;
    }
    let have = if len as usize > STREAM { STREAM } else { len as usize };
    let Some(n) = size::<STREAM>(have) else { return false };
    // SAFETY: at most the array's size.
    if unsafe { bpf_skb_load_bytes(skb.cast(), from, (&raw mut (*text).data).cast(), n) } != 0 {
        return false;
    }
    // SAFETY: a whole map value.
    expect_in(flow, unsafe { &(*text).data }, n);
    scratch.piece.have = n;
    scratch.piece.look = Look::Packet as u32;
    true
}

/// As [`early`], of an ID of full length in the packet's linear bytes, where it needs not be copied first.
#[inline(always)]
fn id_in_packet(window: &Window, scratch: &mut Scratch, flow: &mut Flow, from: u32, len: u32) -> i32 {
    const HEAD: usize = SESSION_ID_AT / 4;
    const _: () = assert!(SESSION_ID_AT.is_multiple_of(4), "an ID stands in words of its own");
    let Some(head) = window.words::<HEAD>(from as usize) else { return said::UNKNOWN };
    expect_answer(flow, &core::array::from_fn(|at| byte(head[at / 4], at as u32 % 4)), len);
    if client_hello::early_session_id(|at| byte(head[at / 4], at as u32 % 4), len) != SESSION_ID_MAX as u32 {
        return said::UNKNOWN;
    }
    let Some(id) = window.words::<{ SESSION_ID_MAX / 4 }>(from as usize + SESSION_ID_AT) else { return said::UNKNOWN };
    for i in 0..SESSION_ID_MAX / 4 {
        enter_id(scratch, i, id[i]);
    }
    look_up_id(scratch, flow, SESSION_ID_MAX as u8)
}

/// Decides on the bytes that `scratch.piece.look` names; what is said of them goes to `scratch.piece.said`. Says what is
/// next.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn decide(flow: *mut Flow) -> i32 {
    let Some(scratch) = scratch() else { return next::DROP };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    forget_offer(flow);
    let (look, have) = (scratch.piece.look, scratch.piece.have);
    let buffered = look != Look::Packet as u32;
    let text = if buffered { PENDING.get_ptr_mut(&scratch.key) } else { spare() };
    if buffered {
        scratch.id_unknown = 0;
    }
    scratch.preamble = 0;
    scratch.piece.said = match text.map(|text| skip_preamble(scratch, text, have)) {
        Some(Preamble::Skipped { text, have }) => decide_hello(scratch, flow, text, have, look == Look::Last as u32),
        Some(Preamble::NeedMore) => {
            scratch.needed = have + 1;
            said::NEED_MORE
        }
        None => said::NEED_MORE,
    };
    if scratch.needed != 0 {
        scratch.needed += scratch.preamble;
    }
    if !buffered {
        return decided(scratch, flow);
    }
    if look == Look::Last as u32 {
        return next::EXIT;
    }
    if let Some(buffer) = text {
        // SAFETY: a whole map value; the flow that it belongs to is locked.
        unsafe { (*buffer).needed = scratch.needed };
    }
    next::HELD
}

/// What stands in front of a hello.
enum Preamble {
    /// Nothing that was not skipped: the hello begins with `text`, of which there are `have` bytes.
    Skipped { text: *mut Pending, have: u32 },
    /// Too little to tell.
    NeedMore,
}

/// Skips the header that a proxy or balancer put in front of the client's stream, whose first `have` bytes lie in `text`:
/// the hello behind it decides, and the header goes to whichever backend the flow goes to.
#[inline(always)]
fn skip_preamble(scratch: &mut Scratch, text: *mut Pending, have: u32) -> Preamble {
    const RECORD: u8 = 22;
    // SAFETY: a whole map value.
    if have == 0 || unsafe { (*text).data[0] } == RECORD {
        return Preamble::Skipped { text, have };
    }
    let len = preamble(text, have);
    if len == PREAMBLE_CUT {
        return Preamble::NeedMore;
    }
    let Some(shifted) = shifted() else { return Preamble::Skipped { text, have } };
    if len <= 0 || shift(shifted, text, len as u32, have) != 0 {
        return Preamble::Skipped { text, have };
    }
    scratch.preamble = len as u32;
    count(Counter::ProxyHeader);
    Preamble::Skipped { text: shifted, have: have - len as u32 }
}

const PREAMBLE_CUT: i32 = -1;

/// Length of the header of the PROXY protocol at the start of `text`, bytes; 0 where there is none, or [`PREAMBLE_CUT`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn preamble(text: *mut Pending, have: u32) -> i32 {
    if text.is_null() {
        return 0;
    }
    // SAFETY: not null, a whole map value.
    let text = unsafe { &(*text).data };
    match proxy::start(|at| text[at], have) {
        proxy::Start::Header { len } => len as i32,
        proxy::Start::NeedMore => PREAMBLE_CUT,
        proxy::Start::NotProxy | proxy::Start::Malformed => 0,
    }
}

/// Copies `text[len .. have]` to the start of `to`; 0, or -1.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shift(to: *mut Pending, text: *mut Pending, len: u32, have: u32) -> i32 {
    if to.is_null() || text.is_null() {
        return -1;
    }
    let from = opaque(len as usize);
    if from > proxy::HEADER_MAX as usize {
        return -1;
    }
    if have == len {
        return 0;
    }
    const LONGEST: usize = STREAM - proxy::HEADER_MAX as usize;
    let left = have.wrapping_sub(len) as usize;
    let Some(n) = size::<LONGEST>(if left > LONGEST { LONGEST } else { left }) else { return -1 };
    // SAFETY: `from + n` is at most the array's size; both are whole map values, and different ones.
    unsafe {
        let from = (&raw const (*text).data).cast::<u8>().add(from);
        bpf_probe_read_kernel((&raw mut (*to).data).cast(), n, from.cast()) as i32
    }
}

/// Decides on the first `have` bytes of the client's stream, which lie in `text`; with `last` there will be no more.
/// The flow is locked; what the hello offers is noted in it.
#[inline(always)]
fn decide_hello(scratch: *mut Scratch, flow: *mut Flow, text: *mut Pending, have: u32, last: bool) -> i32 {
    // SAFETY: the caller's.
    let scratch = unsafe { &mut *scratch };
    if have as usize > STREAM {
        return said::NEED_MORE;
    }
    scratch.needed = 0;
    scratch.in_joined = 0;
    if scratch.preamble != 0 {
        expect_behind(flow, text, have, scratch.preamble);
    }
    if scratch.id_unknown == 0 {
        let found = early(flow, text, have);
        if found != said::UNKNOWN {
            return found;
        }
    }
    let how = read_hello(scratch, text, have);
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
    if !whole && !last {
        need_id(scratch, have);
        return said::NEED_MORE;
    }
    record.offered_kind = 0;
    let owner = find_owner(scratch, flow, text);
    record.flags |= FLOW_HELLO;
    count(Counter::Hello);
    if whole {
        if scratch.in_joined != 0 {
            record.hello_len = scratch.framing.at + scratch.preamble;
            said_behind(record, have + scratch.preamble);
        }
        return owner;
    }
    // What was missing might have said more: only an owner counts.
    if owner & said::FIRST != 0 {
        return first(Counter::HelloCut);
    }
    count(Counter::HelloCut);
    owner
}

/// Notes what the client's second hello offers (RFC 8446 4.1.2), which is the segment at hand from `from` on, `len` bytes. 1
/// where it could be read: it must lie there whole. It decides on nothing, for the flow has its backend.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn second_hello(skb: *mut __sk_buff, flow: *mut Flow, from: u32, len: u32) -> i32 {
    let (Some(scratch), Some(text), false) = (scratch(), spare(), flow.is_null()) else { return 0 };
    let have = if len as usize > STREAM { STREAM } else { len as usize };
    let Some(n) = size::<STREAM>(have) else { return 0 };
    // SAFETY: at most the array's size.
    if unsafe { bpf_skb_load_bytes(skb.cast(), from, (&raw mut (*text).data).cast(), n) } != 0 {
        return 0;
    }
    scratch.needed = 0;
    scratch.in_joined = 0;
    if read_hello(scratch, text, n) != HELLO_WHOLE {
        return 0;
    }
    offer_again(scratch, flow, text);
    1
}

/// The session ID comes first, and where it is known nothing behind it could say otherwise: a client with a ticket makes
/// its ID up. So it is looked up before the hello is read, whole or not.
#[inline(always)]
fn early(flow: *mut Flow, text: *mut Pending, have: u32) -> i32 {
    let Some(scratch) = scratch() else { return said::UNKNOWN };
    // SAFETY: not null, checked by the caller; this CPU has the flow locked.
    let (flow, text) = unsafe { (&mut *flow, &(*text).data) };
    let len = client_hello::early_session_id(|at| text[at], have);
    if len == 0 {
        return said::UNKNOWN;
    }
    let len = identifier(text, SESSION_ID_AT as u32, len, &mut scratch.session.bytes);
    look_up_id(scratch, flow, len)
}

/// The next look at a hello that is not whole is worth it as soon as its session ID may be there.
#[inline(always)]
fn need_id(scratch: &mut Scratch, have: u32) {
    const WITH_ID: u32 = SESSION_ID_AT as u32 + 32;
    if have < WITH_ID && (scratch.needed > WITH_ID || scratch.needed == 0) {
        scratch.needed = if have < SESSION_ID_AT as u32 { have + 1 } else { WITH_ID };
    }
}

const HELLO_WHOLE: i32 = 0;
const HELLO_CUT: i32 = 1;
const HELLO_MALFORMED: i32 = 2;
const HELLO_NOT_TLS: i32 = 3;

/// Reads the hello at the start of `text` into `scratch.hello`.
#[inline(always)]
fn read_hello(scratch: *mut Scratch, text: *mut Pending, have: u32) -> i32 {
    // SAFETY: the caller's; whole map values.
    let (scratch, stream) = unsafe { (&mut *scratch, &(*text).data) };
    match client_hello::start(|at| stream[at], have) {
        Start::NeedMore => scratch.hello = client_hello::Hello::default(),
        Start::NotTls => return HELLO_NOT_TLS,
        Start::Malformed => return HELLO_MALFORMED,
        Start::OneRecord { len } => {
            const BASE: u32 = steer_common::wire::tls::RECORD_HEADER as u32;
            scratch.needed = BASE + len;
            scratch.hello.begin(BASE, len, have);
            return walk(text);
        }
        Start::Split => return join(text, have),
    }
    HELLO_CUT
}

/// Joins a hello that is split over records and reads it.
#[inline(always)]
fn join(text: *mut Pending, have: u32) -> i32 {
    let Some(scratch) = scratch() else { return HELLO_CUT };
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
    let (len, got) = (scratch.framing.len, scratch.framing.joined);
    scratch.hello.begin(0, len, got);
    match joined() {
        Some(joined) if len != 0 => walk(joined),
        _ => HELLO_CUT,
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

/// Walks over the message that `scratch.hello` begins at.
#[inline(always)]
fn walk(text: *mut Pending) -> i32 {
    let mut step = WALK_MORE;
    for _ in 0..limit::<{ HELLO_STEPS as i32 / STEPS_A_CALL }>() {
        if step != WALK_MORE {
            break;
        }
        step = walk_on(text);
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

/// Steps of a walk that one call takes: a call costs as much as a step.
const STEPS_A_CALL: i32 = 16;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_on(text: *mut Pending) -> i32 {
    let (Some(scratch), false) = (scratch(), text.is_null()) else { return WALK_CUT };
    for _ in 0..limit::<STEPS_A_CALL>() {
        // SAFETY: not null, a whole map value.
        match scratch.hello.step(unsafe { &(*text).data }) {
            Walk::More => {}
            Walk::Done => return WALK_DONE,
            Walk::Cut => return WALK_CUT,
            Walk::Malformed => return WALK_MALFORMED,
        }
    }
    WALK_MORE
}
