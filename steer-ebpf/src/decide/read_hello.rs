//! Reads a hello out of a client's stream: from behind what a proxy put in front of it, joined from
//! its records, step by step.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use steer_common::{
    counters::Counter,
    shared::{PENDING_MAX, PENDING_SLACK, Pending},
    wire::{
        proxy,
        tls::client_hello::{
            self, FRAMING_STEPS, Framing, HELLO_STEPS, Joined, STREAM, Start, Walk,
        },
    },
};

use crate::{
    maps::count,
    scratch::{Scratch, joined, scratch, shifted},
    verifier::{limit, opaque, size},
};

const _: () =
    assert!(STREAM == PENDING_MAX + PENDING_SLACK, "a hello is read where it is buffered");

/// What stands in front of a hello.
pub(crate) enum Preamble {
    /// Nothing that was not skipped: the hello begins with `text`, of which there are `have` bytes.
    Skipped { text: *mut Pending, have: u32 },
    /// Too little to tell.
    NeedMore,
}

/// Skips the header that a proxy or balancer put in front of the client's stream, whose first
/// `have` bytes lie in `text`: the hello behind it decides, and the header goes to whichever
/// backend the flow goes to.
#[inline(always)]
pub(crate) fn skip_preamble(scratch: &mut Scratch, text: *mut Pending, have: u32) -> Preamble {
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

/// Length of the header of the PROXY protocol at the start of `text`, bytes; 0 where there is none,
/// or [`PREAMBLE_CUT`].
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
    // SAFETY: `from + n` is at most the array's size; both are whole map values, and different
    // ones.
    unsafe {
        let from = (&raw const (*text).data).cast::<u8>().add(from);
        bpf_probe_read_kernel((&raw mut (*to).data).cast(), n, from.cast()) as i32
    }
}

pub(crate) const HELLO_WHOLE: i32 = 0;
pub(crate) const HELLO_CUT: i32 = 1;
pub(crate) const HELLO_MALFORMED: i32 = 2;
pub(crate) const HELLO_NOT_TLS: i32 = 3;

/// Reads the hello at the start of `text` into `scratch.hello`.
#[inline(always)]
pub(crate) fn read_hello(scratch: *mut Scratch, text: *mut Pending, have: u32) -> i32 {
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
    let (Some(scratch), Some(joined), false) = (scratch(), joined(), text.is_null()) else {
        return JOINED_END;
    };
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
