//! What a measured program is told and what it tells: only benchmarks use it, no release has such a
//! map.

use super::{Flow, FlowKey, SessionKey};

/// Longest frame that is measured, bytes.
pub const BENCH_FRAME: usize = 512;
/// Room behind it, so that a masked offset is always inside.
pub const BENCH_SLACK: usize = 16;

/// Before each run, the flow that the run before used gets `flow` as its record again.
pub const BENCH_RESET_FLOW: u32 = 1;
/// Before each run, the handshake of the run before is removed.
pub const BENCH_RESET_HANDSHAKE: u32 = 2;
/// Before each run, `session_key` is removed.
pub const BENCH_RESET_SESSION: u32 = 4;
/// Each run has a lesson of its own (`Follow::lesson` of `flow` counts up).
pub const BENCH_NEW_LESSON: u32 = 8;

/// One measurement: the one value of `bench`. Before each run of a program a shim restores the
/// frame with another client's address and undoes what the run before did; how long that took it
/// adds to `own`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// Nanoseconds that the shim itself took.
    pub own: u64,
    /// Runs.
    pub runs: u64,
    /// Length of `frame`, bytes, at most [`BENCH_FRAME`].
    pub frame_len: u32,
    /// Bits of a random number that tell clients apart; 0: always the same one.
    pub mask: u32,
    /// Last word of the clients' addresses without those bits, host-endian.
    pub client: u32,
    /// Where that word stands in the frame, bytes.
    pub client_at: u32,
    /// Where the same random bits are written once more, big-endian (a session ID), bytes from the
    /// frame's start; 0: nowhere.
    pub id_at: u32,
    /// Where the TCP checksum stands, which covers those words, bytes from the frame's start.
    pub check_at: u32,
    /// Always zero.
    pub zero: u32,
    /// Any of `BENCH_*`.
    pub reset: u32,
    /// The flow of the run before.
    pub key: FlowKey,
    /// The session that a run learns.
    pub session_key: SessionKey,
    /// A flow's record before a run.
    pub flow: Flow,
    /// The frame before a run.
    pub frame: [u8; BENCH_FRAME + BENCH_SLACK],
}
