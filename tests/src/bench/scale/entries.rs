//! What tables are filled with: entry number N of each.

use anyhow::{Context, Result};
use steer_common::{
    flow::{State, StateWord},
    session::Kind,
    shared::{Address, FLOW_LEARNED, Flow, FlowKey, Hop, Session, SessionKey},
    wire::tls::server_flight::Follow,
};
use steer_user::clock;

/// Initial sequence number of every backend's stream.
pub(super) const SERVER_ISN: u32 = 0x2000_0000;

/// Entries that fill a table: as many as it has, but for those that the kernel keeps at hand for
/// each CPU (a full LRU table would evict).
pub(super) fn fill_of(slots: u32) -> u32 {
    slots - slots / 64
}

/// A session ID: its number, eight times over, as the programs of `steer-ebpf/src/bench_scale.rs`
/// have it.
pub(super) fn session_key(vip: u16, number: u32) -> Result<SessionKey> {
    SessionKey::new(vip, Kind::SessionId, &number.to_ne_bytes().repeat(8))
        .context("make the key of a session")
}

/// A session of this backend, learned just now.
pub(super) fn session(owner: u16) -> Session {
    let now = clock::seconds();
    Session { owner, first_seen: now, last_seen: now, ..Session::default() }
}

/// The flow of a client of 10.128.0.0/9.
pub(super) fn flow_key(vip: u16, number: u32) -> FlowKey {
    let client = Address::from_v4((0x0a80_0000 + (number >> 14)).to_be_bytes());
    FlowKey::of_vip(client, (0x4000 + (number & 0x3fff) as u16).to_be_bytes(), vip)
}

/// A flow that has its backend for good and from which all is learned.
pub(super) fn settled(backend: u16) -> Flow {
    Flow { flags: FLOW_LEARNED, ..listening(backend, Hop::default()) }
}

/// A flow whose backend is about to answer the hello.
pub(super) fn listening(backend: u16, client_hop: Hop) -> Flow {
    Flow {
        word: StateWord::new(State::First, 0x1000_0000).0,
        first_isn: SERVER_ISN,
        server_next: SERVER_ISN + 1,
        client_next: 0x1000_0001,
        follow: Follow::new(SERVER_ISN + 1),
        seen: clock::seconds(),
        first: backend,
        owner: backend,
        client_hop,
        ..Flow::default()
    }
}
