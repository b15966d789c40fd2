//! Several connections between the same two sockets: each segment goes to the one that it belongs
//! to.

use proptest::prelude::*;
use steer_user::inspect::{Outcome, Row};

use crate::{
    Flow,
    Kind::{Data, Fin, Reset, Syn, SynAck},
    client_hello, record, row, rows, server_hello,
    wrap::{self, Inner},
};

/// A connection of the sockets that all have here.
fn flow(client_isn: u32, server_isn: u32) -> Flow {
    Flow::new("192.0.2.1:40000", "198.51.100.10:443", client_isn, server_isn)
}

fn hello(id: u8) -> Vec<u8> {
    record(22, &client_hello(&[id; 32], &[(35, vec![id; 1800])]))
}

fn answer(id: u8) -> Vec<u8> {
    [record(22, &server_hello([1; 32], &[id; 32], &[])), record(20, &[1]), record(22, &[8; 40])]
        .concat()
}

/// A frame with another acknowledgement.
fn acking(mut frame: Vec<u8>, ack: u32) -> Vec<u8> {
    frame[42..46].copy_from_slice(&ack.to_be_bytes());
    frame
}

/// A resumption of session `id`, as it is seen by who acknowledges what comes.
fn resumption(flow: Flow, id: u8) -> Vec<Vec<u8>> {
    let (hello, answer) = (hello(id), answer(id));
    let (heard, said) = (hello.len() as u32, answer.len() as u32);
    let (sent, received) = (flow.client.isn.wrapping_add(1), flow.server.isn.wrapping_add(1));
    [
        flow.opened(),
        vec![
            flow.client(Data, 0, &hello[..1448]),
            acking(flow.server(Data, 0, &[]), sent.wrapping_add(1448)),
            flow.client(Data, 1448, &hello[1448..]),
            acking(flow.server(Data, 0, &answer), sent.wrapping_add(heard)),
            acking(flow.client(Data, heard, &[23; 90]), received.wrapping_add(said)),
            acking(flow.server(Fin, said, &[]), sent.wrapping_add(heard + 90)),
            acking(flow.client(Fin, heard + 90, &[]), received.wrapping_add(said + 1)),
        ],
    ]
    .concat()
}

#[track_caller]
fn assert_resumed(row: &Row, id: u8) {
    let id = Some(format!("{id:02x}").repeat(32));
    assert_eq!(row.client_hello.as_ref().and_then(|hello| hello.session_id.clone()), id, "{row:?}");
    assert_eq!(row.client_hello.as_ref().map(|hello| hello.segments), Some(2), "{row:?}");
    assert_eq!(row.server_hello.as_ref().and_then(|hello| hello.session_id.clone()), id, "{row:?}");
    assert_eq!(row.outcome, Outcome::Resumed, "{row:?}");
}

fn alternating(all: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    let longest = all.iter().map(Vec::len).max().unwrap_or_default();
    (0..longest)
        .flat_map(|at| all.iter().filter_map(move |frames| frames.get(at).cloned()))
        .collect()
}

/// Connections of these frames, frame by frame in turn: each has its row.
#[track_caller]
fn assert_apart(all: &[Vec<Vec<u8>>]) {
    let rows = rows(&alternating(all));
    assert_eq!(rows.len(), all.len(), "{rows:#?}");
    for (row, id) in rows.iter().zip(1..) {
        assert_resumed(row, id);
    }
}

#[test]
fn both_sides_of_what_changes_numbers_are_two_rows() {
    for by in [776_777, 100_000, 20_000, 0x8000_0000, 0xfff0_0000] {
        let other = flow(1000u32.wrapping_add(by), 5000u32.wrapping_add(by));
        assert_apart(&[resumption(flow(1000, 5000), 1), resumption(other, 2)]);
        // Firewalls may change the client's numbers alone, or the server's.
        assert_apart(&[
            resumption(flow(1000, 5000), 1),
            resumption(flow(1000u32.wrapping_add(by), 5000), 2),
        ]);
    }
}

#[test]
fn many_connections_at_once_are_as_many_rows() {
    let all: Vec<_> = (0..20)
        .map(|n| resumption(flow(n * 0x0c00_0000 + 1000, n * 0x0a00_0000 + 77), n as u8 + 1))
        .collect();
    assert_apart(&all);
}

