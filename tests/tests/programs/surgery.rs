//! Packets that become other packets: a hello becomes the SYN to the owner, its SYN-ACK a reset and
//! the hello.

use std::time::Duration;

use anyhow::{Context, Result};
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::Flow,
};
use steer_tests::{
    frames::Tap,
    packets::{Segment, judge_checksums},
    programs::Program,
};

use crate::world::{
    BACKEND_MAC, CLIENT_ISN, Case, Ends, FIRST_ISN, Given, INNER_MAC, OWNER_ISN, Out, TC_DROP,
    TC_REDIRECT, World, from_backend, from_client, hex, shapes,
};

const CLIENT: u32 = CLIENT_ISN.wrapping_add(1);
const TOLD: u32 = FIRST_ISN.wrapping_add(1);
const OWN: u32 = OWNER_ISN.wrapping_add(1);
const HELLO_TS: u32 = 0x1c00;
const FIRST_TS: u32 = 0x3001;
const OWNER_TS: u32 = 0x9000_0000;

/// A ClientHello of TLS 1.2 with a session ID (RFC 5246 7.4.1.2) and a last extension that makes it
/// `len` bytes long.
pub(crate) fn hello(id: &[u8; 32], len: usize) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend(id);
    body.extend([0, 2, 0xc0, 0x2f, 1, 0]);
    let padding = len - 9 - body.len() - 6;
    body.extend(((padding + 4) as u16).to_be_bytes());
    body.extend([0, 21]);
    body.extend((padding as u16).to_be_bytes());
    body.extend(vec![0; padding]);
    let mut stream = vec![22, 3, 1];
    stream.extend(((body.len() + 4) as u16).to_be_bytes());
    stream.extend([1, 0]);
    stream.extend((body.len() as u16).to_be_bytes());
    stream.extend(body);
    stream
}

pub(crate) fn stamps(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

/// What leaves made anew, in the client's name.
fn made(mut segment: Segment, ends: &Ends, owner: bool) -> Vec<u8> {
    let backend = if owner { ends.owner } else { ends.first };
    (segment.source, segment.destination) = (ends.client, backend);
    segment.tcp.destination_port = backend.port();
    segment.frame(INNER_MAC, BACKEND_MAC, &[]).expect("a frame")
}

fn waiting(ends: &Ends) -> Flow {
    Flow {
        word: StateWord::new(State::Wait, CLIENT_ISN).0,
        owner: ends.owner_id,
        hello_ts: HELLO_TS,
        first_ts: FIRST_TS,
        hello_window: 502,
        owner_tries: 1,
        ip_word: if ends.client.is_ipv4() { [0x45, 0, 0, 0] } else { [0x60, 0, 0, 0] },
        ..ends.established()
    }
}

#[test]
fn a_hello_whose_session_another_backend_holds_becomes_a_syn_to_it() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        for len in [120, 121, 517, 1400] {
            let data = hello(&[0x42; 32], len);
            assert_eq!(data.len(), len);
            let came =
                ends.up(CLIENT).ack(TOLD).options(&stamps(HELLO_TS, FIRST_TS)).payload(&data);
            let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0x1b, 0x58, 0, 0, 0, 0, 1, 3, 3, 7];
            let syn = ends.up(CLIENT_ISN).syn().options(&options);
            let case = Case {
                what: "a hello",
                frame: from_client(&came),
                given: Given { session: Some(vec![0x42; 32]), ..Given::flow(ends.established()) },
                tc: Out::Sent(made(syn, &ends, true)),
                xdp: Out::Untouched,
                counts: Some(Counter::Rehome),
            };
            world.judge_made(&ends, &[case])?;
        }
    }
    Ok(())
}

/// Time must not run backwards for a client that has seen the first backend's SYN-ACK: a hello that
/// echoes an older one, or nothing, does not set the clock by which the owner's stamps are told.
#[test]
fn a_hello_sets_the_first_backends_clock_forwards_alone() -> Result<()> {
    let mut world = World::new()?;
    let data = hello(&[0x42; 32], 200);
    for ends in shapes() {
        for (echo, clock) in [
            (FIRST_TS.wrapping_sub(9), FIRST_TS),
            (0, FIRST_TS),
            (FIRST_TS, FIRST_TS),
            (FIRST_TS + 7, FIRST_TS + 7),
        ] {
            let flow = Flow { first_ts: FIRST_TS, ..ends.established() };
            let session = Some(vec![0x42; 32]);
            world.prepare(&ends, &Given { session, ..Given::flow(flow) })?;
            let frame = ends.up(CLIENT).ack(TOLD).options(&stamps(HELLO_TS, echo)).payload(&data);
            world.run(Program::Tc, &from_client(&frame))?;
            let flow = world.flow(&ends)?;
            assert_eq!(StateWord(flow.word).state(), State::Wait);
            assert_eq!((flow.first_ts, flow.hello_ts), (clock, HELLO_TS), "{echo:#x} is echoed");
        }
    }
    Ok(())
}

