//! What mirror ports do to captures: packets twice, tags, one direction, pieces missing.

use crate::{
    assert_numbers, assess, assess_files,
    capture::{A, Answer, B, Capture, From, Hello, MS, SECOND},
    defaults, number,
};

const ID: [u8; 32] = [7; 32];
const OTHER: [u8; 32] = [8; 32];
const X: &str = "192.0.2.1:40000";
const Y: &str = "192.0.2.2:40001";

fn two_visits() -> Capture {
    let mut capture = Capture::default();
    capture.visit(0, (X, A), Hello::offering(&[]), Answer::Issues(&ID));
    capture.visit(SECOND, (Y, B), Hello::offering(&ID), Answer::Issues(&OTHER));
    capture
}

/// A frame in a VLAN.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
}

/// Every packet once more in a VLAN, so much later.
fn mirrored(capture: &Capture, later: u64) -> Capture {
    let mut both = capture.clone();
    both.frames.extend(
        capture.frames.iter().map(|(time, frame, len)| (time + later, tagged(frame), len + 4)),
    );
    both.frames.sort_by_key(|frame| frame.0);
    both
}

#[test]
fn a_packet_that_is_there_twice_counts_once() {
    let once = two_visits();
    let report = assess(&mirrored(&once, MS));
    assert_numbers(
        &report,
        &[("/total/handshakes", 2), ("/total/kept", 1), ("/connections/copies", 0)],
    );
    assert_eq!(number(&report, "/intake/duplicates") as usize, once.frames.len());
}

#[test]
fn a_connection_that_is_there_twice_counts_once() {
    let report = assess(&mirrored(&two_visits(), 3 * MS));
    assert_numbers(
        &report,
        &[
            ("/total/handshakes", 2),
            ("/total/kept", 1),
            ("/connections/copies", 2),
            ("/intake/duplicates", 0),
        ],
    );
}

#[test]
fn the_order_of_files_does_not_matter() {
    let all = two_visits();
    let whole = assess(&all);
    let mut parts = [Capture::default(), Capture::default(), Capture::default()];
    for (index, frame) in all.frames.iter().enumerate() {
        parts[index % 3].frames.push(frame.clone());
    }
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let files = order.map(|index: usize| parts[index].pcap());
        let merged = assess_files(&files, defaults());
        for part in ["total", "members", "connections", "times", "legs"] {
            assert_eq!(merged[part], whole[part], "{part}, {order:?}");
        }
    }
}

#[test]
fn every_kind_of_stamp_is_the_same_time() {
    let all = two_visits();
    let mut last = all.clone();
    // Its session is 599.9995 s old, and 600.5 s a second later: nothing but the stamps says so.
    last.frames.iter_mut().skip(all.frames.len() / 2).for_each(|frame| frame.0 += 300 * SECOND);
    let whole = assess(&last);
    for file in [
        last.nanoseconds(),
        last.pcapng(6, 1_000_000),
        last.pcapng(9, 1_000_000_000),
        last.pcapng(3, 1000),
        last.pcapng(0x80 | 20, 1 << 20),
    ] {
        let report = assess_files(&[file], defaults());
        assert_eq!(report["ages"], whole["ages"]);
        assert_eq!(report["intake"]["seconds"], whole["intake"]["seconds"]);
        assert_eq!(report["intake"]["without_time"], 0);
    }
    assert_numbers(&whole, &[("/intake/seconds", 301), ("/ages/2/refused", 1)]);
}

#[test]
fn one_direction_alone_says_nothing_and_why() {
    let all = two_visits();
    for port in [443u16, 40_000] {
        let mut one = all.clone();
        let is_from = |frame: &[u8]| (frame[34..36] == 443u16.to_be_bytes()) == (port == 443);
        one.frames.retain(|(_, frame, _)| is_from(frame));
        let report = assess(&one);
        let why = report["cannot_say"][0].as_str().unwrap_or_default();
        assert!(why.contains("one direction"), "{report:#}");
    }
}