/// The same sockets and numbers, in two networks that `wrap` tells apart.
#[track_caller]
fn assert_told_apart(what: &str, wrap: impl Fn(u32, Inner) -> Inner) {
    let wrapped = |number: u32, id: u8| -> Vec<Vec<u8>> {
        let frames = resumption(flow(1000, 5000), id);
        frames.iter().map(|frame| wrap(number, Inner::of(frame)).frame()).collect()
    };
    let all = [wrapped(7, 1), wrapped(8, 2), wrapped(9, 3)];
    for frames in [alternating(&all), all.concat()] {
        let rows = rows(&frames);
        assert_eq!(rows.len(), 3, "{what}: {rows:#?}");
        for (row, id) in rows.iter().zip(1..) {
            assert_resumed(row, id);
        }
        assert_ne!(rows[0].encapsulation, rows[1].encapsulation, "{what}");
    }
}

#[test]
fn the_same_addresses_in_two_networks_are_two_rows() {
    assert_told_apart("VLAN", |number, inner| wrap::vlan(number as u16, inner));
    assert_told_apart("QinQ, outer", |number, inner| {
        wrap::vlan(number as u16, wrap::vlan(5, inner))
    });
    assert_told_apart("QinQ, inner", |number, inner| {
        wrap::vlan(5, wrap::vlan(number as u16, inner))
    });
    assert_told_apart("VXLAN", wrap::vxlan);
    assert_told_apart("VLAN in VXLAN", |number, inner| {
        wrap::vxlan(1, wrap::vlan(number as u16, inner))
    });
    assert_told_apart("GRE", wrap::gre_key);
    assert_told_apart("MPLS", wrap::mpls);
    assert_told_apart("GTP-U", wrap::gtp);
    assert_told_apart("PPPoE", |number, inner| wrap::pppoe(number as u16, inner));
}

#[test]
fn tagged_and_bare_are_two_networks() {
    let bare = resumption(flow(1000, 5000), 1);
    let tagged: Vec<_> = resumption(flow(1000, 5000), 2)
        .iter()
        .map(|frame| wrap::vlan(7, Inner::of(frame)).frame())
        .collect();
    assert_apart(&[bare, tagged]);
}

#[test]
fn each_direction_has_a_network_of_its_own() {
    let to_server = |frame: &Vec<u8>| frame[26..30] == [192, 0, 2, 1];
    let wrapped = |here: u32, there: u32, id: u8, wrap: fn(u32, Inner) -> Inner| -> Vec<Vec<u8>> {
        let frames = resumption(flow(1000, 5000), id);
        frames
            .iter()
            .map(|frame| {
                wrap(if to_server(frame) { here } else { there }, Inner::of(frame)).frame()
            })
            .collect()
    };
    for wrap in
        [wrap::gtp, wrap::mpls, wrap::vxlan, |number, inner| wrap::vlan(number as u16, inner)]
    {
        assert_apart(&[wrapped(7, 8, 1, wrap)]);
        // A router between two VLANs, of which a mirror has both: in each VLAN there are both
        // directions.
        assert_apart(&[wrapped(7, 7, 1, wrap), wrapped(8, 8, 2, wrap)]);
        assert_apart(&[wrapped(7, 17, 1, wrap), wrapped(8, 18, 2, wrap)]);
    }
}

#[test]
fn a_port_that_is_used_again_begins_a_row_with_its_syn_or_without() {
    let first = resumption(flow(1000, 5000), 1);
    let again = resumption(flow(0x5000_0000, 0x7000_0000), 2);
    for skip in 0..4 {
        let rows = rows(&[&first[..], &again[skip..]].concat());
        assert_eq!(rows.len(), 2, "without {skip} frames");
        assert_resumed(&rows[0], 1);
        assert_resumed(&rows[1], 2);
    }
}

#[test]
fn a_syn_that_brings_data_and_its_answer_are_one_row() {
    let (hello, answer, flow) = (hello(1), answer(1), flow(1000, 5000));
    let len = hello.len() as u32;
    // The server takes all of it, a part, or nothing.
    for taken in [1400, 700, 0] {
        let syn = flow.client(Syn, 0, &hello[..1400]);
        let syn_ack = acking(flow.server(SynAck, 0, &[]), 1001 + taken);
        let rest = flow.client(Data, taken, &hello[taken as usize..]);
        let reply = acking(flow.server(Data, 0, &answer), 1001 + len);
        for order in [[0, 1], [1, 0]] {
            let opening = [&syn, &syn_ack];
            let frames =
                [opening[order[0]].clone(), opening[order[1]].clone(), rest.clone(), reply.clone()];
            let row = row(&frames);
            assert_eq!(row.client, flow.client.address);
            assert_resumed(&row, 1);
        }
    }
}

