//! Tickets in clear behind bytes that are not in the capture.

use proptest::prelude::*;
use steer_user::inspect::{Outcome, Row};

use crate::{
    ETHERNET, Flow,
    Kind::{Data, SynAck},
    client_hello, message, pcap, read, record, row, server_hello, sized,
};

const MSS: usize = 1448;

fn ticket() -> Vec<u8> {
    message(4, &[&[0, 0, 1, 0x2c][..], &sized(&[0xab; 192])].concat())
}

/// A server's first flight with certificates of this length, and the second one with a ticket.
fn flights(certificates: usize) -> (Vec<u8>, Vec<u8>) {
    let first = [
        record(22, &server_hello([1; 32], &[], &[(35, vec![])])),
        record(22, &message(11, &vec![0x5a; certificates])),
        record(22, &message(12, &[0x6b; 300])),
        record(22, &message(14, &[])),
    ];
    (first.concat(), [record(22, &ticket()), record(20, &[1]), record(22, &[8; 40])].concat())
}

fn hello(flow: &Flow) -> Vec<u8> {
    flow.client(Data, 0, &record(22, &client_hello(&[], &[(35, vec![])])))
}

/// A full handshake, one segment a frame.
fn handshake(flow: &Flow, certificates: usize) -> Vec<Vec<u8>> {
    let (first, second) = flights(certificates);
    let mut frames = [flow.opened(), vec![hello(flow)]].concat();
    for (at, piece) in first.chunks(MSS).enumerate() {
        frames.push(flow.server(Data, (at * MSS) as u32, piece));
    }
    frames.push(flow.server(Data, first.len() as u32, &second));
    frames
}

/// A capture of at most `snap_len` bytes of each frame.
fn cut(frames: &[Vec<u8>], snap_len: usize) -> Vec<Vec<u8>> {
    frames.iter().map(|frame| frame[..frame.len().min(snap_len)].to_vec()).collect()
}

#[track_caller]
fn assert_told(row: &Row, what: &str) {
    assert_eq!(row.new_session_ticket_prefix, Some("ab".repeat(32)), "{what}: {row:?}");
}

#[test]
fn a_ticket_behind_cut_segments_is_told() {
    for certificates in (0..9000).step_by(97) {
        for snap_len in [150, 256, 512, 1000, 1400] {
            let row = row(&cut(&handshake(&Flow::v4(), certificates), snap_len));
            assert_told(
                &row,
                &format!("{certificates} bytes of certificates, {snap_len} captured"),
            );
            assert_eq!(row.outcome, Outcome::Full);
        }
    }
}

#[test]
fn a_ticket_behind_a_lost_segment_is_told() {
    for certificates in [0, 700, 1448, 3000, 6000] {
        let whole = handshake(&Flow::v4(), certificates);
        for lost in 0..whole.len() - 1 {
            let mut frames = whole.clone();
            frames.remove(lost);
            assert_told(
                &row(&frames),
                &format!("{certificates} bytes of certificates without frame {lost}"),
            );
        }
    }
}

#[test]
fn a_ticket_is_told_wherever_the_capture_begins() {
    let flow = Flow::v4();
    let whole = handshake(&flow, 6000);
    for begin in 0..whole.len() {
        let row = row(&whole[begin..]);
        assert_told(&row, &format!("from frame {begin} on"));
        assert_eq!(
            (row.client, row.server),
            (flow.client.address, flow.server.address),
            "from frame {begin} on"
        );
    }
}

#[test]
fn a_ticket_that_came_before_what_is_in_front_of_it_is_told() {
    let flow = Flow::v4();
    let mut frames = handshake(&flow, 6000);
    let last = frames.pop().expect("a frame");
    frames.insert(4, last);
    assert_told(&row(&frames), "first");
    frames.remove(6);
    assert_told(&row(&frames), "first, and one behind it lost");
}

#[test]
fn what_looks_like_a_ticket_in_a_certificate_is_none() {
    let flow = Flow::v4();
    // A certificate that has a ticket's bytes where its second segment begins.
    let hello = record(22, &server_hello([1; 32], &[], &[]));
    let fill = MSS - hello.len() - 9;
    let certificate =
        message(11, &[&vec![0x5a; fill][..], &record(22, &ticket()), &[0x5a; 900]].concat());
    let first = [hello, record(22, &certificate)].concat();
    let mut frames = [flow.opened(), vec![self::hello(&flow)]].concat();
    for (at, piece) in first.chunks(MSS).enumerate() {
        frames.push(flow.server(Data, (at * MSS) as u32, piece));
    }
    assert_eq!(first[MSS..MSS + 3], [22, 3, 3], "there it stands");
    assert_eq!(row(&frames).new_session_ticket_prefix, None);
    let cut = cut(&frames, 1000);
    assert_eq!(row(&cut).new_session_ticket_prefix, None, "the record's header was captured");
}

#[test]
fn an_answer_without_a_syn_does_not_hide_it() {
    let flow = Flow::v4();
    let (first, second) = flights(3000);
    let frames = [
        flow.server(SynAck, 0, &[]),
        flow.server(Data, 1448, &first[1448..2896]),
        flow.server(Data, first.len() as u32, &second),
    ];
    assert_told(&row(&frames), "no SYN, no ServerHello");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is lost in front of it and cut everywhere.
    #[test]
    fn a_ticket_that_is_there_is_told(
        certificates in 0usize..9000,
        lost in prop::collection::vec(any::<bool>(), 16),
        snap_len in 120usize..1600,
    ) {
        let whole = handshake(&Flow::v4(), certificates);
        let (last, before) = whole.split_last().expect("frames");
        let kept = before.iter().zip(lost.iter().cycle()).filter(|(_, lost)| !**lost).map(|(frame, _)| frame.clone());
        let frames: Vec<_> = kept.chain([last.clone()]).collect();
        let (rows, _) = read(pcap(ETHERNET, &cut(&frames, snap_len)));
        prop_assert_eq!(rows.len(), 1);
        assert_told(&rows[0], "it");
    }
}
