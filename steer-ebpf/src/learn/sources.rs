//! Counts the sessions that each source of clients has had, where a VIP limits them.

use steer_common::{counters::Counter, learn::one_more, shared::SourceKey};

use crate::{
    maps::{SOURCES, count},
    scratch::scratch,
};

/// Counts a session of the flow in `scratch.key`; 0 where its source may have no more, and the
/// session is not learned.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn admit_session() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    if scratch.vip.sessions_per_source == 0 {
        return 1;
    }
    let key = SourceKey::new(scratch.vip.id, &scratch.key.client);
    // SAFETY: copied at once; where two CPUs race a session is not counted.
    let known = unsafe { SOURCES.get(&key) }.copied();
    let Some(source) = one_more(known, &scratch.vip, scratch.seconds) else {
        count(Counter::SessionQuota);
        return 0;
    };
    // A full table forgets its oldest source, which then begins anew.
    let _ = SOURCES.insert(&key, &source, 0);
    1
}
