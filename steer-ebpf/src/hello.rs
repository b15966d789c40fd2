//! Decides whose a flow is by what its client's hello offers ([`offers`]): in the packet, or in
//! what is buffered of the stream ([`read_hello`]).
//!
//! [`offers`]: crate::offers
//! [`read_hello`]: crate::read_hello

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::{
    counters::Counter,
    session::SESSION_ID_MAX,
    shared::{
        FLOW_AT_OWNER, FLOW_ECH, FLOW_HELLO, FLOW_HIT, FLOW_NAMED, FLOW_OFFERED, Flow, Pending,
    },
    wire::{
        Packet as _, byte,
        tls::client_hello::{self, SESSION_ID_AT, STREAM},
    },
};

use crate::{
    certificate::{record_hello_end, record_hello_end_behind, record_hello_end_in, set_hello_end},
    hook::{Hook as _, Window, tc::Tc},
    lock::{self, unmark},
    maps::{Input, PENDING, Scratch, StreamRange, count, scratch, spare},
    offers::{find_owner, identifier, look_up_id, offer_again, set_id},
    read_hello::{
        HELLO_MALFORMED, HELLO_NOT_TLS, HELLO_WHOLE, Preamble, read_hello, skip_preamble,
    },
    rehome::decided,
    stage::{Stage, drop},
    verdict::{code, first},
    verifier::size,
};

/// Forgets what a look at the client's hello found before: another copy of it may say something
/// else.
#[inline(always)]
fn forget_offer(flow: *mut Flow) {
    const OFFER: u32 = FLOW_HIT | FLOW_NAMED | FLOW_AT_OWNER | FLOW_ECH | FLOW_OFFERED;
    // SAFETY: callers hold a pointer to a whole map value; a word is read.
    if unsafe { (*flow).flags } & OFFER != 0 {
        unmark(flow, OFFER);
    }
}

/// Looks at the client's first bytes in the packet, `scratch.range`, for a session ID that is
/// known, which decides; else copies them. Whether they are to be decided on.
#[inline(always)]
pub(crate) fn look_at_packet(skb: *mut __sk_buff, flow: *mut Flow, scratch: &mut Scratch) -> bool {
    let (Some(text), false) = (spare(), flow.is_null()) else { return false };
    // SAFETY: not null, a whole map value that this CPU has locked.
    let flow = unsafe { &mut *flow };
    let StreamRange { from, len, .. } = scratch.range;
    scratch.id_unknown = 0;
    forget_offer(flow);
    let verdict = id_in_packet(&Tc(skb).window(), scratch, flow, from, len);
    if verdict != code::UNKNOWN {
        scratch.range.verdict = verdict;
        return false;
    }
    let have = if len as usize > STREAM { STREAM } else { len as usize };
    let Some(n) = size::<STREAM>(have) else { return false };
    // SAFETY: at most the array's size.
    if unsafe { bpf_skb_load_bytes(skb.cast(), from, (&raw mut (*text).data).cast(), n) } != 0 {
        return false;
    }
    // SAFETY: a whole map value.
    record_hello_end_in(flow, unsafe { &(*text).data }, n);
    scratch.range.have = n;
    true
}

/// As [`early`], of an ID of full length in the packet's linear bytes, where it needs not be copied
/// first.
#[inline(always)]
fn id_in_packet(
    window: &Window,
    scratch: &mut Scratch,
    flow: &mut Flow,
    from: u32,
    len: u32,
) -> i32 {
    const HEAD: usize = SESSION_ID_AT / 4;
    const _: () = assert!(SESSION_ID_AT.is_multiple_of(4), "an ID stands in words of its own");
    let Some(head) = window.words::<HEAD>(from as usize) else { return code::UNKNOWN };
    record_hello_end(flow, &core::array::from_fn(|at| byte(head[at / 4], at as u32 % 4)), len);
    if client_hello::early_session_id(|at| byte(head[at / 4], at as u32 % 4), len)
        != SESSION_ID_MAX as u32
    {
        return code::UNKNOWN;
    }
    let Some(id) = window.words::<{ SESSION_ID_MAX / 4 }>(from as usize + SESSION_ID_AT) else {
        return code::UNKNOWN;
    };
    for i in 0..SESSION_ID_MAX / 4 {
        set_id(scratch, i, id[i]);
    }
    look_up_id(scratch, flow, SESSION_ID_MAX as u8)
}

