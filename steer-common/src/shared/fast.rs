//! Settled flows as most of their packets need them.

use super::{FlowKey, Hop};

/// A settled flow, lent by its record in `flows` for [`crate::fast::LIFE`] seconds: value of
/// `fast`, one line of memory. See [`crate::fast`].
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FastSlot {
    /// Odd while a CPU writes what stands from `key` on but the two numbers; one more each time.
    pub version: u32,
    /// When the flow was entered, seconds of CLOCK_MONOTONIC; 0: the slot holds nothing.
    pub entered: u32,
    /// The flow.
    pub key: FlowKey,
    /// As [`super::Flow::seen`].
    pub seen: u32,
    /// As [`super::Flow::client_next`].
    pub client_next: u32,
    /// As [`super::Flow::server_next`].
    pub server_next: u32,
    /// How a re-homed flow is translated; all zero of a flow at its first backend.
    pub translation: Translation,
    /// `BackendId` of the backend that holds the flow.
    pub holder: u16,
    /// The client's port there, big-endian; 0: its own.
    pub port: [u8; 2],
    /// The hop that the client's packets come from: index into `hops`.
    pub hop: u16,
    /// The lower half of [`HopSlot::version`] when the flow was entered.
    pub hop_version: u16,
    /// When a packet of its client came by that hop last, seconds of CLOCK_MONOTONIC.
    pub heard: u32,
}

/// What is translated between a client and the owner of its re-homed flow
/// ([`crate::splice`]); numbers are host-endian.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Translation {
    /// As [`super::Flow::delta`].
    pub delta: u32,
    /// As [`super::Flow::ts_delta`].
    pub ts_delta: u32,
    /// As [`super::Flow::first_scale`].
    pub first_scale: u8,
    /// As [`super::Flow::owner_scale`].
    pub owner_scale: u8,
    /// 1: the flow is re-homed; 0: nothing is translated.
    pub spliced: u8,
    /// As [`super::Flow::entrance`].
    pub entrance: u8,
}

/// A hop of clients, once for all of them: value of `hops`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HopSlot {
    /// The hop; `asked` says when its MTU was looked up.
    pub hop: Hop,
    /// Odd while a CPU writes another hop here; one more each time.
    pub version: u32,
    /// When a flow was entered by this hop last, seconds of CLOCK_MONOTONIC.
    pub used: u32,
}
