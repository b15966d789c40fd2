//! Frames of any link type, as captures and mirror ports show them: peeled, put together to
//! connections and judged. Whatever they are, the numbers that are told agree with each other.

use std::time::Duration;

use crate::{
    assess::{AtHand, Options, Report, frames, report::Offers},
    config::TicketKeyName,
};

/// Length of what stands in front of each frame, bytes.
const HEAD: usize = 8;
/// Nanoseconds of a millisecond.
const MILLISECOND: u64 = 1_000_000;

/// The bytes are frames, each behind four little-endian numbers of 16 bits: its link type, the
/// milliseconds since the one before, how many bytes were not captured, and how many were.
pub fn run(bytes: &[u8]) {
    let at_hand = read(bytes);
    let options = Options {
        members: Vec::new(),
        session_timeout: Duration::from_secs(600),
        ticket_key_name: TicketKeyName::Auto,
    };
    let report = frames(at_hand.iter().copied(), options);
    let intake = &report.intake;
    assert_eq!(intake.packets, at_hand.len() as u64);
    let counted = intake.segments + intake.not_read.total() + intake.no_tcp.total();
    assert_eq!(intake.packets, counted);
    assert!(intake.duplicates <= intake.segments && intake.cut <= intake.segments);
    for lines in [&report.versions, &report.identifiers, &report.reasons] {
        lines.iter().for_each(|line| agree(&line.offers, &report));
        let handshakes: u64 = lines.iter().map(|line| line.offers.handshakes).sum();
        assert_eq!(handshakes, report.total.handshakes);
    }
    report.members.iter().for_each(|member| agree(&member.offers, &report));
    agree(&report.total, &report);
    let kept_for: u64 = report.members.iter().map(|member| member.kept_for).sum();
    // What refused a session before it turned out to be no member is in no total.
    assert!(kept_for <= report.total.kept || !report.fronts.is_empty(), "{report:?}");
    serde_json::to_string(&report).expect("JSON");
}

fn read(mut bytes: &[u8]) -> Vec<AtHand<'_>> {
    let (mut frames, mut time) = (Vec::new(), 0);
    while let Some((head, behind)) = bytes.split_first_chunk::<HEAD>() {
        let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let (frame, rest) = behind.split_at(usize::from(number(6)).min(behind.len()));
        time += u64::from(number(2)) * MILLISECOND;
        let wire_len = frame.len() as u32 + u32::from(number(4));
        frames.push(AtHand { link: number(0), time: Some(time), wire_len, bytes: frame });
        bytes = rest;
    }
    frames
}

fn agree(offers: &Offers, report: &Report) {
    let of_offered = offers.accepted + offers.refused + offers.failed + offers.unknown;
    let of_refused = offers.kept
        + offers.incompatible
        + offers.refused_by_owner
        + offers.expired
        + offers.owner_unknown;
    assert_eq!(offers.offered, of_offered, "{report:?}");
    assert!(of_refused <= offers.refused, "{offers:?} in {report:?}");
    assert!(offers.offered <= offers.handshakes, "{offers:?} in {report:?}");
    assert!(offers.kept <= offers.kept_at_most, "{offers:?} in {report:?}");
    assert!(offers.kept_at_most <= offers.refused_at_most, "{offers:?} in {report:?}");
    assert!(offers.refused_at_most <= offers.offered_at_most, "{offers:?} in {report:?}");
}
