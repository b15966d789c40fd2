//! Filters, and what a record tells.

use steer_common::shared::{
    Address, Backend, Endpoint, Entrance, SERVICE_BACKEND, Vip, flow_entrance,
};

use super::*;
use crate::{
    address::endpoint,
    report::world::tests::{Build, NOW},
};

fn key(port: u16, service: u16) -> FlowKey {
    let client = Address::from_v4([192, 0, 2, 1]);
    FlowKey { client, client_port: port.to_be_bytes(), service }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// VIP 0 with backends 1 and 2, inline pool 1 with backends 3 and 4.
fn world() -> World {
    let backend = |address: &str, vip_id, vip| Backend {
        endpoint: endpoint(at(address)),
        vip,
        vip_id,
        flags: if vip_id == 0 { 3 } else { 0xb },
        weight: 1,
        ..Backend::default()
    };
    let (vip, pool) = (endpoint(at("198.51.100.10:443")), Endpoint::of_pool("web").unwrap());
    let vip_of = |id| Vip { id, flow_timeout: 600, session_timeout: 600, ..Vip::default() };
    Build {
        vips: vec![(vip, vip_of(0)), (pool, vip_of(1))],
        backends: vec![
            (1, backend("10.0.0.1:443", 0, vip)),
            (2, backend("10.0.0.2:443", 0, vip)),
            (3, backend("10.0.1.3:443", 1, pool)),
            (4, backend("10.0.1.4:443", 1, pool)),
        ],
        entrances: vec![(
            5,
            Entrance { endpoint: endpoint(at("198.51.100.11:443")), ..Entrance::default() },
        )],
        ..Build::default()
    }
    .build()
}

fn flow(state: State, first: u16, owner: u16, flags: u32) -> Flow {
    Flow {
        word: StateWord::new(state, 7).0,
        first,
        owner,
        flags,
        seen: NOW - 10,
        ..Flow::default()
    }
}

#[test]
fn a_filter_means_clients_services_holders_and_states() {
    let world = world();
    let (moved, to_pool) =
        (flow(State::Spliced, 1, 2, FLOW_HIT), flow(State::First, 3, 4, FLOW_HIT));
    let has = |filter: Filter, key: FlowKey, flow: &Flow| filter.has(&world, &key, flow);
    let of = |clients: &str| Filter { clients: clients.parse().ok(), ..Filter::default() };
    for (clients, meant) in [
        ("192.0.2.1", true),
        ("192.0.2.0/24", true),
        ("192.0.2.1:5000", true),
        ("192.0.2.1:5001", false),
        ("192.0.2.2", false),
        ("2001:db8::/32", false),
    ] {
        assert!(of(clients).clients.is_some(), "{clients}");
        assert_eq!(has(of(clients), key(5000, 0), &moved), meant, "{clients}");
    }
    for (vip, of_vip, of_pool) in [("198.51.100.10:443", true, false), ("web", false, true)] {
        let filter = || Filter { vip: vip.parse().ok(), ..Filter::default() };
        assert_eq!(has(filter(), key(1, 0), &moved), of_vip, "{vip}");
        assert_eq!(has(filter(), key(1, SERVICE_BACKEND | 3), &to_pool), of_pool, "{vip}");
    }
    // Whoever holds it counts: of a moved flow the owner, of one that was not moved the first.
    for (backend, n) in [
        ("10.0.0.1:443", [false, false]),
        ("10.0.0.2:443", [true, false]),
        ("10.0.1.3:443", [false, true]),
    ] {
        let filter = || Filter { backend: Some(at(backend)), ..Filter::default() };
        let found = [
            has(filter(), key(1, 0), &moved),
            has(filter(), key(1, SERVICE_BACKEND | 3), &to_pool),
        ];
        assert_eq!(found, n, "{backend}");
    }
    for (state, meant) in [(State::Spliced, true), (State::First, false), (State::Wait, false)] {
        let filter = Filter { state: Some(state), ..Filter::default() };
        assert_eq!(has(filter, key(1, 0), &moved), meant, "{state:?}");
    }
}

#[test]
fn clients_and_states_that_are_none_are_refused_with_what_was_expected() {
    for (text, expected) in [
        ("", "expected an address"),
        ("192.0.2.1:0", "has port 0"),
        ("192.0.2.1:70000", "expected an address"),
        ("192.0.2.1/33", "expected a length from 0 to 32"),
        ("192.0.2.1/24", "expected 192.0.2.0/24"),
        ("client", "with a port: 10.0.0.2:40000"),
    ] {
        let told = text.parse::<Clients>().unwrap_err();
        assert!(told.contains(expected), "{text}: {told}");
    }
    for text in ["192.0.2.1", "192.0.2.0/24", "192.0.2.1:5000", "[2001:db8::2]:443"] {
        assert_eq!(text.parse::<Clients>().unwrap().to_string(), text);
    }
    let told = state_of_word("moved").unwrap_err();
    assert!(told.contains("syn, syn-ack, established, gather, wait, spliced, first, adopted"));
    for state in (1..=8).filter_map(State::from_number) {
        assert_eq!(state_of_word(state.word()), Ok(state));
    }
}

#[test]
fn a_reason_is_told_for_what_each_record_says() {
    let retried = FLOW_HELLO | FLOW_OFFERED | FLOW_RETRIED;
    for (state, owner, flags, reason) in [
        (State::Syn, 1, 0, Reason::Undecided),
        (State::SynAck, 1, 0, Reason::Undecided),
        (State::Established, 1, 0, Reason::Undecided),
        (State::Gather, 1, FLOW_OFFERED, Reason::Undecided),
        (State::Wait, 2, FLOW_HELLO | FLOW_OFFERED | FLOW_HIT, Reason::Session),
        (State::Wait, 2, FLOW_HELLO | FLOW_OFFERED | FLOW_HIT | FLOW_NAMED, Reason::KeyName),
        (State::Spliced, 2, FLOW_HELLO | FLOW_OFFERED | FLOW_HIT, Reason::Session),
        (State::Spliced, 2, FLOW_HELLO | FLOW_OFFERED | FLOW_HIT | FLOW_NAMED, Reason::KeyName),
        (State::Spliced, 2, FLOW_HELLO | FLOW_OFFERED, Reason::Search),
        (State::Spliced, 2, retried, Reason::Retried),
        (State::First, 1, FLOW_HELLO | FLOW_OFFERED | FLOW_HIT | FLOW_AT_OWNER, Reason::AtOwner),
        (State::First, 2, FLOW_HELLO | FLOW_OFFERED | FLOW_HIT, Reason::GivenUp),
        (State::First, 1, FLOW_HELLO | FLOW_OFFERED | FLOW_HIT, Reason::NotMoved),
        (State::First, 1, FLOW_HELLO | FLOW_OFFERED, Reason::Unknown),
        (State::First, 1, FLOW_HELLO, Reason::NothingOffered),
        (State::First, 1, 0, Reason::NoHello),
        (State::First, 1, FLOW_UNCONFIRMED, Reason::Adopted),
        (State::First, 1, retried, Reason::Retried),
        (State::Adopted, 1, 0, Reason::Adopted),
    ] {
        let told = Reason::of(&flow(state, 1, owner, flags));
        assert_eq!(told, reason, "{state:?} {flags:x}");
        assert_eq!(serde_json::to_value(told).unwrap(), told.word());
    }
}

#[test]
fn an_outcome_is_what_the_holder_answered() {
    let with = |version: Version, seen| {
        let mut flow = flow(State::First, 1, 1, FLOW_HELLO);
        (flow.follow.version, flow.follow.seen) = (version as u16, seen);
        Outcome::of(&flow)
    };
    for (version, bits, outcome) in [
        (Version::Tls12, 0, Outcome::Unknown),
        (Version::Tls12, seen::HELLO, Outcome::Unknown),
        (Version::Tls12, seen::HELLO | seen::FULL, Outcome::Full),
        (Version::Tls12, seen::HELLO | seen::RESUMED, Outcome::Resumed),
        (Version::Tls13, 0, Outcome::Unknown),
        (Version::Tls13, seen::HELLO | seen::RETRY, Outcome::Unknown),
        (Version::Tls13, seen::HELLO, Outcome::Full),
        (Version::Tls13, seen::HELLO | seen::PSK, Outcome::Resumed),
    ] {
        assert_eq!(with(version, bits), outcome, "{version:?} {bits:x}");
    }
}

#[test]
fn flows_list_has_the_documented_shape_and_shows_four_bytes_of_an_identifier() {
    let mut moved = flow(State::Spliced, 1, 2, FLOW_HELLO | FLOW_OFFERED | FLOW_HIT);
    (moved.offered_kind, moved.offered_len) = (Kind::SessionId as u8, 32);
    (moved.offered_bytes, moved.offered_index) = ([0xab; 32], NO_PSK);
    moved.agreed = options::SACK | options::TIMESTAMPS;
    moved.owner_port = 2048_u16.to_be_bytes();
    (moved.follow.version, moved.follow.seen) = (0x0303, seen::HELLO | seen::RESUMED);
    let value = serde_json::to_value(FlowReport::new(&world(), &key(5000, 0), &moved)).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "client": "192.0.2.1:5000", "vip": "198.51.100.10:443", "dialled": "198.51.100.10:443",
            "state": "spliced", "ended": false, "first": 1, "first_address": "10.0.0.1:443",
            "holder": 2, "holder_address": "10.0.0.2:443", "owner": 2, "owner_address": "10.0.0.2:443",
            "port_at_holder": 2048,
            "offered": {"kind": "session-id", "id": "abababab", "length": 32, "identity": null},
            "reason": "session", "outcome": "resumed", "version": "1.2",
            "options": ["sack", "timestamps"], "idle_seconds": 10
        })
    );
    assert!(!value.to_string().contains("ababababab"));
}

