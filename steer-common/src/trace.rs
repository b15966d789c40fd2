//! Traces of flows: which backend holds a flow that `flows` may have forgotten.
//!
//! `flows` is an LRU table: where more connections come than it has room for, an idle one is
//! evicted. Its client or its backend may still speak, and a packet of a backend does not say
//! whether it belongs to a VIP's flow or to a connection that its client dialled itself. So every
//! flow leaves eight bytes in a table of its own, an array in which a flow's line follows from its
//! key: a fingerprint, the backend and a time. A trace is evidence (two different flows have the
//! same fingerprint in the same line once in 2^28), unlike the lookup table, which is a guess.

use crate::shared::{FlowKey, TRACE_WAYS, TraceLine};

/// Lines of the map `traces`, a power of two: room for a million flows.
pub const LINES: u32 = 131_072;

/// Lines of the map `syn_traces`, a power of two: room for a quarter of a million handshakes.
pub const SYN_LINES: u32 = 32_768;

/// Seconds of one unit of a trace's time.
const UNIT: u32 = 64;
/// A trace older than this is none: a flow that was not closed where we could see it, units (about
/// a day).
const OLDEST: u16 = 1350;

/// Where a flow's trace stands, and how it is known there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Index of its line, below [`LINES`].
    pub line: u32,
    /// Its fingerprint, never 0.
    pub fingerprint: u32,
}

/// The place of a flow. `secret` is the gateway's own, so that nobody can choose flows of one line.
#[inline(always)]
pub fn place(key: &FlowKey, secret: u64) -> Place {
    let hash = hash(key, secret);
    Place { line: hash as u32 & (LINES - 1), fingerprint: (hash >> 32) as u32 | 1 }
}

/// A hash of a flow's key under a secret.
#[inline(always)]
pub fn hash(key: &FlowKey, secret: u64) -> u64 {
    hash_as(key, key.service, secret)
}

/// As [`hash`], with another service than the key's.
#[inline(always)]
pub fn hash_as(key: &FlowKey, service: u16, secret: u64) -> u64 {
    let w = key.client.words();
    let port = u16::from_ne_bytes(key.client_port) as u64;
    let mut hash = secret ^ (port << 16 | service as u64);
    hash = mix(hash ^ (w[0] as u64 | (w[1] as u64) << 32));
    mix(hash ^ (w[2] as u64 | (w[3] as u64) << 32))
}

/// The backend that the flow of this fingerprint was left at. `now` in seconds.
#[inline(always)]
pub fn find(line: &TraceLine, fingerprint: u32, now: u32) -> Option<u16> {
    let mut found = None;
    for way in 0..TRACE_WAYS {
        let slot = line.slots[way];
        if slot as u32 == fingerprint && age(slot, now) <= OLDEST {
            found = Some((slot >> 32) as u16);
        }
    }
    found
}

/// Enters a flow, in place of its own older trace, else of none, else of the oldest one. `now` in
/// seconds.
#[inline(always)]
pub fn enter(line: &mut TraceLine, fingerprint: u32, backend: u16, now: u32) {
    let (mut worst, mut at) = (0u32, 0);
    for way in 0..TRACE_WAYS {
        let slot = line.slots[way];
        let worth = if slot as u32 == fingerprint {
            u32::MAX
        } else if slot == 0 {
            u32::MAX - 1
        } else {
            1 + age(slot, now) as u32
        };
        if worth > worst {
            (worst, at) = (worth, way);
        }
    }
    let slot = fingerprint as u64 | (backend as u64) << 32 | (time(now) as u64) << 48;
    for way in 0..TRACE_WAYS {
        if way == at {
            line.slots[way] = slot;
        }
    }
}

/// Forgets a flow.
#[inline(always)]
pub fn forget(line: &mut TraceLine, fingerprint: u32) {
    for way in 0..TRACE_WAYS {
        if line.slots[way] as u32 == fingerprint {
            line.slots[way] = 0;
        }
    }
}

#[inline(always)]
const fn time(seconds: u32) -> u16 {
    (seconds / UNIT) as u16
}

#[inline(always)]
const fn age(slot: u64, now: u32) -> u16 {
    let age = time(now).wrapping_sub((slot >> 48) as u16);
    // Another CPU may have entered it by a clock a moment ahead of ours.
    if age as i16 == -1 { 0 } else { age }
}

/// One round of a multiply-xorshift hash (the constant is that of splitmix64, public domain).
#[inline(always)]
const fn mix(h: u64) -> u64 {
    let h = (h ^ h >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^ h >> 29
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Address;

    const NOW: u32 = 1_000_000;

    fn key(client: u32, port: u16) -> FlowKey {
        FlowKey::of_vip(Address::from_v4(client.to_be_bytes()), port.to_be_bytes(), 3)
    }

    #[test]
    fn a_flow_is_found_where_it_was_entered_and_nobody_else_is() {
        let mut line = TraceLine::default();
        for fingerprint in [1, 3, 5] {
            enter(&mut line, fingerprint, fingerprint as u16 + 100, NOW);
        }
        assert_eq!(find(&line, 3, NOW + 60), Some(103));
        assert_eq!(find(&line, 7, NOW), None);
        forget(&mut line, 3);
        assert_eq!((find(&line, 3, NOW), find(&line, 5, NOW)), (None, Some(105)));
    }

    #[test]
    fn a_full_line_gives_up_its_oldest_flow_and_a_flow_its_own_older_trace() {
        let mut line = TraceLine::default();
        for n in 0..TRACE_WAYS as u32 {
            enter(&mut line, 2 * n + 1, n as u16, NOW + n * UNIT);
        }
        enter(&mut line, 5, 77, NOW + 9 * UNIT);
        let now = NOW + 10 * UNIT;
        assert_eq!((find(&line, 1, now), find(&line, 5, now)), (Some(0), Some(77)));
        enter(&mut line, 99, 9, now);
        assert_eq!((find(&line, 1, now), find(&line, 99, now)), (None, Some(9)));
    }

    #[test]
    fn a_trace_is_believed_for_a_day() {
        let mut line = TraceLine::default();
        enter(&mut line, 1, 4, NOW);
        assert_eq!(find(&line, 1, NOW + 23 * 3600), Some(4));
        assert_eq!(find(&line, 1, NOW + 25 * 3600), None);
        // A clock of another CPU that is a moment behind.
        assert_eq!(find(&line, 1, NOW - 1), Some(4));
    }

    #[test]
    fn neighbouring_clients_and_ports_spread_over_lines_and_fingerprints() {
        let mut lines = [0u8; 1024];
        for client in 0..64u32 {
            for port in 0..64u16 {
                let at = place(&key(0x0a00_0000 + client, 40_000 + port), 0x1234_5678_9abc_def0);
                lines[(at.line % 1024) as usize] += 1;
            }
        }
        // 4096 flows over 1024 places: four each, and never sixteen more.
        assert!(lines.iter().all(|n| *n < 20), "{lines:?}");
    }
}
