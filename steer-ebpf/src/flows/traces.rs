//! What is left of flows that `flows` may have forgotten ([`steer_common::trace`]).

use steer_common::{
    shared::{NO_BACKEND, TraceLine},
    trace::{self, Place},
};

use crate::{
    maps::{SETTINGS, SYN_TRACES, TRACES, backend},
    scratch::{Scratch, scratch},
};

/// The place of the flow in `scratch.key`.
#[inline(always)]
fn place(scratch: &Scratch) -> Option<(&'static mut TraceLine, Place)> {
    let secret = SETTINGS.get(0)?.secret;
    let place = trace::place(&scratch.key, secret);
    // SAFETY: array elements live as long as the program; a lost race costs one trace.
    let line = unsafe { &mut *TRACES.get_ptr_mut(place.line)? };
    Some((line, place))
}

/// As [`place`], of a handshake.
#[inline(always)]
fn syn_place(scratch: &Scratch) -> Option<(&'static mut TraceLine, Place)> {
    let secret = SETTINGS.get(0)?.secret;
    let place = trace::place(&scratch.key, secret);
    // SAFETY: as in `place`.
    let line = unsafe { &mut *SYN_TRACES.get_ptr_mut(place.line & (trace::SYN_LINES - 1))? };
    Some((line, place))
}

/// A trace's backend, or [`NO_BACKEND`] where that number is another VIP's by now.
#[inline(always)]
fn of_its_vip(scratch: &Scratch, found: Option<u16>) -> i32 {
    let pool = match scratch.key.dialled() {
        Some(dialled) => backend(dialled as u32).map_or(NO_BACKEND, |backend| backend.vip_id),
        None => scratch.key.service,
    };
    let its = |id: &u16| backend(*id as u32).is_some_and(|backend| backend.vip_id == pool);
    found.filter(its).unwrap_or(NO_BACKEND) as i32
}

/// Leaves the handshake in `scratch.key`, which went to `backend`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn set_syn_trace(backend: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let seconds = scratch.seconds;
    if let Some((line, place)) = syn_place(scratch) {
        trace::enter(line, place.fingerprint, backend as u16, seconds);
    }
    0
}

/// Forgets the handshake in `scratch.key`: a flow was made of it, or its client uses the port for
/// something else.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forget_syn_trace() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    if let Some((line, place)) = syn_place(scratch) {
        trace::forget(line, place.fingerprint);
    }
    0
}

/// The backend that the handshake in `scratch.key` went to, or [`NO_BACKEND`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_syn_trace() -> i32 {
    let Some(scratch) = scratch() else { return NO_BACKEND as i32 };
    let seconds = scratch.seconds;
    let found =
        syn_place(scratch).and_then(|(line, place)| trace::find(line, place.fingerprint, seconds));
    of_its_vip(scratch, found)
}

/// Leaves the flow in `scratch.key`, which `backend` holds.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn set_trace(backend: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let seconds = scratch.seconds;
    if let Some((line, place)) = place(scratch) {
        trace::enter(line, place.fingerprint, backend as u16, seconds);
    }
    0
}

/// Forgets the flow in `scratch.key`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forget_trace() -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    if let Some((line, place)) = place(scratch) {
        trace::forget(line, place.fingerprint);
    }
    0
}

/// The backend that the flow in `scratch.key` was left at, or [`NO_BACKEND`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_trace() -> i32 {
    let Some(scratch) = scratch() else { return NO_BACKEND as i32 };
    let seconds = scratch.seconds;
    let found =
        place(scratch).and_then(|(line, place)| trace::find(line, place.fingerprint, seconds));
    of_its_vip(scratch, found)
}