#[test]
fn of_vips_that_share_a_pool_the_one_that_was_dialled_is_named() {
    let dialled = |entrance: u8| {
        let flow = flow(State::First, 1, 1, FLOW_HELLO | flow_entrance(entrance));
        let report = FlowReport::new(&world(), &key(1, 0), &flow);
        let vip = report.vip.map(|vip| vip.to_string());
        (vip, report.dialled.map(|at| at.to_string()))
    };
    let pool = Some("198.51.100.10:443".to_owned());
    assert_eq!(dialled(0), (pool.clone(), pool.clone()));
    assert_eq!(dialled(5), (pool.clone(), Some("198.51.100.11:443".to_owned())));
    assert_eq!(dialled(6), (pool, None), "a VIP that is gone");
}

#[test]
fn a_flow_of_a_pool_names_the_backend_that_was_dialled() {
    let report = |service, first| {
        let flow = flow(State::First, first, first, FLOW_HELLO);
        let report = FlowReport::new(&world(), &key(1, service), &flow);
        (report.vip.map(|vip| vip.to_string()), report.dialled.map(|at| at.to_string()))
    };
    let told = (Some("web".to_owned()), Some("10.0.1.4:443".to_owned()));
    assert_eq!(report(SERVICE_BACKEND | 4, 4), told);
    assert_eq!(report(SERVICE_BACKEND | 9, 9), (None, None), "forgotten");
    assert_eq!(report(9, 1), (None, None), "a VIP that is gone");
}
