//! The layouts of every pinned map, shared by the kernel programs, the agent and the offline tools.
//!
//! Every type here is `repr(C)`, has no padding (checked at compile time below) and keeps what came
//! off the wire as big-endian byte arrays, so that neither side can get a byte order wrong and
//! `bpftool map dump` prints the bytes as they stood in the packet. Numbers that never were on the
//! wire are native-endian integers.

mod address;
mod bench;
mod fast;
mod flow;
mod pool;
mod session;

pub use self::{address::*, bench::*, fast::*, flow::*, pool::*, session::*};
use crate::wire::tls::server_flight::Follow;

/// Version of the map layouts; names the pin directory (`PIN_DIR/v5`). Any change to a type in here
/// raises it.
pub const LAYOUT_VERSION: u32 = 5;

/// Most backends of one gateway, over all VIPs; `BackendId` is an index below it.
pub const MAX_BACKENDS: u32 = 1024;
/// Most VIPs of one gateway; `VipId` is an index below it.
pub const MAX_VIPS: u32 = 64;
/// Numbers of entrances: of VIPs that share the pool of another one. 0 is no entrance's.
pub const MAX_ENTRANCES: u32 = 64;
/// Slots of one lookup table (a prime, as Maglev wants it: Eisenbud et al., NSDI 2016, section
/// 3.4).
pub const LOOKUP_SLOTS: u32 = 16381;
/// Tables per VIP in the `lookup` map: one in use, one being filled.
pub const LOOKUP_HALVES: u32 = 2;
/// Entries of the `lookup` map.
pub const LOOKUP_ENTRIES: u32 = MAX_VIPS * LOOKUP_HALVES * LOOKUP_SLOTS;
/// A lookup slot that names no backend.
pub const NO_BACKEND: u16 = u16::MAX;
/// Bytes of a client's first flight that the gateway can buffer while it decides and while the
/// owner is opened.
pub const PENDING_MAX: usize = 12 * 1024;
/// Room behind `PENDING_MAX`, so that one segment may be stored before its end is judged.
pub const PENDING_SLACK: usize = 4 * 1024;

/// Fails to compile when a type has padding: the sum of its fields is not its size.
macro_rules! no_padding {
    ($t:ty, $($size:expr),+) => { const _: () = assert!(size_of::<$t>() == 0 $(+ $size)+); };
}
no_padding!(Address, 16);
no_padding!(Endpoint, 16, 2, 1, 1);
no_padding!(FlowKey, 16, 2, 2);
no_padding!(SessionKey, 2, 1, 1, 32);
no_padding!(Session, 2, 2, 4, 4, 4);
no_padding!(Hop, 4, 12, 2, 2, 4);
no_padding!(Backend, 20, 20, 2, 2, 2, 2, 4);
no_padding!(BackendPath, 24, 2, 2, 4, 4);
no_padding!(Rest, 4, 2, 2);
no_padding!(BridgePath, 12, 4, 4, 4, 4, 2, 2);
no_padding!(Configured, 20, 4);
no_padding!(KeyName, 2, 2, 4, 4, 4, 4, 2, 2, 8);
no_padding!(Vip, 2, 2, 4, 4, 4, 4, 2, 2, 1, 1, 2, 4, 4, 4);
no_padding!(Entrance, 20, 2, 2, 4);
no_padding!(Refusals, 4 * OFFER_KINDS, 2 * OFFER_KINDS, 2 * OFFER_KINDS);
no_padding!(Rotating, 2, 1, 1, 4, 4);
no_padding!(Rotation, 12 * ROTATION_BACKENDS, 4);
no_padding!(SourceKey, 16, 2, 2);
no_padding!(Source, 4, 4);
no_padding!(EndpointEntry, 20, 2, 2, 4, size_of::<Vip>());
no_padding!(ExemptKey, 4, 2, 16, 2);
no_padding!(Settings, 4, 4, 8);
no_padding!(Follow, 4 * 3, 2 * 3, 6, 32, 8, 8, 4);
no_padding!(Flow, 8, 4 * 14, 2 * 7, 2 * 2, 10, 32, 76, 24);
no_padding!(Translation, 4, 4, 4);
no_padding!(FastSlot, 4, 4, 20, 4, 4, 4, 12, 2, 2, 2, 2, 4);
no_padding!(HopSlot, 24, 4, 4);
no_padding!(Foreign, 4, 4);
no_padding!(Leg, 4, 2, 2);
no_padding!(TraceLine, 8 * TRACE_WAYS);
no_padding!(Range, 4, 4);
no_padding!(JournalEntry, 4, 36, 20);
no_padding!(Pending, 4, 4, 8, 8 * PENDING_RANGES, PENDING_MAX + PENDING_SLACK);
no_padding!(FragmentKey, 16, 16, 4);
no_padding!(FragmentRoute, 16, 4, 24, 4);
no_padding!(HeldKey, 36, 4);
no_padding!(Held, 4, 4, 4, HELD_MAX);
no_padding!(Event, 8, 20, 2, 2, 2, 2, 4, 32);
no_padding!(Outcomes, 8 * 3);
no_padding!(Answers, 8 * 2);
no_padding!(Bench, 8, 8, 4 * 8, 20, 36, 224, BENCH_FRAME + BENCH_SLACK);
no_padding!(BackendStats, 8 * 8, 24, 24);

#[cfg(feature = "user")]
mod pod {
    use super::*;

    /// Declares types safe to copy to and from the kernel as bytes.
    macro_rules! pod {
        ($($t:ty),+) => { $(
            // SAFETY: repr(C), no padding (checked above), every bit pattern valid, no references.
            unsafe impl aya::Pod for $t {}
        )+ };
    }
    pod!(
        Endpoint,
        FlowKey,
        SessionKey,
        Session,
        KeyName,
        Refusals,
        Rotation,
        SourceKey,
        Source,
        Backend,
        BackendPath,
        BridgePath,
        Rest,
        Configured,
        Vip,
        Entrance,
        EndpointEntry,
        ExemptKey,
        Settings,
        Bench,
        Flow,
        FastSlot,
        HopSlot,
        Pending,
        Foreign,
        Leg,
        TraceLine,
        FragmentKey,
        FragmentRoute,
        HeldKey,
        Held,
        Event,
        Answers,
        BackendStats
    );
}
