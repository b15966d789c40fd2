//! Walks over TCP options, a few small steps at a time: they are a global function, verified once.

use steer_common::{
    counters::Counter,
    wire::tcp::{Edits, MAX_STEPS, OPTIONS_MAX, Offer, Step, TCP_LEN, Walker},
};

use crate::{
    hook::{Hook, tc::Tc, xdp::Xdp},
    scratch::{Scratch, scratch},
    verifier::{limit, size},
};

/// What a walk does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk {
    /// Applies `scratch.edits`.
    Translate,
    /// Reads into `scratch.offer`.
    Read,
    /// Reads into `scratch.offer` and clears what would keep the flow from moving.
    Clear,
}

/// Walks over `scratch.walker`; false where the options are malformed.
#[inline(always)]
pub(crate) fn walk(scratch: &mut Scratch, walk: Walk) -> bool {
    for _ in 0..limit::<{ MAX_STEPS as i32 / STEPS_A_CALL + 1 }>() {
        let step = match walk {
            Walk::Translate => walk_translate(&mut scratch.walker, &scratch.edits),
            Walk::Read => walk_offer(&mut scratch.walker, &mut scratch.offer, 0),
            Walk::Clear => walk_offer(&mut scratch.walker, &mut scratch.offer, 1),
        };
        match step {
            MORE => {}
            DONE => return true,
            _ => return false,
        }
    }
    // No list needs more steps.
    false
}

/// Steps of a walk that one call takes: a call costs as much as a step.
const STEPS_A_CALL: i32 = 8;

const MORE: i32 = 0;
const DONE: i32 = 1;
const MALFORMED: i32 = 2;

/// Takes a few steps.
#[inline(always)]
fn steps(mut step: impl FnMut() -> Step) -> i32 {
    for _ in 0..limit::<STEPS_A_CALL>() {
        match step() {
            Step::More => {}
            Step::Done => return DONE,
            Step::Malformed => return MALFORMED,
        }
    }
    MORE
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_translate(walker: *mut Walker, edits: *const Edits) -> i32 {
    if walker.is_null() || edits.is_null() {
        return MALFORMED;
    }
    // SAFETY: not null, and the verifier checks that callers pass whole structures.
    let (walker, edits) = unsafe { (&mut *walker, &*edits) };
    steps(|| walker.translate(edits))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_offer(walker: *mut Walker, offer: *mut Offer, clear: u32) -> i32 {
    if walker.is_null() || offer.is_null() {
        return MALFORMED;
    }
    // SAFETY: as above.
    let (walker, offer) = unsafe { (&mut *walker, &mut *offer) };
    steps(|| walker.read_offer(offer, clear != 0))
}

/// Reads the options of the TC packet at hand into `scratch.offer`; with `clear` set, clears some
/// and writes them back. Returns 0, or -1 where they are malformed.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn read_options(skb: *mut aya_ebpf::bindings::__sk_buff, clear: u32) -> i32 {
    let Some(scratch) = scratch() else { return -1 };
    scratch.offer = Offer::NOTHING;
    let (at, len) = (scratch.ip.l4 + TCP_LEN, scratch.segment.header_len.wrapping_sub(TCP_LEN));
    if len == 0 {
        return 0;
    }
    let hook = Tc(skb);
    let Some(n) = size::<OPTIONS_MAX>(len) else { return -1 };
    if !hook.load_options(at, (&raw mut scratch.walker.bytes).cast(), n) {
        return -1;
    }
    scratch.walker.rewind(n);
    if !walk(scratch, if clear != 0 { Walk::Clear } else { Walk::Read }) {
        return -1;
    }
    if clear != 0 && scratch.offer.cleared != 0 {
        crate::maps::count(Counter::OptionCleared);
        let Some(n) = size::<OPTIONS_MAX>(len) else { return -1 };
        let v6 = scratch.ip.v6;
        if !hook.store_options(at, (&raw const scratch.walker.bytes).cast(), n)
            || !hook.replace_sums(at - TCP_LEN + 16, v6, 0, scratch.walker.difference)
        {
            return -1;
        }
    }
    0
}

/// A hook with its own global function for the walk over options in a packet.
pub(crate) trait OptionsHook: Hook {
    /// Translates the `len` bytes of options at `at` by `scratch.edits`; false where they are
    /// malformed.
    fn translate_options(&self, at: usize, len: usize) -> bool;
}

impl OptionsHook for Tc {
    #[inline(always)]
    fn translate_options(&self, at: usize, len: usize) -> bool {
        tc_translate_options(self.0, at as u32, len as u32) == 0
    }
}

impl OptionsHook for Xdp {
    #[inline(always)]
    fn translate_options(&self, at: usize, len: usize) -> bool {
        xdp_translate_options(self.0, at as u32, len as u32) == 0
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_translate_options(
    skb: *mut aya_ebpf::bindings::__sk_buff,
    at: u32,
    len: u32,
) -> i32 {
    translate_options(&Tc(skb), at as usize, len as usize) as i32 - 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_translate_options(
    context: *mut aya_ebpf::bindings::xdp_md,
    at: u32,
    len: u32,
) -> i32 {
    translate_options(&Xdp(context), at as usize, len as usize) as i32 - 1
}

/// Loads the options, translates them by `scratch.edits` and stores them; the difference stays in
/// the walker.
#[inline(always)]
pub(crate) fn translate_options<H: Hook>(hook: &H, at: usize, len: usize) -> bool {
    let Some(scratch) = scratch() else { return false };
    let Some(n) = size::<OPTIONS_MAX>(len) else { return false };
    if !hook.load_options(at, (&raw mut scratch.walker.bytes).cast(), n) {
        return false;
    }
    scratch.walker.rewind(n);
    if !walk(scratch, Walk::Translate) {
        return false;
    }
    let Some(n) = size::<OPTIONS_MAX>(len) else { return false };
    hook.store_options(at, (&raw const scratch.walker.bytes).cast(), n)
}
