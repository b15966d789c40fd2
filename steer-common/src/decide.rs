//! Which backend a flow belongs to: the session's owner if there is one to be had, else the first
//! backend.

use crate::{
    counters::Counter,
    shared::{
        Address, BACKEND_DRAINING, BACKEND_PRESENT, BACKEND_UP, Backend, KEY_NAME_CONFIGURED,
        KEY_NAME_SHARED, KEY_NAME_TRIES, KeyName, LOOKUP_SLOTS, Session, VIP_FALLBACK_FLOW, Vip,
    },
};

/// Outcome of a decision, with its reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Too few bytes to decide on.
    NeedMore,
    /// The first backend, for good.
    First(Counter),
    /// The owner, which is another backend.
    Owner(u16),
}

/// Judges a session that was found; `backend` is its owner's record, `now` in seconds.
#[inline(always)]
pub fn session(found: &Session, backend: &Backend, vip: &Vip, first: u16, now: u32) -> Verdict {
    if expired(found, vip, now) {
        return Verdict::First(Counter::SessionExpired);
    }
    owned(found.owner, backend, vip, first, now)
}

/// Judges the name of a ticket key that was found; `backend` is its owner's record, `now` in
/// seconds.
#[inline(always)]
pub fn key_name(found: &KeyName, backend: &Backend, vip: &Vip, first: u16, now: u32) -> Verdict {
    if found.flags & KEY_NAME_SHARED != 0 {
        return Verdict::First(Counter::KeyNameShared);
    }
    let idle = now.wrapping_sub(found.last_seen) as i32;
    if found.flags & KEY_NAME_CONFIGURED == 0 && idle > vip.name_timeout as i32 {
        return Verdict::First(Counter::SessionExpired);
    }
    owned(found.owner, backend, vip, first, now)
}

/// Judges an owner.
#[inline(always)]
fn owned(owner: u16, backend: &Backend, vip: &Vip, first: u16, now: u32) -> Verdict {
    if owner == first {
        return Verdict::First(Counter::SessionHit);
    }
    if backend.flags & (BACKEND_PRESENT | BACKEND_UP) != BACKEND_PRESENT | BACKEND_UP
        || backend.vip_id != vip.id
    {
        return Verdict::First(Counter::OwnerDown);
    }
    let drained = backend.drain_until != 0 && (backend.drain_until.wrapping_sub(now) as i32) < 0;
    if backend.flags & BACKEND_DRAINING != 0 && drained {
        return Verdict::First(Counter::OwnerDrained);
    }
    Verdict::Owner(owner)
}

/// Whether a search is over: enough backends rejected tickets of this name.
#[inline(always)]
pub const fn search_is_over(tried: u64) -> bool {
    tried.count_ones() >= KEY_NAME_TRIES
}

/// Whether a session is past its idle timeout or its absolute limit.
#[inline(always)]
pub fn expired(session: &Session, vip: &Vip, now: u32) -> bool {
    let (idle, age) = (now.wrapping_sub(session.last_seen), now.wrapping_sub(session.first_seen));
    idle as i32 > vip.session_timeout as i32
        || (vip.session_limit != 0 && age as i32 > vip.session_limit as i32)
}

/// The slot of a VIP's lookup table for a client, without a session to go by.
#[inline(always)]
pub fn slot(vip: &Vip, client: &Address, client_port: [u8; 2]) -> u32 {
    let mut hash = hash_address(client);
    if vip.flags & VIP_FALLBACK_FLOW != 0 {
        hash = mix(hash ^ u16::from_be_bytes(client_port) as u32);
    }
    hash % LOOKUP_SLOTS
}

/// A 32-bit hash of an address.
#[inline(always)]
pub fn hash_address(address: &Address) -> u32 {
    let mut hash = 0x9e37_79b9;
    for word in address.words() {
        hash = mix(hash ^ word);
    }
    hash
}

/// The finalizer of MurmurHash3 (public domain).
#[inline(always)]
const fn mix(h: u32) -> u32 {
    let h = (h ^ h >> 16).wrapping_mul(0x85eb_ca6b);
    let h = (h ^ h >> 13).wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}
