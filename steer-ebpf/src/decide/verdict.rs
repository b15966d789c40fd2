//! The verdict on a hello, as the numbers that global functions return.

use steer_common::{counters::Counter, decide::Verdict};

/// A verdict is an owner's number, or one of these.
pub(crate) mod code {
    /// Too few bytes; `scratch.needed` says how many it takes.
    pub(crate) const NEED_MORE: i32 = 0x2_0000;
    /// The first backend; the counter's index in the lower 16 bits is the reason.
    pub(crate) const FIRST: i32 = 0x1_0000;
    /// An identifier is not known.
    pub(crate) const UNKNOWN: i32 = 0x4_0000;
}

/// The first backend, for this reason.
#[inline(always)]
pub(crate) fn first(reason: Counter) -> i32 {
    code::FIRST | reason as i32
}

/// The verdict that a number stands for.
#[inline(always)]
pub(crate) fn from_code(verdict: i32) -> Verdict {
    match verdict {
        first if first & code::FIRST != 0 => Verdict::First(reason(first as u32 & 0xffff)),
        code::NEED_MORE => Verdict::NeedMore,
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