#[test]
fn a_second_answer_hides_no_hello() {
    let here = flow(1000, 5000);
    let rest = resumption(here, 1)[2..].to_vec();
    // What the other side of a firewall answered: another number, another acknowledgement.
    let foreign = acking(flow(1000, 777_777).server(SynAck, 0, &[]), 0x1234_5678);
    for opening in [
        vec![here.client(Syn, 0, &[]), foreign.clone(), here.server(SynAck, 0, &[])],
        vec![foreign.clone(), here.client(Syn, 0, &[]), here.server(SynAck, 0, &[])],
        vec![foreign.clone(), here.server(SynAck, 0, &[])],
        vec![here.client(Syn, 0, &[]), here.server(SynAck, 0, &[]), foreign.clone()],
        vec![
            here.client(Syn, 0, &[]),
            foreign.clone(),
            foreign.clone(),
            here.server(SynAck, 0, &[]),
        ],
    ] {
        let rows = rows(&[opening, rest.clone()].concat());
        assert_eq!(rows.len(), 2, "{rows:#?}");
        let (whole, other): (Vec<_>, Vec<_>) =
            rows.iter().partition(|row| row.client_hello.is_some());
        assert_resumed(whole[0], 1);
        assert_eq!((&other[0].server_hello, other[0].client), (&None, here.client.address));
    }
}

#[test]
fn a_server_that_answers_again_with_another_number_is_the_same() {
    let (first, second) = (flow(1000, 5000), flow(1000, 0x6000_0000));
    let frames = [
        vec![first.client(Syn, 0, &[]), first.server(SynAck, 0, &[]), first.client(Syn, 0, &[])],
        resumption(second, 1)[1..].to_vec(),
    ]
    .concat();
    assert_resumed(&row(&frames), 1);
}

#[test]
fn what_belongs_to_nothing_and_brings_nothing_begins_no_row() {
    let here = flow(1000, 5000);
    let old = flow(0x5000_0000, 0x7000_0000);
    let mut frames = resumption(here, 1);
    // A challenge of an older connection's end, its acknowledgements and resets; a reset of
    // anybody.
    for (at, stray) in
        [old.server(Data, 0, &[]), old.client(Fin, 9, &[]), old.client(Reset, 77, &[])]
            .iter()
            .enumerate()
    {
        frames.insert(2 + 2 * at, stray.clone());
    }
    assert_resumed(&row(&frames), 1);
}

#[test]
fn a_long_connection_stays_one_whatever_was_lost() {
    let here = flow(1000, 5000);
    let mut frames = resumption(here, 1);
    // 4 GiB, of which a segment was captured each 50 MB; the other side acknowledges some of it.
    for at in (0..4u64 << 30).step_by(50 << 20) {
        frames.push(here.server(Data, at as u32, &[0x17; 100]));
        if at % (200 << 20) == 0 {
            frames.push(acking(here.client(Data, 2000, &[]), 5001u32.wrapping_add(at as u32)));
        }
    }
    assert_resumed(&row(&frames), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two connections, their frames in any order that keeps those of each: each row is as if it
    /// was alone.
    #[test]
    fn any_interleaving_says_the_same(
        isns: (u32, u32),
        by in (1u32 << 17..u32::MAX - (1 << 17), 1u32 << 17..u32::MAX - (1 << 17)),
        turns in prop::collection::vec(any::<bool>(), 40),
    ) {
        let one = resumption(flow(isns.0, isns.1), 1);
        let two = resumption(flow(isns.0.wrapping_add(by.0), isns.1.wrapping_add(by.1)), 2);
        let (mut one, mut two) = (one.into_iter(), two.into_iter());
        let mut frames = Vec::new();
        for turn in turns {
            frames.extend(if turn { one.next() } else { two.next() });
        }
        frames.extend(one.chain(two));
        let mut rows = rows(&frames);
        prop_assert_eq!(rows.len(), 2);
        rows.sort_by_key(|row| row.client_hello.as_ref().and_then(|hello| hello.session_id.clone()));
        assert_resumed(&rows[0], 1);
        assert_resumed(&rows[1], 2);
    }
}
