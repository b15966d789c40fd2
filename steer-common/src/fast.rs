//! The cache of settled flows: where a packet of a flow that is settled finds all it needs in one
//! line of memory.
//!
//! `flows` is a hash table of large records: in a table of a million, a packet waits for its
//! bucket, its element and its record. `fast` is an array of slots as long as a line. A slot is a
//! *loan*: it holds the flow's moving numbers for [`LIFE`] seconds at most, and whoever needs the
//! record takes them back first ([`take_back`]), which empties the slot. Nothing breaks where a slot
//! is lost: the record is behind by no more than [`BEHIND`] bytes and [`LIFE`] seconds.
//!
//! A slot belongs to one of a pair, and a flow's pair follows from its key and a secret of the
//! gateway. A flow whose pair is taken by two others that are in use goes by its record. Whoever
//! reads a slot compares the whole key, and the version before and after (a sequence lock: loads
//! must not pass loads, so this holds on machines of the x86 kind alone).

use crate::{
    shared::{
        FLOW_CLOSED, FLOW_HOP_WANTED, FLOW_LEARNED, FLOW_RIVALLED, FLOW_UNCONFIRMED, FastSlot,
        Flow, FlowKey, Hop, HopSlot, SERVICE_BACKEND,
    },
    trace,
};

/// Seconds for which a slot is used without a look at the flow's record, which ages meanwhile.
pub const LIFE: u32 = 8;
/// Flows that may be idle for less than this, seconds, are not entered: their records would age
/// while they are used.
pub const LEAST_TIMEOUT: u32 = 8 * LIFE;
/// A slot's numbers are taken back when one of them passes a multiple of this, bytes: a record
/// recognizes what is some of it ahead.
pub const BEHIND: u32 = 1 << 22;
/// Numbers further ahead of a record's than this, bytes, are not of its connection.
const FURTHEST: u32 = 1 << 25;
/// Seconds since a client was heard, after which what says nothing new to it goes by the record:
/// its way may be another one by now.
pub const QUIET: u32 = 1;
/// A value of `entered` that makes a slot an old one, whose numbers still count.
pub const OLD: u32 = 1;

/// Slots of the map `hops`, a power of two.
pub const HOPS: u32 = 1024;
/// Slots that a hop may stand in, from its own on.
pub const HOP_PROBES: u32 = 4;

/// Index of the first slot of a flow's pair, of `slots` in all. `secret` is the gateway's own. Which
/// backend of an inline pool was dialled does not matter: the one that answers may be another.
#[inline(always)]
pub fn pair(key: &FlowKey, secret: u64, slots: u32) -> u32 {
    let service = if key.dialled().is_some() { SERVICE_BACKEND } else { key.service };
    let hash = trace::hash_as(key, service, secret.rotate_left(32)) >> 32;
    ((hash * (slots as u64 >> 1)) >> 32) as u32 * 2
}

/// Whether a slot is used at `now`, seconds.
#[inline(always)]
pub const fn is_used(slot: &FastSlot, now: u32) -> bool {
    // Another CPU may have entered it a moment ahead of our clock.
    slot.entered != 0 && now.wrapping_sub(slot.entered).wrapping_add(1) <= LIFE + 1
}

/// Whether a slot is this flow's.
#[inline(always)]
pub fn is_of(slot: &FastSlot, key: &FlowKey) -> bool {
    is_of_client(slot, key) && slot.key.service == key.service
}

/// As [`is_of`], of a packet that a backend sent whose number the key's service has: in an inline
/// pool the slot may be that of a flow which dialled another one, and is held by this one. A port of
/// a client at a backend belongs to one flow, and flows that have another one there have no slot.
#[inline(always)]
pub fn is_held(slot: &FastSlot, key: &FlowKey) -> bool {
    let (dialled, held) = (slot.key.service, slot.holder | SERVICE_BACKEND);
    is_of_client(slot, key)
        && key.service == if dialled & SERVICE_BACKEND != 0 { held } else { dialled }
}

#[inline(always)]
fn is_of_client(slot: &FastSlot, key: &FlowKey) -> bool {
    let (a, b) = (slot.key.client.words(), key.client.words());
    let differ = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
    differ == 0 && slot.key.client_port == key.client_port
}

/// Whether a settled flow may be entered: nothing is to be learned or watched of it, the way back to
/// its client is known, and both sides' packets have the same key.
#[inline(always)]
pub const fn may_be_entered(flow: &Flow) -> bool {
    const WATCHED: u32 = FLOW_CLOSED | FLOW_RIVALLED | FLOW_UNCONFIRMED | FLOW_HOP_WANTED;
    let port = u16::from_ne_bytes(flow.port_at_holder());
    flow.flags & (FLOW_LEARNED | WATCHED) == FLOW_LEARNED
        && flow.client_hop.ifindex != 0
        && port == 0
}

/// What a slot says of a flow that is entered at `now`, seconds, its client's hop standing in
/// `hops` at `hop`.
#[inline(always)]
pub fn slot_of(key: &FlowKey, flow: &Flow, hop: u16, hop_version: u32, now: u32) -> FastSlot {
    let (holder, port) = flow.holding();
    FastSlot {
        version: 0,
        entered: now,
        key: *key,
        seen: flow.seen,
        client_next: flow.client_next,
        server_next: flow.server_next,
        translation: flow.translation(),
        holder,
        port,
        hop,
        hop_version: hop_version as u16,
        heard: now,
    }
}