/// An outer balancer may say in front of a hello whose connection it is (the PROXY protocol,
/// versions 1 and 2): the owner gets that with the rest.
#[test]
fn a_hello_behind_a_proxy_header_moves_with_its_header() -> Result<()> {
    const ID: [u8; 32] = [0x42; 32];
    let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.10 47110 443\r\n".to_vec();
    let v2 = |command: u8, family: u8, body: &[u8]| {
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        [&signature[..], &[0x20 | command, family], &(body.len() as u16).to_be_bytes(), body]
            .concat()
    };
    let mut world = World::new()?;
    for ends in shapes() {
        for header in [v1.clone(), v2(1, 0x11, &[7; 12]), v2(1, 0x21, &[7; 36 + 90]), v2(0, 0, &[])]
        {
            let data = [header, hello(&ID, 300)].concat();
            // Whole, cut in the header, at its end, and in the hello.
            for cut in [0, 9, data.len() - 300, data.len() - 250] {
                world.prepare(
                    &ends,
                    &Given { session: Some(ID.to_vec()), ..Given::flow(ends.established()) },
                )?;
                let before = world.loaded.plane.counter(Counter::Rehome)?;
                for (at, piece) in [(0, &data[..cut]), (cut, &data[cut..])] {
                    let up = ends
                        .up(CLIENT.wrapping_add(at as u32))
                        .ack(TOLD)
                        .options(&stamps(HELLO_TS, FIRST_TS));
                    if !piece.is_empty() {
                        world.run(Program::Tc, &from_client(&up.payload(piece)))?;
                    }
                }
                assert_eq!(
                    world.loaded.plane.counter(Counter::Rehome)? - before,
                    1,
                    "cut at {cut} of {}",
                    data.len()
                );
                assert!(world.buffered(&ends)? == data, "the owner gets other bytes");
            }
        }
    }
    Ok(())
}

/// What a CPU remembers of one packet is nothing to the next one, of another flow.
#[test]
fn a_hello_in_pieces_is_decided_on_by_itself_whatever_came_between_them() -> Result<()> {
    const ID: [u8; 32] = [0x42; 32];
    const UNKNOWN: [u8; 32] = [0x24; 32];
    /// In the middle of the session ID.
    const CUT: usize = 60;
    let mut world = World::new()?;
    let [mut pieces, mut between] = steer_tests::ends::families();
    for _ in 0..2 {
        world.prepare(
            &pieces,
            &Given { session: Some(ID.to_vec()), ..Given::flow(pieces.established()) },
        )?;
        world.prepare(&between, &Given::flow(between.established()))?;
        let counted = |world: &World| {
            [Counter::Gather, Counter::SessionMiss, Counter::Rehome]
                .map(|it| world.loaded.plane.counter(it).unwrap_or(0))
        };
        let before = counted(&world);
        let whole = hello(&ID, 300);
        for (ends, offset, data) in [
            (&pieces, 0, &whole[..CUT]),
            (&between, 0, &hello(&UNKNOWN, 300)[..]),
            (&pieces, CUT as u32, &whole[CUT..]),
        ] {
            let up =
                ends.up(CLIENT.wrapping_add(offset)).ack(TOLD).options(&stamps(HELLO_TS, FIRST_TS));
            world.run(Program::Tc, &from_client(&up.payload(data)))?;
        }
        let after = counted(&world);
        assert_eq!(
            [0, 1, 2].map(|i| after[i] - before[i]),
            [1, 1, 1],
            "gathered, missed, re-homed"
        );
        (pieces, between) = (between, pieces);
    }
    Ok(())
}

#[test]
fn a_hello_with_a_wrong_checksum_is_dropped() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let mut frame = from_client(
            &ends.up(CLIENT).ack(TOLD).options(&stamps(1, 2)).payload(&hello(&[0x42; 32], 300)),
        );
        *frame.last_mut().context("a payload")? ^= 4;
        let case = Case {
            what: "a corrupt hello",
            frame,
            given: Given { session: Some(vec![0x42; 32]), ..Given::flow(ends.established()) },
            tc: Out::Dropped,
            xdp: Out::Untouched,
            counts: Some(Counter::BadChecksum),
        };
        world.judge(&ends, &[case])?;
    }
    Ok(())
}

