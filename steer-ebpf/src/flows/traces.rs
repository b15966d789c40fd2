//! What is left of flows that `flows` may have forgotten ([`steer_common::trace`]).

use steer_common::{
    flow::Direction,
    shared::{MAX_BACKENDS, NO_BACKEND, NO_ENTRANCE, TraceLine},
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

/// Where the entrance begins in what a trace has for a backend: above every `BackendId`.
const ENTRANCE_AT: u32 = MAX_BACKENDS.ilog2();

/// What a trace has: a backend, and by which entrance the client of the flow at hand came. (The last
/// backend's and the last entrance's together are none, and cost a trace.)
#[inline(always)]
fn entry(scratch: &Scratch, backend: u32) -> u16 {
    let entrance = if scratch.entrance == NO_ENTRANCE { 0 } else { scratch.entrance };
    backend as u16 | (entrance as u16) << ENTRANCE_AT
}

/// A trace's backend, or [`NO_BACKEND`] where that number is another VIP's by now, or where the
/// client at hand came by another entrance. To a backend's packet it tells the entrance.
#[inline(always)]
fn of_its_vip(scratch: &mut Scratch, found: u16) -> i32 {
    const NONE: i32 = NO_BACKEND as i32;
    let pool = match scratch.key.dialled() {
        Some(dialled) => backend(dialled as u32).map_or(NO_BACKEND, |backend| backend.vip_id),
        None => scratch.key.pool(),
    };
    if found == NO_BACKEND {
        return NONE;
    }
    let (id, entrance) = (found & (MAX_BACKENDS - 1) as u16, (found >> ENTRANCE_AT) as u8);
    if backend(id as u32).is_none_or(|backend| backend.vip_id != pool) {
        return NONE;
    }
    if scratch.direction == Direction::ToClient {
        scratch.entrance = entrance;
    } else if scratch.entrance != entrance && scratch.entrance != NO_ENTRANCE {
        return NONE;
    }
    id as i32
}

/// Leaves the handshake in `scratch.key`, which went to `backend`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn set_syn_trace(backend: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let seconds = scratch.seconds;
    if let Some((line, place)) = syn_place(scratch) {
        trace::enter(line, place.fingerprint, entry(scratch, backend), seconds);
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
    let Some((line, place)) = syn_place(scratch) else { return NO_BACKEND as i32 };
    let found = trace::find(line, place.fingerprint, seconds).unwrap_or(NO_BACKEND);
    of_its_vip(scratch, found)
}

/// Leaves the flow in `scratch.key`, which `backend` holds.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn set_trace(backend: u32) -> i32 {
    let Some(scratch) = scratch() else { return 0 };
    let seconds = scratch.seconds;
    if let Some((line, place)) = place(scratch) {
        trace::enter(line, place.fingerprint, entry(scratch, backend), seconds);
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
    let Some((line, place)) = place(scratch) else { return NO_BACKEND as i32 };
    let found = trace::find(line, place.fingerprint, seconds).unwrap_or(NO_BACKEND);
    of_its_vip(scratch, found)
}
