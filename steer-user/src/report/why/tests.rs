//! What is told of flows and identifiers.

use steer_common::shared::{
    Address, FLOW_AT_OWNER, FLOW_HELLO, FLOW_HIT, FLOW_OFFERED, KeyName, Rest,
};

use super::*;
use crate::report::world::tests::{Build, NOW, session, session_key};
use steer_common::{
    flow::{State, StateWord},
    wire::tls::server_flight::seen,
};

fn key() -> FlowKey {
    FlowKey::of_vip(Address::from_v4([192, 0, 2, 1]), 5000_u16.to_be_bytes(), 0)
}

/// A flow that offered the session of backend 2.
fn flow(state: State, owner: u16, flags: u32, answered: u8) -> Flow {
    let mut flow = Flow {
        word: StateWord::new(state, 7).0,
        first: 1,
        owner,
        flags: flags | FLOW_HELLO | FLOW_OFFERED,
        seen: NOW - 3,
        offered_kind: Kind::SessionId as u8,
        offered_len: 32,
        offered_index: NO_PSK,
        offered_bytes: [0xab; 32],
        ..Flow::default()
    };
    (flow.follow.version, flow.follow.seen) = (Version::Tls12 as u16, seen::HELLO | answered);
    flow
}

fn next(world: &World, first: u16) -> Next {
    let (by, known) = (session_key(), Known::Session(session()));
    let sender = Sender { client: None, first: Some(first) };
    let verdict = world.next(&by, &known, sender);
    Next { known: Some((by, known, verdict)), what: "session ID abababab..".to_owned() }
}

#[test]
fn a_moved_flow_is_told_in_plain_sentences() {
    let world = Build::two().build();
    let moved = flow(State::Spliced, 2, FLOW_HIT, seen::RESUMED);
    let told = story(&world, &key(), &moved, &next(&world, 1));
    assert_eq!(
        told.sentences,
        [
            "192.0.2.1:5000 dialled VIP 198.51.100.10:443; its state is spliced, its last packet passed 3s ago.",
            "Its hello offered session ID abababab.. (32 bytes).",
            "The session was known: the flow was moved from its first backend 10.0.0.1:443 to the owner 10.0.0.2:443.",
            "10.0.0.2:443 accepted it and resumed (TLS 1.2).",
            "Now: session ID abababab.. is known; its owner 10.0.0.2:443 is up. The next hello with it is moved to 10.0.0.2:443.",
        ]
    );
    assert_eq!(told.next.as_deref(), Some("moved"));
    let json = serde_json::to_string(&told).unwrap();
    assert!(!json.contains("ababababab") && json.contains("\"state\":\"spliced\""), "{json}");
}

#[test]
fn a_flow_that_stays_says_what_was_known_and_what_comes_next() {
    let world = Build::two().build();
    let sentences = |flow: &Flow, next: &Next| story(&world, &key(), flow, next).sentences;
    let at_owner = flow(State::First, 1, FLOW_HIT | FLOW_AT_OWNER, seen::RESUMED);
    let told = sentences(&at_owner, &next(&world, 2));
    assert_eq!(
        told[2],
        "It was known, and its first backend 10.0.0.1:443 owns it: there was nothing to move."
    );
    assert!(told[4].ends_with("The next hello with it comes to its owner at once."), "{told:?}");

    let nothing = || Next { known: None, what: "session ID abababab..".to_owned() };
    let told = sentences(&flow(State::First, 1, 0, seen::FULL), &nothing());
    assert_eq!(told[2], "Nobody knew it: the flow stays with its first backend 10.0.0.1:443.");
    assert_eq!(told[3], "10.0.0.1:443 did not accept it: a full handshake (TLS 1.2).");
    let why = "nothing is known of session ID abababab..; a next hello with it stays";
    assert!(told[4].contains(why), "{told:?}");

    let mut given_up = flow(State::First, 2, FLOW_HIT, seen::FULL);
    given_up.owner_tries = 3;
    let told = sentences(&given_up, &nothing());
    assert!(told[2].contains("its owner is 10.0.0.2:443: that one was asked 3 times"), "{told:?}");

    let mut silent = flow(State::Established, 1, 0, 0);
    (silent.flags, silent.offered_kind, silent.first_port) = (0, 0, 1024_u16.to_be_bytes());
    let told = sentences(&silent, &Next { known: None, what: String::new() });
    assert_eq!(told[1], "It sent no hello yet.");
    assert!(told[2].contains("10.0.0.1:443 holds it until the hello decides"), "{told:?}");
    assert!(told[2].contains("knows the client by port 1024"), "{told:?}");
}

