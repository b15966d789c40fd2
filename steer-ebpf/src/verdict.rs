//! What is said of a hello, as the numbers that global functions return.

use steer_common::{counters::Counter, decide::Verdict};

/// What is said of a hello: an owner's number, or one of these.
pub(crate) mod said {
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
