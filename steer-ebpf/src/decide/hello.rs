//! Decides whose a flow is by what its client's hello offers ([`offers`]): in the packet, or in
//! what is buffered of the stream ([`read_hello`]).
//!
//! [`offers`]: crate::offers
//! [`read_hello`]: crate::read_hello

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::{
    counters::Counter,
    flow::StateWord,
    session::SESSION_ID_MAX,
    shared::{
        FLOW_AT_OWNER, FLOW_ECH, FLOW_HELLO, FLOW_HIT, FLOW_NAMED, FLOW_OFFERED, FLOW_SECOND_HELLO,
        Flow, Pending, VIP_OBSERVE,
    },
    wire::{
        Packet as _, byte,
        tls::client_hello::{self, SESSION_ID_AT, STREAM},
    },
};

use crate::{
    decide::{
        offers::{find_owner, identifier, look_up_id, offer_again, set_id},
        read_hello::{
            HELLO_MALFORMED, HELLO_NOT_TLS, HELLO_WHOLE, Preamble, read_hello, skip_preamble,
        },
        verdict::{code, first},
    },
    flows::{
        lock::{self, mark, unmark},
        table::{bypass, nothing_to_learn, settle_at, settle_for},
    },
    hook::{Hook as _, Window, tc::Tc},
    learn::certificate::{
        load, record_hello_end, record_hello_end_behind, record_hello_end_in, set_hello_end,
    },
    maps::{PENDING, count},
    scratch::{Input, Scratch, StreamRange, scratch, spare},
    stage::{Stage, drop},
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

/// Reads the client's second hello, which its backend asked for, where the segment at hand has it:
/// behind the first one, and behind a ChangeCipherSpec that some send in between (RFC 8446 D.4). Of
/// several copies that could differ nothing is learned.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn hear_second_hello(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    /// A ChangeCipherSpec with its record header, bytes.
    const CHANGE_CIPHER_SPEC: u32 = 6;
    const CHANGE_CIPHER_SPEC_TYPE: u8 = 20;
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a whole map value.
    let record = unsafe { &mut *flow };
    let first_end = StateWord(record.word).isn().wrapping_add(1).wrapping_add(record.hello_len);
    let mut from = scratch.payload_at();
    let mut len = scratch.payload_len();
    let mut at = scratch.segment.seq.wrapping_sub(first_end);
    let Some([kind]) = load::<1>(skb, from) else { return 0 };
    if at == 0 && kind == CHANGE_CIPHER_SPEC_TYPE {
        if len <= CHANGE_CIPHER_SPEC {
            return 0;
        }
        from += CHANGE_CIPHER_SPEC;
        len -= CHANGE_CIPHER_SPEC;
        at = CHANGE_CIPHER_SPEC;
    }
    if at != 0 && at != CHANGE_CIPHER_SPEC {
        return 0;
    }
    record.offered_kind = 0;
    if record.flags & FLOW_SECOND_HELLO != 0 {
        return 0;
    }
    mark(flow, FLOW_SECOND_HELLO);
    let read = second_hello(skb, flow, from, len) != 0;
    count(if read { Counter::SecondHello } else { Counter::SecondHelloUnread });
    0
}

/// What follows from what was said of a flow's first data: it is to be held, or the flow is settled
/// and unlocked.
#[inline(always)]
pub(crate) fn decided(scratch: &Scratch, flow: *mut Flow) -> Stage {
    let (verdict, bypass) = (scratch.range.verdict, bypass());
    let reason = if verdict & code::FIRST != 0 {
        verdict as u32 & 0xffff
    } else if bypass {
        Counter::Bypassed as u32
    } else if scratch.vip.flags & VIP_OBSERVE == 0 {
        return Stage::Data;
    } else if verdict == code::NEED_MORE {
        Counter::HelloCut as u32
    } else {
        Counter::Observed as u32
    };
    if reason == Counter::Observed as u32 {
        settle_at(flow, reason, verdict as u32);
    } else {
        settle_for(flow, reason);
    }
    if reason == Counter::NotTls as u32 {
        nothing_to_learn(flow);
    }
    Stage::Forward
}