/// What a backend accepts may be another copy of the hello than the one that was read: that one's
/// offer is no lesson then.
#[test]
fn another_copy_of_a_hello_that_was_decided_on_takes_its_offer_back() -> Result<()> {
    const OFFERED: u8 = 2;
    let mut world = World::new()?;
    for ends in shapes() {
        let first = hello(&[0x42; 32], 300);
        let copy = [hello(&[0x24; 32], 300), vec![20, 3, 3, 0, 1, 1]].concat();
        let offers = |flow| Flow { offered_kind: OFFERED, offered_len: 32, ..flow };
        // One whose end is not known yet: a record that goes on behind it.
        let settled = offers(Flow { flags: 0, hello_len: 0, ..ends.settled() });
        for (what, flow, at, data, left) in [
            ("waiting", offers(waiting(&ends)), 0, &copy[..], 0),
            (
                "what follows the hello of one that waits",
                offers(waiting(&ends)),
                300,
                &copy[300..],
                OFFERED,
            ),
            ("settled", settled, 0, &copy[..], 0),
        ] {
            world.prepare(&ends, &Given { pending: Some(first.clone()), ..Given::flow(flow) })?;
            let up = ends
                .up(CLIENT.wrapping_add(at))
                .ack(TOLD)
                .options(&stamps(HELLO_TS, FIRST_TS))
                .payload(data);
            world.run(Program::Tc, &from_client(&up))?;
            assert_eq!(world.flow(&ends)?.offered_kind, left, "{what}");
        }
    }
    Ok(())
}

#[test]
fn the_owners_syn_ack_becomes_a_reset_to_the_first_backend_and_the_hello_in_segments() -> Result<()>
{
    let mut world = World::new()?;
    for ends in shapes() {
        for (len, advertised_mss) in [(200, 1460), (517, 1460), (2400, 1460), (517, 200)] {
            rehome(&mut world, &ends, len, advertised_mss)
                .with_context(|| format!("{len} bytes, MSS {advertised_mss}, {}", ends.client))?;
        }
    }
    Ok(())
}

fn rehome(world: &mut World, ends: &Ends, len: usize, advertised_mss: u16) -> Result<()> {
    let data = hello(&[0x42; 32], len);
    let flow = Flow { advertised_mss, ..waiting(ends) };
    world.prepare(ends, &Given { pending: Some(data.clone()), ..Given::flow(flow) })?;
    let options = [2, 4, 5, 180, 4, 2, 8, 10, 0x90, 0, 0, 0, 0, 0, 0x1b, 0x58, 1, 3, 3, 7];
    let syn_ack = ends.down(ends.owner, OWNER_ISN).syn().ack(CLIENT).options(&options);
    let tap = Tap::open(&world.ns, "eth0")?;
    let ran = world.run(Program::Tc, &from_backend(&syn_ack))?;
    anyhow::ensure!(ran.action == TC_REDIRECT, "action {} (2 is {TC_DROP})", ran.action);

    let echo = FIRST_TS.wrapping_sub(FIRST_TS.wrapping_sub(OWNER_TS));
    let chunk = (usize::from(advertised_mss) - 12) & !3;
    let mut reset = ends.up(CLIENT).rst();
    reset.tcp.window_size = 0;
    let mut wanted = vec![made(reset, ends, false)];
    for (index, piece) in data.chunks(chunk).enumerate() {
        let seq = CLIENT.wrapping_add((index * chunk) as u32);
        let mut segment = ends.up(seq).ack(OWN).options(&stamps(HELLO_TS, echo)).payload(piece);
        segment.tcp.window_size = 502;
        segment.tcp.psh = (index + 1) * chunk >= data.len();
        wanted.push(made(segment, ends, true));
    }
    let last = wanted.pop().context("a segment")?;
    for frame in &wanted {
        let left = tap
            .await_frame(Duration::from_millis(500), |frame| frame[..6] == BACKEND_MAC)?
            .context("nothing left by clone")?;
        judge_checksums(&left)?;
        anyhow::ensure!(left == *frame, "\n  left {}\n  not  {}", hex(&left), hex(frame));
    }
    judge_checksums(&ran.frame)?;
    anyhow::ensure!(
        ran.frame == last,
        "\n  came out {}\n  not      {}",
        hex(&ran.frame),
        hex(&last)
    );
    let after = world.flow(ends)?;
    anyhow::ensure!(
        StateWord(after.word) == StateWord::new(State::Spliced, CLIENT_ISN),
        "state {:#x}",
        after.word
    );
    Ok(())
}
