//! A capture of both sides of a balancer.

use crate::{
    assert_numbers, assess,
    capture::{A, Answer, B, Capture, Hello, MS, SECOND},
};

const VIP: &str = "198.51.100.10:443";
const ID: [u8; 32] = [7; 32];
const OTHER: [u8; 32] = [8; 32];

/// A connection as the client opens it, and as the balancer hands it on a moment later.
fn through(
    capture: &mut Capture,
    after: u64,
    client: &str,
    member: &str,
    hello: Hello<'_>,
    answer: Answer<'_>,
) {
    let mut outside = Capture::default();
    outside.visit(after, (client, VIP), hello, answer);
    let mut inside = Capture::default();
    inside.visit(after, (client, member), hello, answer);
    for (out, (time, inner, len)) in outside.frames.into_iter().zip(inside.frames) {
        // Requests are seen outside first, answers inside.
        let is_request = inner[36..38] == 443u16.to_be_bytes();
        let (first, second) = (time, time + MS / 10);
        let (out_at, in_at) = if is_request { (first, second) } else { (second, first) };
        capture.frames.push((out_at, out.1, out.2));
        capture.frames.push((in_at, inner, len));
    }
    capture.frames.sort_by_key(|frame| frame.0);
}

#[test]
fn who_hands_connections_on_is_no_member_and_owns_nothing() {
    let mut capture = Capture::default();
    through(&mut capture, 0, "192.0.2.1:40000", A, Hello::offering(&[]), Answer::Issues(&ID));
    through(
        &mut capture,
        SECOND,
        "192.0.2.2:40001",
        B,
        Hello::offering(&ID),
        Answer::Issues(&OTHER),
    );
    through(
        &mut capture,
        2 * SECOND,
        "192.0.2.3:40002",
        B,
        Hello::offering(&OTHER),
        Answer::Resumes,
    );
    let report = assess(&capture);
    assert_eq!(report["fronts"], serde_json::json!([VIP]), "{report:#}");
    assert_eq!(report["members"].as_array().map(Vec::len), Some(2));
    assert_numbers(
        &report,
        &[
            ("/total/handshakes", 3),
            ("/total/offered", 2),
            ("/total/accepted", 1),
            ("/total/kept", 1),
            ("/total/kept_at_most", 1),
        ],
    );
}
