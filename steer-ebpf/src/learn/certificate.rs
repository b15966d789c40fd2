//! Looks for the client's answer to a CertificateRequest: behind its hello, in every copy that
//! passes until its backend has said what it issues.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    ranges,
    shared::{FLOW_LEARNED, FLOW_RETRIED, Flow, Pending},
    wire::{
        ip::Part,
        tls::{
            client_certificate::{ANSWER_LEN, Answer, HELLO_BYTES, Place, hello_len, place},
            client_hello::Stream,
            server_flight::GIVE_UP,
        },
    },
};

use crate::{
    flows::lock::mark,
    maps::{FLOWS, PENDING, count},
    packet::sums::is_sound,
    scratch::{Scratch, scratch},
};

/// Notes where the hello ends that begins with `first`; `have` bytes of its client's stream are
/// known.
#[inline(always)]
pub(crate) fn record_hello_end(flow: &mut Flow, first: &[u8; HELLO_BYTES], have: u32) {
    if flow.hello_len == 0 && have >= HELLO_BYTES as u32 {
        flow.hello_len = hello_len(first);
    }
    set_hello_end(flow, have);
}

/// As [`record_hello_end`], of a stream whose first `have` bytes lie in `text`.
#[inline(always)]
pub(crate) fn record_hello_end_in(flow: &mut Flow, text: &Stream, have: u32) {
    if let Some(first) = text.first_chunk() {
        record_hello_end(flow, first, have);
    }
}

/// As [`record_hello_end_in`], of a hello that stands behind `preamble` bytes in its client's
/// stream.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_hello_end_behind(
    flow: *mut Flow,
    text: *mut Pending,
    have: u32,
    preamble: u32,
) -> i32 {
    if flow.is_null() || text.is_null() {
        return 0;
    }
    // SAFETY: not null, whole map values; the flow is one that this CPU has locked.
    let (flow, text) = unsafe { (&mut *flow, &(*text).data) };
    if let Some(first) = text.first_chunk()
        && flow.hello_len == 0
        && have >= HELLO_BYTES as u32
    {
        let len = hello_len(first);
        flow.hello_len = if len == 0 { 0 } else { len + preamble };
    }
    set_hello_end(flow, have + preamble);
    0
}

/// As [`record_hello_end`], for a hello that nobody reads: its first bytes are `scratch.range` of
/// the packet at hand.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn expect_unread(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    let (from, len) = (scratch.range.from, scratch.range.len);
    let Some(first) = load::<HELLO_BYTES>(skb, from) else { return 0 };
    // SAFETY: not null, a whole map value that this CPU has locked.
    let record = unsafe { &mut *flow };
    record_hello_end(record, &first, len);
    0
}

/// As [`record_hello_end_in`], for what was buffered of the flow in `scratch.key` and is about to
/// leave.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn expect_buffered() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let (Some(flow), Some(buffer)) =
        (FLOWS.get_ptr_mut(&scratch.key), PENDING.get_ptr_mut(&scratch.key))
    else {
        return 0;
    };
    // SAFETY: whole map values; nobody else writes what is written here.
    let (flow, buffer) = unsafe { (&mut *flow, &*buffer) };
    record_hello_end_in(flow, &buffer.data, ranges::contiguous(&buffer.ranges));
    0
}

/// The client's stream is known up to byte `end`, and nobody looked what stands behind the hello
/// there: no stack sends anything before its backend has answered (RFC 5246 7.3).
#[inline(always)]
pub(crate) fn set_hello_end(flow: &mut Flow, end: u32) {
    if flow.hello_len != 0 && end > flow.hello_len {
        note(flow, Answer::Unclear);
    }
}

/// Reads the client's segment at hand, of a settled flow from which something is still to be
/// learned. 1 where it may be the client's second hello.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn read_client_certificate(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a whole map value; only a client's segments write what is written here, and
    // of two that race both carry what their sender says.
    let record = unsafe { &mut *flow };
    let start = StateWord(record.word).isn().wrapping_add(1);
    let ahead = scratch.segment.seq.wrapping_sub(start) as i32;
    if ahead > GIVE_UP as i32 {
        count(Counter::LearnGivenUp);
        mark(flow, FLOW_LEARNED);
        return 0;
    }
    // Of a datagram in fragments there is a part to be read here at most, and its backend may take
    // another one for it.
    if scratch.ip.part != Part::Whole {
        note(record, Answer::Unclear);
        record.offered_kind = 0;
        return 0;
    }
    let hello_end = start.wrapping_add(record.hello_len);
    let again = record.hello_len != 0 && ahead < record.hello_len as i32;
    let answers = place(hello_end, ANSWER_LEN as u32, scratch.segment.seq, scratch.payload_len())
        != Place::Elsewhere;
    let repeats = place(start, HELLO_BYTES as u32, scratch.segment.seq, scratch.payload_len())
        != Place::Elsewhere;
    let retried = record.flags & FLOW_RETRIED != 0;
    if !(again || answers || repeats || retried) {
        return 0;
    }
    if is_sound(skb) == 0 {
        count(Counter::BadCopy);
        return 0;
    }
    // What the first backend took for the client's hello may be this copy of it, and not the one
    // that was read.
    if (again || repeats) && StateWord(record.word).state() == State::First {
        record.offered_kind = 0;
    }
    // A hello that comes again must end where the first one did: its backend may have taken either.
    match find::<HELLO_BYTES>(skb, scratch, start) {
        Found::Nothing => {}
        Found::Bytes(first) if hello_len(&first) == record.hello_len => {}
        Found::Bytes(_) | Found::Part => note(record, Answer::Unclear),
    }
    if record.hello_len == 0 {
        return 0;
    }
    match find::<ANSWER_LEN>(skb, scratch, hello_end) {
        Found::Nothing => {}
        Found::Bytes(answer) => note(record, Answer::read(&answer)),
        Found::Part => note(record, Answer::Unclear),
    }
    retried as i32
}

#[inline(always)]
fn note(flow: &mut Flow, answer: Answer) {
    flow.answer = Answer::from_number(flow.answer).and(answer) as u8;
}

/// What the segment at hand has of some bytes of its stream.
enum Found<const N: usize> {
    Nothing,
    Part,
    Bytes([u8; N]),
}

#[inline(always)]
fn find<const N: usize>(skb: *mut __sk_buff, scratch: &Scratch, first: u32) -> Found<N> {
    match place(first, N as u32, scratch.segment.seq, scratch.payload_len()) {
        Place::Elsewhere => Found::Nothing,
        Place::Cut => Found::Part,
        Place::At(at) => load(skb, scratch.payload_at() + at).map_or(Found::Part, Found::Bytes),
    }
}

/// The packet's bytes from offset `from` on.
#[inline(always)]
pub(crate) fn load<const N: usize>(skb: *mut __sk_buff, from: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: all of an array on the stack.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), from, (&raw mut bytes).cast(), N as u32) };
    (failed == 0).then_some(bytes)
}