#[test]
fn a_session_says_whose_it_is_and_what_the_next_hello_gets() {
    let told =
        |build: Build| identifier(&build.build(), &session_key(), &Known::Session(session()), None);
    let story = told(Build::two());
    assert_eq!(
        story.sentences,
        [
            "The session ID abababab.. (32 bytes) of VIP 198.51.100.10:443 was learned 90s ago, used last 4s ago, and accepted \
             3 times.",
            "Its owner 10.0.0.2:443 is up.",
            "The next hello with it is moved to 10.0.0.2:443.",
        ]
    );
    assert!(!serde_json::to_string(&story).unwrap().contains("ababababab"));
    let rests = vec![Rest { until: NOW + 5, silent: 2, last: 0 }; 3];
    let story = told(Build { rests, ..Build::two() });
    assert_eq!(story.next.as_deref(), Some("owner-resting"));
    assert_eq!(
        story.sentences[2],
        "The next hello with it stays with its first backend (owner-resting): its owner did not answer the last moves, and rests."
    );
    let story = told(Build { leave: true, ..Build::two() });
    assert!(story.sentences[2].contains("the gateway is being left"), "{story:?}");
    let story = told(Build { vips: Vec::new(), ..Build::two() });
    assert_eq!((story.next, story.vip), (None, None));
}

#[test]
fn a_key_name_is_found_by_its_digits_and_by_those_of_a_ticket_that_has_it() {
    let key = SessionKey::new(0, Kind::KeyName, &[0xa1, 0xb2, 0xc3, 0xd4]).unwrap();
    let is = |at, digits: &str| is_name(&key, at, &Matcher::of_prefix(digits).unwrap());
    assert!(is(0, "a1b2c3d4") && is(0, "a1b2c3d4eeff00") && is(1, "00a1b2c3d4ee"));
    assert!(!is(0, "a1b2c3d5") && !is(1, "00a1b2c3") && !is(1, "01a1b2c3d5"));
    let known = Known::KeyName(KeyName { owner: 2, last_seen: NOW, ..KeyName::default() });
    let story = identifier(&Build::two().build(), &key, &known, None);
    assert_eq!((story.id.as_str(), story.next.as_deref()), ("a1b2c3d4", Some("moved")));
}

#[test]
fn what_is_asked_about_is_told_apart_or_refused() {
    for text in ["192.0.2.1", "192.0.2.1:5000", "2001:db8::1", "[2001:db8::1]:5000"] {
        assert!(matches!(text.parse(), Ok(What::Client(_))), "{text}");
    }
    for text in ["abcdef01", "ABCDEF012"] {
        assert_eq!(text.parse(), Ok(What::Identifier(text.to_ascii_lowercase())));
    }
    for (text, expected) in [
        ("", "neither a client nor an identifier"),
        ("abcdef0", "too short for an identifier"),
        ("192.0.2.0/24", "stands for many clients"),
        ("abcdefgh", "neither a client nor an identifier"),
    ] {
        let told = text.parse::<What>().unwrap_err();
        assert!(told.contains(expected), "{text}: {told}");
    }
    let ticket = "ab".repeat(200).parse();
    assert_eq!(ticket, Ok(What::Identifier("ab".repeat(32))), "of a ticket so much is kept");
    let whole: What = "ab".repeat(32).parse().unwrap();
    assert_eq!(whole.to_string(), "identifier abababab..");
}
