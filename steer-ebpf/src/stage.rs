//! What a stage of the slow path says comes next ([`Stage`]), with what goes with it.

use steer_common::counters::Counter;
pub(crate) use steer_common::stage::Stage;

use crate::{maps::count_index, scratch::Scratch};

/// Counts and passes.
#[inline(always)]
pub(crate) fn pass(reason: Counter) -> Stage {
    count_index(reason as u32);
    Stage::Pass
}

/// Counts and drops.
#[inline(always)]
pub(crate) fn drop(reason: Counter) -> Stage {
    count_index(reason as u32);
    Stage::Drop
}

/// The packet is forwarded between its client and a backend, with nothing but the addresses
/// changed.
#[inline(always)]
pub(crate) fn plain(scratch: &mut Scratch, backend: u32) -> Stage {
    scratch.plain = backend;
    Stage::Plain
}

/// The packet is forwarded between a client and the backend that it dialled itself, with nothing
/// but the client's port changed.
#[inline(always)]
pub(crate) fn direct_plain(scratch: &mut Scratch, backend: u32) -> Stage {
    scratch.plain = backend;
    Stage::DirectPlain
}

/// The action is returned.
#[inline(always)]
pub(crate) fn act(scratch: &mut Scratch, action: u8) -> Stage {
    scratch.action = action.into();
    Stage::Act
}
