//! Re-homed flows: numbers, options and windows translated between the client and the owner.

use anyhow::Result;
use steer_common::{counters::Counter, shared::Flow};
use steer_tests::packets::Segment;

use crate::world::{
    CLIENT_ISN, Case, Ends, FIRST_ISN, Given, OWNER_ISN, Out, TS_DELTA, World, from_backend,
    from_client, shapes, to_backend, to_client,
};

/// What the client knows and what the owner knows of the same byte.
const TOLD: u32 = FIRST_ISN.wrapping_add(1);
const OWN: u32 = OWNER_ISN.wrapping_add(1);
const CLIENT: u32 = CLIENT_ISN.wrapping_add(1);
const VALUE: u32 = 0x4000_0000;
const ECHO: u32 = 5;

fn stamps(value: u32, echo: u32) -> Vec<u8> {
    [&[8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

fn edges(edges: &[u32]) -> Vec<u8> {
    let mut option = vec![5, 2 + 4 * edges.len() as u8];
    edges.iter().for_each(|edge| option.extend(edge.to_be_bytes()));
    option
}

/// Options in the client's numbers, and in the owner's.
type Layout = (&'static str, Vec<u8>, Vec<u8>);

fn layouts_up() -> Vec<Layout> {
    let delta = TOLD.wrapping_sub(OWN);
    let told = [
        TOLD.wrapping_add(100),
        TOLD.wrapping_add(200),
        TOLD.wrapping_add(300),
        TOLD.wrapping_add(400),
    ];
    let own = told.map(|edge| edge.wrapping_sub(delta));
    let (came, left) = (stamps(VALUE, ECHO), stamps(VALUE, ECHO.wrapping_sub(TS_DELTA)));
    let join = |parts: &[&[u8]]| parts.concat();
    vec![
        ("no options", vec![], vec![]),
        ("timestamps", join(&[&[1, 1], &came]), join(&[&[1, 1], &left])),
        ("timestamps first", join(&[&came, &[1, 1]]), join(&[&left, &[1, 1]])),
        ("timestamps at an odd place", join(&[&[1], &came, &[1]]), join(&[&[1], &left, &[1]])),
        (
            "one SACK block",
            join(&[&[1, 1], &edges(&told[..2])]),
            join(&[&[1, 1], &edges(&own[..2])]),
        ),
        (
            "timestamps and two SACK blocks",
            join(&[&[1, 1], &came, &[1, 1], &edges(&told)]),
            join(&[&[1, 1], &left, &[1, 1], &edges(&own)]),
        ),
        (
            "SACK at an odd place",
            join(&[&[1], &edges(&told), &[1]]),
            join(&[&[1], &edges(&own), &[1]]),
        ),
        (
            "an unknown option before",
            join(&[&[253, 5, 8, 10, 5], &came, &[1]]),
            join(&[&[253, 5, 8, 10, 5], &left, &[1]]),
        ),
        ("the list's end before", join(&[&[0, 1], &came]), join(&[&[0, 1], &came])),
    ]
}

#[test]
fn the_clients_segments_reach_the_owner_in_its_own_numbers() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let segment = |ack, options: &[u8]| {
            ends.up(CLIENT).ack(ack).options(options).payload(b"from the client")
        };
        let cases = layouts_up().into_iter().map(|(what, came, left)| {
            case(
                what,
                from_client(&segment(TOLD, &came)),
                &ends,
                to_backend(segment(OWN, &left), ends.owner),
            )
        });
        world.judge(&ends, &cases.collect::<Vec<_>>())?;

        let reset = ends.up(CLIENT).rst().options(&[&[1, 1][..], &stamps(VALUE, 0)].concat());
        let left = to_backend(reset.clone(), ends.owner);
        let reset = case("a reset without acknowledgement", from_client(&reset), &ends, left);
        world.judge(&ends, &[Case { xdp: Out::Untouched, ..reset }])?;
    }
    Ok(())
}

#[test]
fn the_owners_segments_reach_the_client_in_the_first_backends_numbers() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let segment = |seq, options: &[u8]| {
            ends.down(ends.owner, seq).ack(CLIENT).options(options).payload(b"from the owner")
        };
        let (came, left) = (stamps(VALUE, ECHO), stamps(VALUE.wrapping_add(TS_DELTA), ECHO));
        let sack = edges(&[CLIENT + 10, CLIENT + 20]);
        let layouts: [Layout; 4] = [
            ("no options", vec![], vec![]),
            ("timestamps", [&[1, 1], &came[..]].concat(), [&[1, 1], &left[..]].concat()),
            (
                "timestamps at an odd place",
                [&[1], &came[..], &[1]].concat(),
                [&[1], &left[..], &[1]].concat(),
            ),
            (
                "SACK edges, the client's own numbers",
                [&[1, 1], &came[..], &[1, 1], &sack].concat(),
                [&[1, 1], &left[..], &[1, 1], &sack].concat(),
            ),
        ];
        let cases = layouts.map(|(what, came, left)| {
            case(
                what,
                from_backend(&segment(OWN, &came)),
                &ends,
                to_client(segment(TOLD, &left), ends.vip),
            )
        });
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn the_owners_window_is_told_in_the_first_backends_scale() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let cases = [
            ("a larger scale", 10, 7, 100, 800),
            ("a larger scale, beyond the field", 10, 7, 60000, u16::MAX),
            ("a smaller scale", 7, 10, 800, 100),
            ("a smaller scale, never closed", 7, 12, 1, 1),
            ("closed", 7, 12, 0, 0),
        ];
        let cases = cases.map(|(what, owner_scale, first_scale, came, left)| {
            let segment = |seq, window| {
                let mut segment = ends.down(ends.owner, seq).ack(CLIENT);
                segment.tcp.window_size = window;
                segment
            };
            let flow = Flow { owner_scale, first_scale, ..ends.spliced() };
            let frame = from_backend(&segment(OWN, came));
            Case {
                given: Given::flow(flow),
                ..case(what, frame, &ends, to_client(segment(TOLD, left), ends.vip))
            }
        });
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn a_segment_with_malformed_options_is_dropped() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let cases = [
            ("longer than the header", [8, 11, 1, 1]),
            ("of length 1", [8, 1, 1, 1]),
            ("of length 0", [5, 0, 1, 1]),
        ];
        let cases = cases.map(|(what, options)| Case {
            what,
            frame: from_client(&ends.up(CLIENT).ack(TOLD).options(&options)),
            given: Given::flow(ends.spliced()),
            tc: Out::Dropped,
            xdp: Out::Dropped,
            counts: Some(Counter::OptionsMalformed),
        });
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn the_first_backend_of_a_moved_flow_is_reset() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let stray = ends
            .down(ends.first, TOLD)
            .ack(CLIENT)
            .options(&[&[1, 1][..], &stamps(VALUE, ECHO)].concat());
        let reset = Segment::new(ends.client, ends.vip, CLIENT).rst();
        let mut reset = reset;
        (reset.tcp.window_size, reset.hop_limit) = (0, 65);
        let case = Case {
            what: "a segment of the first backend",
            frame: from_backend(&stray),
            given: Given::flow(ends.spliced()),
            tc: Out::Sent(to_backend(reset, ends.first)),
            xdp: Out::Untouched,
            counts: Some(Counter::StrayBackend),
        };
        world.judge_made(&ends, &[case])?;
    }
    Ok(())
}

fn case(what: &'static str, frame: Vec<u8>, ends: &Ends, left: Vec<u8>) -> Case {
    let left = Out::Sent(left);
    Case {
        what,
        frame,
        given: Given::flow(ends.spliced()),
        tc: left.clone(),
        xdp: left,
        counts: Some(Counter::Spliced),
    }
}