#[test]
fn packets_captured_in_part_are_named_as_the_cause() {
    let mut cut = two_visits();
    for (_, frame, _) in &mut cut.frames {
        frame.truncate(96);
    }
    let report = assess(&cut);
    assert!(number(&report, "/connections/unreadable/cut") > 0, "{report:#}");
    assert_numbers(&report, &[("/connections/unreadable/lost", 0)]);
    assert!(!report["cannot_say"].as_array().expect("a list").is_empty());
}

#[test]
fn a_lost_hello_is_a_handshake_that_could_not_be_read() {
    let mut lost = two_visits();
    let hello = |frame: &[u8]| frame.get(54) == Some(&22) && frame.get(59) == Some(&1);
    let place = lost.frames.iter().rposition(|(_, frame, _)| hello(frame)).expect("a hello");
    lost.frames.remove(place);
    let report = assess(&lost);
    assert_numbers(
        &report,
        &[
            ("/total/offered", 0),
            ("/total/offered_at_most", 1),
            ("/total/kept_at_most", 1),
            ("/connections/unreadable/lost", 1),
        ],
    );
    assert_eq!(report["connections"]["unreadable_percent"], 50.0);
}

#[test]
fn a_members_connection_of_which_both_ends_beginnings_are_lost_may_have_been_a_handshake() {
    let mut lost = two_visits();
    let (before, ends) = (lost.frames.len(), ("192.0.2.3:40002", B));
    lost.visit(2 * SECOND, ends, Hello::offering(&OTHER), Answer::Issues(&ID));
    // Behind SYN and SYN-ACK.
    lost.frames.drain(before + 2..before + 4);
    let mut syn_too = lost.clone();
    syn_too.frames.remove(before);
    for (lost, cause) in [(lost, "lost"), (syn_too, "outside")] {
        let report = assess(&lost);
        assert_numbers(
            &report,
            &[
                ("/total/offered", 1),
                ("/total/offered_at_most", 2),
                (&format!("/connections/unreadable/{cause}"), 1),
                ("/connections/no_tls", 0),
                ("/connections/midway", 0),
            ],
        );
    }
}

#[test]
fn a_handshake_without_its_syn_is_read() {
    let mut midway = two_visits();
    midway.frames.retain(|(_, frame, _)| frame[47] & 2 == 0);
    let report = assess(&midway);
    assert_numbers(&report, &[("/total/handshakes", 2), ("/total/kept", 1)]);
}

#[test]
fn a_connection_that_began_before_the_capture_is_no_handshake() {
    let mut midway = two_visits();
    use crate::capture::Kind::Data;
    for at in 0..9 {
        midway.segment(
            at * MS,
            ("192.0.2.3:50000", A),
            From::Server,
            Data,
            at as usize * 100,
            &[0x33; 100],
        );
    }
    let report = assess(&midway);
    assert_numbers(&report, &[("/connections/midway", 1), ("/connections/unreadable/lost", 0)]);
    assert_eq!(report["connections"]["unreadable_percent"], 0.0);
}

#[test]
fn who_dials_every_member_at_equal_intervals_looks_like_a_monitor() {
    let mut capture = two_visits();
    for round in 0..6 {
        for (index, member) in [A, B].into_iter().enumerate() {
            let source = format!("192.0.2.99:{}", 2000 + round * 2 + index as u64);
            let ends = (source.as_str(), member);
            capture.open(round * 5 * SECOND, ends);
            capture.close(round * 5 * SECOND + MS, ends);
        }
    }
    capture.frames.sort_by_key(|frame| frame.0);
    let report = assess(&capture);
    assert_eq!(report["monitors"][0]["source"], "192.0.2.99", "{report:#}");
    assert_eq!(report["monitors"][0]["interval_seconds"], 5.0);
    assert_eq!(report["monitors"].as_array().map(Vec::len), Some(1));
    // The first one of B came before it was known that B is a member.
    assert_numbers(&report, &[("/connections/silent", 11)]);
}
