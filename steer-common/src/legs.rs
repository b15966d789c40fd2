//! Legs: a client's address and port as one backend sees them.
//!
//! At any time a leg belongs to one live connection at most. A client may use one port for a VIP
//! and for a backend's own address at once, and a balancer in front uses one port towards several
//! servers. Where the leg is taken, a connection has another port at its backend, chosen here.

use crate::shared::{Address, FlowKey};

/// Ports that are tried for one leg: where a balancer hides all clients behind one address, a third of
/// them may be in use, or wait for the servers' TIME_WAIT.
pub const TRIES: u32 = 16;
/// The lowest port that is given.
const LOWEST: u32 = 1024;
/// How many there are from there on: what lies above is what Linux gives to clients of its own.
const PORTS: u32 = 32_768 - LOWEST;

/// The port, big-endian, that try number `attempt` gives a client's connection at a backend.
/// `number` is the client's initial sequence number, so that connections differ.
#[inline(always)]
pub const fn candidate(key: &FlowKey, number: u32, attempt: u32) -> [u8; 2] {
    let port = u16::from_be_bytes(key.client_port) as u32;
    let hash =
        (number ^ port << 16 ^ key.service as u32).wrapping_mul(0x9e37_79b1) ^ folded(&key.client);
    let hash = (hash ^ hash >> 15).wrapping_add(attempt.wrapping_mul(0x85eb_ca77));
    ((LOWEST + (hash ^ hash >> 13) % PORTS) as u16).to_be_bytes()
}

#[inline(always)]
const fn folded(address: &Address) -> u32 {
    let w = address.words();
    (w[0] ^ w[1] ^ w[2] ^ w[3]).wrapping_mul(0xc2b2_ae3d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_differ_and_stay_below_what_clients_use() {
        for port in [1u16, 1024, 40_000, 65_535] {
            let key = FlowKey::of_vip(Address::from_v4([10, 0, 0, 1]), port.to_be_bytes(), 0);
            let ports =
                [0, 1, 2, 3].map(|attempt| u16::from_be_bytes(candidate(&key, 77, attempt)));
            assert!(ports.iter().all(|port| (1024..32_768).contains(port)), "{ports:?}");
            assert!((1..4).all(|i| !ports[..i].contains(&ports[i])), "{ports:?}");
        }
    }
}
