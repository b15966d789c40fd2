//! What steer would have kept, and what not.

use std::time::Duration;

use steer_user::assess::Options;

use crate::{
    assert_numbers, assess, assess_files,
    capture::{A, Answer, B, Capture, Hello, MS, SECOND},
    defaults,
};

const ID: [u8; 32] = [7; 32];
const OTHER: [u8; 32] = [8; 32];
const X: &str = "192.0.2.1:40000";
const Y: &str = "192.0.2.2:40001";

/// A session of A is offered to B, so long afterwards.
fn offered_elsewhere(after: u64) -> Capture {
    let mut capture = Capture::default();
    capture.visit(0, (X, A), Hello::offering(&[]), Answer::Issues(&ID));
    capture.visit(after, (Y, B), Hello::offering(&ID), Answer::Issues(&OTHER));
    capture
}

#[test]
fn a_session_that_another_member_holds_would_have_been_kept() {
    let report = assess(&offered_elsewhere(599 * SECOND));
    assert_numbers(
        &report,
        &[
            ("/total/handshakes", 2),
            ("/total/offered", 1),
            ("/total/refused", 1),
            ("/total/kept", 1),
            ("/total/kept_at_most", 1),
            ("/members/0/kept_for", 1),
            ("/members/0/kept", 0),
            ("/members/1/kept", 1),
            ("/other_address/refused", 1),
            ("/legs/moves", 1),
            ("/legs/taken", 0),
            ("/ages/2/refused", 1),
        ],
    );
    assert_eq!(report["side"], "inside");
    assert_eq!(report["identifiers"][0]["word"], "session-id");
    assert_eq!(report["versions"][0]["word"], "1.2");
}

#[test]
fn what_steer_would_have_forgotten_is_not_kept() {
    let capture = offered_elsewhere(602 * SECOND);
    let report = assess(&capture);
    assert_numbers(&report, &[("/total/refused", 1), ("/total/kept", 0), ("/total/expired", 1)]);
    let longer = Options { session_timeout: Duration::from_secs(3600), ..defaults() };
    let report = assess_files(&[capture.pcap()], longer);
    assert_numbers(&report, &[("/total/kept", 1), ("/total/expired", 0)]);
}

#[test]
fn a_session_that_nobody_issued_counts_as_the_most_that_may_be_kept() {
    let mut capture = Capture::default();
    capture.visit(0, (X, A), Hello::offering(&ID), Answer::Issues(&OTHER));
    capture.visit(SECOND, (Y, B), Hello::offering(&OTHER), Answer::Resumes);
    let report = assess(&capture);
    assert_numbers(
        &report,
        &[
            ("/total/offered", 2),
            ("/total/accepted", 1),
            ("/total/kept", 0),
            ("/total/owner_unknown", 1),
            ("/total/kept_at_most", 1),
        ],
    );
}

#[test]
fn one_address_is_taken_for_a_vip_and_its_refusals_for_the_most_that_may_be_kept() {
    let mut capture = Capture::default();
    capture.visit(0, (X, A), Hello::offering(&[]), Answer::Issues(&ID));
    capture.visit(SECOND, (Y, A), Hello::offering(&ID), Answer::Issues(&OTHER));
    let report = assess(&capture);
    assert_eq!(report["side"], "outside");
    assert_numbers(&report, &[("/total/refused_by_owner", 1), ("/total/kept", 0)]);
}

#[test]
fn members_that_are_named_are_all_there_are() {
    let capture = offered_elsewhere(SECOND);
    let named = Options { members: vec![A.parse().expect("an address")], ..defaults() };
    let report = assess_files(&[capture.pcap()], named);
    assert_numbers(&report, &[("/total/handshakes", 1), ("/connections/others", 1)]);
    assert_eq!(report["members_named"], true);
}

#[test]
fn a_leg_is_taken_while_its_connection_lives_and_for_a_minute_after() {
    let leg = |closed: Option<u64>, offered: u64| {
        let mut capture = Capture::default();
        capture.visit(0, (X, A), Hello::offering(&[]), Answer::Issues(&ID));
        // The client's port is in use at A, and used again towards B.
        if let Some(closed) = closed {
            capture.close(closed, (X, A));
        }
        capture.visit(offered, (X, B), Hello::offering(&ID), Answer::Issues(&OTHER));
        let report = assess(&capture);
        (report["legs"]["taken"].clone(), report["legs"]["lingering"].clone())
    };
    assert_eq!(leg(None, SECOND), (1.into(), 0.into()));
    assert_eq!(leg(Some(SECOND), 30 * SECOND), (0.into(), 1.into()));
    assert_eq!(leg(Some(SECOND), 62 * SECOND), (0.into(), 0.into()));
}

#[test]
fn a_hello_longer_than_the_programs_read_is_told() {
    let mut capture = Capture::default();
    capture.visit(0, (X, A), Hello { filler: 12_300, ..Hello::offering(&ID) }, Answer::Resumes);
    capture.visit(SECOND, (Y, B), Hello { filler: 2000, ..Hello::offering(&ID) }, Answer::Resumes);
    let report = assess(&capture);
    assert_numbers(
        &report,
        &[
            ("/hellos/read", 2),
            ("/hellos/in_pieces", 2),
            ("/hellos/beyond", 1),
            ("/hellos/window", 12_288),
        ],
    );
}

#[test]
fn behind_a_proxy_the_client_that_it_announces_counts() {
    let proxied = |last: u8| format!("PROXY TCP4 198.51.100.{last} 192.0.2.9 5000 443\r\n");
    let (one, other) = (proxied(1), proxied(2));
    let mut capture = Capture::default();
    let hello = |preamble, id| Hello { preamble, ..Hello::offering(id) };
    capture.visit(0, (X, A), hello(one.as_bytes(), &[]), Answer::Issues(&ID));
    capture.visit(SECOND, (Y, A), hello(one.as_bytes(), &ID), Answer::Resumes);
    capture.visit(2 * SECOND, (X, B), hello(other.as_bytes(), &ID), Answer::Issues(&OTHER));
    let report = assess(&capture);
    assert_numbers(
        &report,
        &[("/same_address/accepted", 1), ("/other_address/refused", 1), ("/total/kept", 1)],
    );
}

#[test]
fn times_are_of_the_hello_to_the_end_of_the_servers_handshake() {
    let report = assess(&offered_elsewhere(SECOND));
    let near = |pointer: &str, milliseconds: f64| {
        let told = report.pointer(pointer).and_then(serde_json::Value::as_f64).expect("a time");
        assert!((told / 1000.0 - milliseconds).abs() < milliseconds / 50.0, "{pointer}: {told}");
    };
    near("/times/full/median_microseconds", 4.0);
    // It is asked at 1 and 4 ms, and answers at 3 and 5 ms.
    near("/times/full_own/median_microseconds", 3.0);
    let mut resumed = Capture::default();
    resumed.visit(0, (X, A), Hello::offering(&ID), Answer::Resumes);
    let report = assess(&resumed);
    assert!(
        report["times"]["resumed"]["median_microseconds"].as_u64().expect("a time") / 10
            == MS / 10_000
    );
}