/// Gives what a slot knows back to its flow's record; `hop` is the slot's own in `hops`. What the
/// record knows better, or what cannot be of the same connection, stays. What was sent to the client
/// went by the hop in `hops`, which was asked about then.
#[inline(always)]
pub fn take_back(slot: &FastSlot, flow: &mut Flow, hop: &HopSlot) {
    let newer = slot.seen.wrapping_sub(flow.client_hop.asked) as i32 > 0;
    let its = hop.version as u16 == slot.hop_version && is_hop(hop, &flow.client_hop);
    if its && newer && hop.hop.asked != 0 {
        flow.client_hop.asked = slot.seen;
        flow.client_hop.mtu = hop.hop.mtu;
        flow.client_hop.flags = hop.hop.flags;
    }
    if slot.seen.wrapping_sub(flow.seen) as i32 > 0 {
        flow.seen = slot.seen;
    }
    if slot.client_next.wrapping_sub(flow.client_next) < FURTHEST {
        flow.client_next = slot.client_next;
    }
    if slot.server_next.wrapping_sub(flow.server_next) < FURTHEST {
        flow.server_next = slot.server_next;
    }
}

/// The own slot of a hop. `secret` is the gateway's own.
#[inline(always)]
pub const fn hop_place(hop: &Hop, secret: u64) -> u32 {
    let w = hop.words();
    let of = hop.ifindex ^ (hop.vlan() as u32) << 20;
    let hash = (w[0] ^ w[2].rotate_left(16)) as u64 | ((w[1] ^ of) as u64) << 32;
    // Two rounds of a multiply-xorshift hash (constant of splitmix64, public domain).
    let hash = (hash ^ secret).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((hash ^ hash >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as u32 & (HOPS - 1)
}

/// Whether a slot holds this hop.
#[inline(always)]
pub fn is_hop(slot: &HopSlot, hop: &Hop) -> bool {
    let (a, b) = (slot.hop.words(), hop.words());
    let vlan = (slot.hop.vlan() ^ hop.vlan()) as u32;
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (slot.hop.ifindex ^ hop.ifindex) | vlan == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Address;

    fn key(number: u32) -> FlowKey {
        let [a, b, c, d] = (0x0a00_0000 + number / 60_000).to_be_bytes();
        let port = (1024 + number % 60_000) as u16;
        FlowKey::of_vip(Address::from_v4([a, b, c, d]), port.to_be_bytes(), 3)
    }

    #[test]
    fn a_slot_is_used_for_as_long_as_a_loan_lasts() {
        let entered = |entered| FastSlot { entered, ..FastSlot::default() };
        for (slot, used) in [
            (entered(1000), true),
            (entered(1001), true),
            (entered(1002), false),
            (entered(1000 - LIFE), true),
            (entered(1000 - LIFE - 1), false),
            (entered(0), false),
            (entered(OLD), false),
        ] {
            assert_eq!(is_used(&slot, 1000), used, "{}", slot.entered);
        }
        // The clock's seconds wrap after 136 years.
        assert!(is_used(&entered(u32::MAX), 2));
    }

    /// Of flows that count in address and port, with half as many flows as slots: by chance one of
    /// ten finds both of its places taken.
    #[test]
    fn flows_spread_over_all_pairs_by_a_secret() {
        const SLOTS: u32 = 1 << 15;
        for secret in [0, 1, 0x1234_5678_9abc_def0] {
            let mut flows = [0u8; SLOTS as usize / 2];
            let mut without = 0;
            for number in 0..SLOTS / 2 {
                let first = pair(&key(number), secret, SLOTS);
                assert!(first < SLOTS && first.is_multiple_of(2));
                let there = &mut flows[first as usize / 2];
                *there += 1;
                without += u32::from(*there > 2);
            }
            assert!((1500..1900).contains(&without), "{without} of {} flows", SLOTS / 2);
        }
        let moved =
            (0..1000).filter(|n| pair(&key(*n), 1, SLOTS) != pair(&key(*n), 2, SLOTS)).count();
        assert!(moved > 990, "the secret moves {moved} of 1000");
        for slots in [0, 1, 2, 3] {
            assert_eq!(pair(&key(7), 1, slots), 0);
        }
    }

    #[test]
    fn a_record_gets_its_numbers_back_and_what_its_hop_learned_of_it() {
        let hop = Hop { ifindex: 3, mtu: 1500, asked: 900, ..Hop::default() };
        let flow = Flow { client_hop: hop, client_next: 1, seen: 900, ..Flow::default() };
        let mut slot = slot_of(&key(1), &flow, 0, 6, 1000);
        slot.client_next = 77;
        slot.seen = 1003;
        slot.heard = 1002;
        let narrower = Hop { mtu: 1400, ..hop };
        let mut record = flow;
        take_back(&slot, &mut record, &HopSlot { hop: narrower, version: 6, used: 0 });
        assert_eq!((record.client_next, record.seen), (77, 1003));
        assert_eq!((record.client_hop.mtu, record.client_hop.asked), (1400, 1003));
        // Another hop stands there by now, or the client went another way.
        for (hop, version) in [(narrower, 8), (Hop { ifindex: 4, ..narrower }, 6)] {
            let mut record = flow;
            take_back(&slot, &mut record, &HopSlot { hop, version, used: 0 });
            assert_eq!((record.client_next, record.client_hop), (77, flow.client_hop));
        }
        // What the record knows better, and what is of something else.
        for (client_next, seen) in [(0, 899), (1 << 30, 0)] {
            let (mut record, other) = (flow, FastSlot { client_next, seen, ..slot });
            take_back(&other, &mut record, &HopSlot::default());
            assert_eq!((record.client_next, record.seen), (flow.client_next, flow.seen));
        }
    }
}
