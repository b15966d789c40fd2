//! Datagrams in fragments: the first one says whose they are, in whatever order they come.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use steer_common::{
    counters::Counter,
    shared::{FragmentKey, FragmentRoute},
};
use steer_tests::{
    ends::Ends,
    frames::Tap,
    packets::{Segment, judge_checksums},
    pieces::fragments,
    programs::Program,
};

use crate::{
    frames::{self, whole},
    world::{
        BACKEND_MAC, CLIENT_ISN, CLIENT_MAC, FIRST_ISN, GATE_MAC, Given, INNER_MAC, STAMPS,
        TC_DROP, TC_NEXT, TC_REDIRECT, World, XDP_PASS, after, family, shapes,
    },
};

/// Number of the datagram.
const ID: u16 = 77;

#[test]
fn fragments_follow_the_first_one_and_make_a_right_segment() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let pieces = fragments(&up(&ends).frame(CLIENT_MAC, GATE_MAC, &[])?, &[128], ID);
        for program in [Program::Tc, Program::TcComplete] {
            world.prepare(&ends, &Given::flow(ends.settled()))?;
            let first = world
                .run(program, &pieces[0])
                .with_context(|| format!("first, {}", family(&ends)))?;
            let later = world
                .run(program, &pieces[1])
                .with_context(|| format!("later, {}", family(&ends)))?;
            assert_eq!((first.action, later.action), (TC_REDIRECT, TC_REDIRECT), "{program:?}");
            is_right(&first.frame, &later.frame)?;
        }
        if ends.client.is_ipv4() {
            // RFC 791 3.2: each protocol has its own numbers.
            let later =
                fragments(&[frames::udp(&ends), vec![0; 200]].concat(), &[64], ID).remove(1);
            let ran = world.run(Program::Tc, &later)?;
            assert_eq!(
                (ran.action, ran.frame),
                (TC_NEXT, later),
                "another protocol's datagram of the same number"
            );
        }
        for fragment in &pieces {
            let ran = world.run(Program::Xdp, fragment)?;
            assert_eq!(
                (ran.action, &ran.frame),
                (XDP_PASS, fragment),
                "XDP leaves fragments to TC"
            );
        }
    }
    Ok(())
}

/// Towards a backend and towards a client, in every order, the copies that come in again included.
#[test]
fn three_fragments_are_sent_on_once_each_in_whatever_order_they_come() -> Result<()> {
    let mut world = World::new()?;
    let wire = Tap::open(&world.ns, "eth0")?;
    let mut id = ID;
    for ends in shapes() {
        let to_client =
            ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN)).payload(&[0x5a; 501]);
        let ways = [
            up(&ends).frame(CLIENT_MAC, GATE_MAC, &[])?,
            to_client.frame(BACKEND_MAC, INNER_MAC, &[])?,
        ];
        for frame in &ways {
            for order in ORDERS {
                id += 1;
                let pieces = fragments(frame, &[128, 400], id);
                world.prepare(&ends, &Given::flow(ends.settled()))?;
                let held = world.loaded.plane.counter(Counter::FragmentHeld)?;
                let seen = until_rest(&world, &wire, order.map(|at| pieces[at].clone()))?;
                let context = format!("{}, {order:?}", family(&ends));
                assert_eq!((seen.sent.len(), seen.passed.len()), (3, 0), "{context}");
                let [first, middle, last] = seen.in_their_order()?;
                is_right(&first, &joined(&middle, &last, frame[14] >> 4 == 6))
                    .context(context.clone())?;
                let held = world.loaded.plane.counter(Counter::FragmentHeld)? - held;
                assert_eq!(
                    held as usize,
                    order.iter().take_while(|at| **at != 0).count(),
                    "{context}"
                );
            }
        }
    }
    Ok(())
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// What became of fragments, each once it was at rest.
#[derive(Default)]
struct Seen {
    sent: Vec<Vec<u8>>,
    passed: Vec<Vec<u8>>,
}

impl Seen {
    /// Three that were sent, by their offsets.
    fn in_their_order(mut self) -> Result<[Vec<u8>; 3]> {
        self.sent.sort_by_key(|frame| offset(frame));
        self.sent.try_into().map_err(|sent: Vec<_>| anyhow::anyhow!("{} were sent", sent.len()))
    }
}

/// Bytes of the datagram in front of a fragment.
fn offset(frame: &[u8]) -> u16 {
    if frame[14] >> 4 == 4 {
        (u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff) * 8
    } else {
        u16::from_be_bytes([frame[56], frame[57]]) & 0xfff8
    }
}

