//! Who stands at an address and port: a table that programs read by plain array lookups, without a call.
//!
//! The map `directory` has a head and two halves of [`SLOTS`] slots. The agent fills the half that is not in use and then
//! turns the head to it: a packet sees the old directory or the new one. An endpoint stands in its own slot or one of
//! the next few.

use crate::shared::{Address, Endpoint, Listed, ROLE_NONE};

/// Slots of one half: a power of two, several times what can be listed.
pub const SLOTS: u32 = 4096;
/// Slots that an endpoint may stand in, from its own on.
pub const PROBES: u32 = 8;
/// Entries of the map: the head, two halves, and room behind the second one's last slot.
pub const ENTRIES: u32 = 1 + 2 * (SLOTS + PROBES);

/// Index of the first slot of a half (0 or 1).
#[inline(always)]
pub const fn half(number: u32) -> u32 {
    1 + (number & 1) * (SLOTS + PROBES)
}

/// The own slot of an endpoint, whose port is big-endian, counted from the start of a half.
#[inline(always)]
pub const fn own_slot(address: &Address, port: [u8; 2]) -> u32 {
    let w = address.words();
    // Multipliers of xxHash32 (BSD licence) keep runs of neighbouring addresses and ports apart.
    let hash = w[3].wrapping_mul(0x9e37_79b1) ^ (w[0] ^ w[1] ^ w[2]).wrapping_mul(0x85eb_ca77);
    let hash = (hash ^ u16::from_ne_bytes(port) as u32).wrapping_mul(0xc2b2_ae3d);
    (hash ^ hash >> 15) >> 7 & (SLOTS - 1)
}

/// Finds who stands at an endpoint. `entry` reads the map.
#[inline(always)]
pub fn find<'a>(address: &Address, port: [u8; 2], entry: impl Fn(u32) -> Option<&'a Listed>) -> Option<&'a Listed> {
    let first = half(entry(0)?.head) + own_slot(address, port);
    for probe in 0..PROBES {
        let listed = entry(first + probe)?;
        if listed.role == ROLE_NONE {
            return None;
        }
        if listed.stands_at(address, port) {
            return Some(listed);
        }
    }
    None
}

/// The slot, counted from the start of a half, for another endpoint; `None` where there is no room for it.
pub fn free_slot(half: &[Listed], endpoint: &Endpoint) -> Option<usize> {
    let own = own_slot(&endpoint.address, endpoint.port) as usize;
    (own..own + PROBES as usize).find(|slot| half.get(*slot).is_some_and(|listed| listed.role == ROLE_NONE))
}
