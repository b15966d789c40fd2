//! Who stands at an address and port: a table that programs read by plain array lookups, without a
//! call.
//!
//! The map `directory` has a head and two halves of [`SLOTS`] slots. The agent fills the half that
//! is not in use and then turns the head to it: a packet sees the old directory or the new one. An
//! endpoint stands in its own slot or one of the next few.

use crate::shared::{Address, Endpoint, EndpointEntry, ROLE_NONE};

/// Slots of one half: a power of two, several times what can be listed.
pub const SLOTS: u32 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 13;
/// Slots that an endpoint may stand in, from its own on.
pub const PROBES: u32 = 8;
/// Entries of the map: the head, two halves, and room behind the second one's last slot.
pub const ENTRIES: u32 = 1 + 2 * (SLOTS + PROBES);

/// The head of a directory whose half `number` (0 or 1) is in use, and whose places follow from
/// `seed` (31 bits).
#[inline(always)]
pub const fn head(number: u32, seed: u32) -> u32 {
    number & 1 | seed << 1
}

/// The seed of the places under this head.
#[inline(always)]
pub const fn seed(head: u32) -> u32 {
    head >> 1
}

/// Index of the first slot of the half that a head names.
#[inline(always)]
pub const fn half(head: u32) -> u32 {
    1 + (head & 1) * (SLOTS + PROBES)
}

/// The own slot of an endpoint, whose port is big-endian, counted from the start of a half. The
/// seed is chosen so that every endpoint has a place.
#[inline(always)]
pub const fn own_slot(address: &Address, port: [u8; 2], seed: u32) -> u32 {
    let w = address.words();
    // Two rounds of a multiply-xorshift hash (constants of splitmix64, public domain): products
    // alone would cancel for addresses that count in two places at once.
    let high = w[0] ^ w[1] ^ w[2] ^ u16::from_ne_bytes(port) as u32;
    let hash = ((w[3] ^ seed) as u64 | (high as u64) << 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((hash ^ hash >> 32).wrapping_mul(0x94d0_49bb_1331_11eb) >> (64 - SLOT_BITS)) as u32
}

/// Finds who stands at an endpoint, under the head that the first entry has. `entry` reads the map.
#[inline(always)]
pub fn find<'a>(
    head: u32,
    address: &Address,
    port: [u8; 2],
    entry: impl Fn(u32) -> Option<&'a EndpointEntry>,
) -> Option<&'a EndpointEntry> {
    let first = half(head) + own_slot(address, port, seed(head));
    for probe in 0..PROBES {
        let listed = entry(first + probe)?;
        if listed.role == ROLE_NONE {
            return None;
        }
        if listed.matches(address, port) {
            return Some(listed);
        }
    }
    None
}

/// The slot, counted from the start of a half, for another endpoint; `None` where this seed has no
/// room for it.
pub fn free_slot(half: &[EndpointEntry], endpoint: &Endpoint, seed: u32) -> Option<usize> {
    let own = own_slot(&endpoint.address, endpoint.port, seed) as usize;
    (own..own + PROBES as usize)
        .find(|slot| half.get(*slot).is_some_and(|listed| listed.role == ROLE_NONE))
}