/// Decides on the bytes that `scratch.range.input` names; what is said of them goes to
/// `scratch.range.verdict`. Says what is next.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn decide(flow: *mut Flow) -> Stage {
    let Some(scratch) = scratch() else { return Stage::Drop };
    if !lock::is_held(flow, scratch.held) {
        return drop(Counter::FlowBusy);
    }
    forget_offer(flow);
    let (look, have) = (scratch.range.input, scratch.range.have);
    let buffered = look != Input::Packet as u32;
    let text = if buffered { PENDING.get_ptr_mut(&scratch.key) } else { spare() };
    if buffered {
        scratch.id_unknown = 0;
    }
    scratch.preamble = 0;
    scratch.range.verdict = match text.map(|text| skip_preamble(scratch, text, have)) {
        Some(Preamble::Skipped { text, have }) => {
            decide_hello(scratch, flow, text, have, look == Input::Last as u32)
        }
        Some(Preamble::NeedMore) => {
            scratch.needed = have + 1;
            code::NEED_MORE
        }
        None => code::NEED_MORE,
    };
    if scratch.needed != 0 {
        scratch.needed += scratch.preamble;
    }
    if !buffered {
        return decided(scratch, flow);
    }
    if look == Input::Last as u32 {
        return Stage::StopGathering;
    }
    if let Some(buffer) = text {
        // SAFETY: a whole map value; the flow that it belongs to is locked.
        unsafe { (*buffer).needed = scratch.needed };
    }
    Stage::Buffered
}

/// Decides on the first `have` bytes of the client's stream, which lie in `text`; with `last` there
/// will be no more. The flow is locked; what the hello offers is noted in it.
#[inline(always)]
fn decide_hello(
    scratch: *mut Scratch,
    flow: *mut Flow,
    text: *mut Pending,
    have: u32,
    last: bool,
) -> i32 {
    // SAFETY: the caller's.
    let scratch = unsafe { &mut *scratch };
    if have as usize > STREAM {
        return code::NEED_MORE;
    }
    scratch.needed = 0;
    scratch.in_joined = 0;
    if scratch.preamble != 0 {
        record_hello_end_behind(flow, text, have, scratch.preamble);
    }
    if scratch.id_unknown == 0 {
        let found = early(flow, text, have);
        if found != code::UNKNOWN {
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
        return code::NEED_MORE;
    }
    record.offered_kind = 0;
    let owner = find_owner(scratch, flow, text);
    record.flags |= FLOW_HELLO;
    count(Counter::Hello);
    if whole {
        if scratch.in_joined != 0 {
            record.hello_len = scratch.framing.at + scratch.preamble;
            set_hello_end(record, have + scratch.preamble);
        }
        return owner;
    }
    // What was missing might have said more: only an owner counts.
    if owner & code::FIRST != 0 {
        return first(Counter::HelloCut);
    }
    count(Counter::HelloCut);
    owner
}

/// Notes what the client's second hello offers (RFC 8446 4.1.2), which is the segment at hand from
/// `from` on, `len` bytes. 1 where it could be read: it must lie there whole. It decides on
/// nothing, for the flow has its backend.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn second_hello(
    skb: *mut __sk_buff,
    flow: *mut Flow,
    from: u32,
    len: u32,
) -> i32 {
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

/// The session ID comes first, and where it is known nothing behind it could say otherwise: a
/// client with a ticket makes its ID up. So it is looked up before the hello is read, whole or not.
#[inline(always)]
fn early(flow: *mut Flow, text: *mut Pending, have: u32) -> i32 {
    let Some(scratch) = scratch() else { return code::UNKNOWN };
    // SAFETY: not null, checked by the caller; this CPU has the flow locked.
    let (flow, text) = unsafe { (&mut *flow, &(*text).data) };
    let len = client_hello::early_session_id(|at| text[at], have);
    if len == 0 {
        return code::UNKNOWN;
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
