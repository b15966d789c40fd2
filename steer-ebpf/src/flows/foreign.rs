//! Connections that are not steer's: those that clients dialled to backends themselves, and those
//! to a VIP's address that are older than the gateway. They pass untouched; what is remembered of
//! them is that their ports are taken.

use steer_common::shared::{FlowKey, Foreign, SERVICE_BACKEND, SWITCH_FOREIGN, VIP_SHARED};

use crate::{
    maps::{FOREIGN, set_switch, switch},
    scratch::Scratch,
};

/// The client in `scratch.key` at a backend, as a flow's key has it.
#[inline(always)]
pub(crate) fn at_backend(scratch: &Scratch, id: u32) -> FlowKey {
    FlowKey { service: SERVICE_BACKEND | id as u16, ..scratch.key }
}

/// The client in `scratch.key` at the VIP that it dialled: the key of no flow where several VIPs share
/// the pool, for one of the client's may have the usual one.
#[inline(always)]
pub(crate) fn to_vip(scratch: &Scratch) -> FlowKey {
    let shared = scratch.vip.flags & VIP_SHARED != 0 && scratch.key.dialled().is_none();
    let service =
        if shared { scratch.key.service_beside(scratch.entrance) } else { scratch.key.service };
    FlowKey { service, ..scratch.key }
}

/// Remembers a connection.
#[inline(always)]
pub(crate) fn remember(key: &FlowKey, seconds: u32) {
    set_switch(SWITCH_FOREIGN);
    let _ = FOREIGN.insert(key, &Foreign { seen: seconds, zero: 0 }, 0);
}

/// Forgets a connection that ended.
#[inline(always)]
pub(crate) fn forget(key: &FlowKey) {
    if switch(SWITCH_FOREIGN) {
        let _ = FOREIGN.remove(key);
    }
}

/// As [`is_known`], asked by another connection's packet: nothing is stamped.
#[inline(always)]
pub(crate) fn is_there(key: &FlowKey, seconds: u32, timeout: u32) -> bool {
    // SAFETY: one word is read.
    let seen = || unsafe { FOREIGN.get(key) }.map(|foreign| foreign.seen);
    switch(SWITCH_FOREIGN)
        && seen().is_some_and(|seen| seconds.wrapping_sub(seen) as i32 <= timeout as i32)
}

/// Whether a connection is known that was seen within `timeout` seconds; it is stamped.
#[inline(always)]
pub(crate) fn is_known(key: &FlowKey, seconds: u32, timeout: u32) -> bool {
    if !switch(SWITCH_FOREIGN) {
        return false;
    }
    let Some(foreign) = FOREIGN.get_ptr_mut(key) else { return false };
    // SAFETY: a map value; one word, and a lost race costs one stamp.
    let foreign = unsafe { &mut *foreign };
    let idle = seconds.wrapping_sub(foreign.seen) as i32;
    if idle > timeout as i32 {
        return false;
    }
    foreign.seen = seconds;
    true
}