/// Runs the program on these frames, one right after the other, and on all that comes in again,
/// until nothing does.
fn until_rest(world: &World, wire: &Tap, frames: [Vec<u8>; 3]) -> Result<Seen> {
    const REST: Duration = Duration::from_millis(100);
    let (mut seen, mut waiting, mut runs) =
        (Seen::default(), std::collections::VecDeque::from(frames), 0);
    while let Some(frame) = waiting.pop_front() {
        runs += 1;
        ensure!(runs < 20, "no rest after {runs} runs");
        let ran = world.run(Program::Tc, &frame)?;
        match ran.action {
            TC_REDIRECT => seen.sent.push(ran.frame),
            TC_NEXT => seen.passed.push(ran.frame),
            _ => {}
        }
        if !waiting.is_empty() {
            continue;
        }
        while let Some(frame) = wire.await_frame(REST, |_| true)? {
            // What comes in is for the gateway's stations, what a copy was sent as for others.
            let to =
                |stations: [[u8; 6]; 2]| stations.iter().any(|station| frame.starts_with(station));
            if to([GATE_MAC, INNER_MAC]) {
                waiting.push_back(frame);
            } else if to([BACKEND_MAC, CLIENT_MAC]) {
                seen.sent.push(frame);
            }
        }
    }
    Ok(seen)
}

/// A number that comes again is another datagram's.
#[test]
fn a_first_fragment_leads_no_later_one_that_comes_half_a_minute_after_it() -> Result<()> {
    let mut world = World::new()?;
    let mut routes = open::<FragmentKey, FragmentRoute>(&world, "fragments")?;
    for ends in shapes() {
        let pieces = fragments(&up(&ends).frame(CLIENT_MAC, GATE_MAC, &[])?, &[128], ID);
        for (seconds, action) in [(25, TC_REDIRECT), (31, TC_DROP)] {
            world.prepare(&ends, &Given::flow(ends.settled()))?;
            world.run(Program::Tc, &pieces[0])?;
            for key in routes.keys().collect::<Result<Vec<_>, _>>()? {
                let route = routes.get(&key, 0)?;
                routes.insert(key, FragmentRoute { seen: route.seen - seconds, ..route }, 0)?;
            }
            let held = world.loaded.plane.counter(Counter::FragmentHeld)?;
            assert_eq!(
                world.run(Program::Tc, &pieces[1])?.action,
                action,
                "after {seconds} s, {}",
                family(&ends)
            );
            let held = world.loaded.plane.counter(Counter::FragmentHeld)? - held;
            assert_eq!(held, u64::from(action == TC_DROP), "after {seconds} s, {}", family(&ends));
        }
    }
    Ok(())
}

fn open<K: Pod, V: Pod>(world: &World, map: &str) -> Result<HashMap<MapData, K, V>> {
    let map = MapData::from_pin(world.loaded.pin(map)).and_then(Map::from_map_data)?;
    Ok(HashMap::try_from(map)?)
}

/// Only what may be of a VIP's flow is held, and what turns out to be somebody else's comes in
/// again and passes.
#[test]
fn fragments_of_others_pass_in_whatever_order_they_come() -> Result<()> {
    let mut world = World::new()?;
    let wire = Tap::open(&world.ns, "eth0")?;
    let mut id = ID;
    for ends in shapes() {
        world.prepare(&ends, &Given::nothing())?;
        let mut other = up(&ends);
        other.destination.set_port(22);
        other.tcp.destination_port = 22;
        let mut elsewhere = other.clone();
        elsewhere.destination.set_ip(ends.first.ip());
        let datagram = [frames::udp(&ends), vec![0; 500]].concat();
        for (what, frame) in [
            ("another port of the VIP's address", other.frame(CLIENT_MAC, GATE_MAC, &[])?),
            ("a backend's address", elsewhere.frame(CLIENT_MAC, GATE_MAC, &[])?),
            ("another protocol", datagram),
        ] {
            for order in ORDERS {
                id += 1;
                let pieces = fragments(&frame, &[128, 400], id);
                let mut seen = until_rest(&world, &wire, order.map(|at| pieces[at].clone()))?;
                seen.passed.sort_by_key(|frame| offset(frame));
                assert_eq!(seen.passed, pieces, "{what}, {}, {order:?}", family(&ends));
                assert!(seen.sent.is_empty(), "{what}, {}, {order:?}", family(&ends));
            }
        }
    }
    Ok(())
}

fn up(ends: &Ends) -> Segment {
    ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).options(&STAMPS).payload(&[0x5a; 501])
}

/// Two later fragments as one.
fn joined(earlier: &[u8], last: &[u8], v6: bool) -> Vec<u8> {
    let headers = if v6 { 14 + 40 + 8 } else { 14 + 20 };
    [earlier, &last[headers..]].concat()
}

/// Both make a segment with a right checksum and the bytes that were sent.
fn is_right(first: &[u8], later: &[u8]) -> Result<()> {
    let whole = whole(first, later);
    judge_checksums(&whole)?;
    assert_eq!(whole[whole.len() - 501..], [0x5a; 501]);
    Ok(())
}
