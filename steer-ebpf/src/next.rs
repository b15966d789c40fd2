//! What a stage of the slow path says comes next, as one number. Stages are global functions that the TC program calls one
//! after the other, so that their stack frames do not add up.

use steer_common::counters::Counter;

use crate::maps::count_index;

/// Pass untouched.
pub(crate) const PASS: i32 = 3;
/// Dropped (already counted).
pub(crate) const DROP: i32 = 4;
/// To be redirected to the interface in `scratch.redirect`, its Ethernet header already written.
pub(crate) const REDIRECT: i32 = 5;
/// `client_syn`.
pub(crate) const SYN: i32 = 6;
/// `client_segment`.
pub(crate) const CLIENT: i32 = 7;
/// `server_segment`.
pub(crate) const SERVER: i32 = 8;
/// `direct_segment`: a packet to a backend itself, whose number is in `scratch.backend`.
pub(crate) const DIRECT: i32 = 9;
/// An ICMP error.
pub(crate) const ICMP: i32 = 10;
/// A later fragment of a datagram.
pub(crate) const FRAGMENT: i32 = 11;
/// `decide`, with `scratch.piece`; the flow is locked.
pub(crate) const DECIDE: i32 = 12;
/// `client_data`, with `scratch.piece`; the flow is locked.
pub(crate) const DATA: i32 = 13;
/// `hold`, with `scratch.piece`; the flow is locked.
pub(crate) const HOLD: i32 = 14;
/// `held`, with `scratch.piece`; the flow is locked.
pub(crate) const HELD: i32 = 15;
/// `exit`, with `scratch.piece`; the flow is locked.
pub(crate) const EXIT: i32 = 16;
/// `open_owner`, with the owner in `scratch.backend`; the flow is locked.
pub(crate) const OPEN_OWNER: i32 = 17;
/// `judge`; the flow is locked.
pub(crate) const JUDGE: i32 = 18;
/// `learn`, then forward.
pub(crate) const LEARN: i32 = 19;
/// `syn_to_owner`.
pub(crate) const SYN_TO_OWNER: i32 = 20;
/// The packet becomes the reset in `scratch.reset`.
pub(crate) const RESET: i32 = 21;
/// The reset in `scratch.reset` is sent, then the buffered data to the owner.
pub(crate) const RESET_THEN_OWNER: i32 = 22;
/// The reset in `scratch.reset` is sent, then the buffered data to the first backend.
pub(crate) const RESET_THEN_FIRST: i32 = 23;
/// The buffered data is sent to the first backend.
pub(crate) const FLUSH: i32 = 24;
/// `emit_segments`, with `scratch.emitting`.
pub(crate) const EMIT: i32 = 25;
/// The next hop's MTU, in `scratch.hop.mtu`, is too small.
pub(crate) const TOO_BIG: i32 = 26;
/// What else the packet says of its settled flow, then forward.
pub(crate) const SETTLED: i32 = 28;
/// `resegment`, with `scratch.change` and `scratch.hop`.
pub(crate) const CUT: i32 = 29;
/// `unreadable`.
pub(crate) const UNREADABLE: i32 = 27;
/// Forward as the flow's state says.
pub(crate) const FORWARD: i32 = 0x1_0000;
/// Forward with nothing but the addresses changed: this plus the backend's number.
pub(crate) const PLAIN: i32 = 0x2_0000;
/// An action to return: this plus the action, which is 0 to 255.
pub(crate) const ACTION: i32 = 0x4_0000;
/// Forward a packet between a client and the backend that it dialled itself, with nothing but the client's port changed:
/// this plus the backend's number.
pub(crate) const DIRECT_PLAIN: i32 = 0x10_0000;
/// Besides one of the others: the flow was made, or made anew, since it was looked up.
pub(crate) const FRESH: i32 = 0x8_0000;

/// Counts and passes.
#[inline(always)]
pub(crate) fn pass(reason: Counter) -> i32 {
    count_index(reason as u32);
    PASS
}

/// Counts and drops.
#[inline(always)]
pub(crate) fn drop(reason: Counter) -> i32 {
    count_index(reason as u32);
    DROP
}
