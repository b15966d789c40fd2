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
        BACKEND_MAC, CLIENT_ISN, CLIENT_MAC, FIRST_ISN, GATE_MAC, Given, INNER_MAC, STAMPS, TC_DROP, TC_NEXT,
        TC_REDIRECT, World, XDP_PASS, after, families, family,
    },
};

/// Number of the datagram.
const ID: u16 = 77;

#[test]
fn fragments_follow_the_first_one_and_make_a_right_segment() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let pieces = fragments(&up(&ends).frame(CLIENT_MAC, GATE_MAC, &[])?, &[128], ID);
        for program in [Program::Tc, Program::TcComplete] {
            world.prepare(&ends, &Given::flow(ends.settled()))?;
            let first = world.run(program, &pieces[0]).with_context(|| format!("first, {}", family(&ends)))?;
            let later = world.run(program, &pieces[1]).with_context(|| format!("later, {}", family(&ends)))?;
            assert_eq!((first.action, later.action), (TC_REDIRECT, TC_REDIRECT), "{program:?}");
            is_right(&first.frame, &later.frame)?;
        }
        if ends.client.is_ipv4() {
            // RFC 791 3.2: each protocol has its own numbers.
            let later = fragments(&[frames::udp(&ends), vec![0; 200]].concat(), &[64], ID).remove(1);
            let ran = world.run(Program::Tc, &later)?;
            assert_eq!((ran.action, ran.frame), (TC_NEXT, later), "another protocol's datagram of the same number");
        }
        for fragment in &pieces {
            let ran = world.run(Program::Xdp, fragment)?;
            assert_eq!((ran.action, &ran.frame), (XDP_PASS, fragment), "XDP leaves fragments to TC");
        }
    }
    Ok(())
}

/// Towards a backend and towards a client, the last one first.
#[test]
fn fragments_that_overtake_the_first_one_come_in_again_behind_it() -> Result<()> {
    let mut world = World::new()?;
    let wire = Tap::open(&world.ns, "eth0")?;
    for ends in families() {
        let to_client = ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN)).payload(&[0x5a; 501]);
        let ways = [up(&ends).frame(CLIENT_MAC, GATE_MAC, &[])?, to_client.frame(BACKEND_MAC, INNER_MAC, &[])?];
        for (way, frame) in ways.iter().enumerate() {
            let context = || format!("{}, way {way}", family(&ends));
            let pieces = fragments(frame, &[128, 400], ID + way as u16);
            world.prepare(&ends, &Given::flow(ends.settled()))?;
            let held = world.loaded.plane.counter(Counter::FragmentHeld)?;
            for later in [&pieces[2], &pieces[1]] {
                assert_eq!(world.run(Program::Tc, later)?.action, TC_DROP, "{}", context());
            }
            assert_eq!(world.loaded.plane.counter(Counter::FragmentHeld)? - held, 2, "{}", context());
            assert_eq!(world.run(Program::Tc, &pieces[0])?.action, TC_DROP, "{}", context());
            let again = came_in(&wire, 3).with_context(context)?;
            assert_eq!(again, [pieces[0].clone(), pieces[2].clone(), pieces[1].clone()], "{}", context());
            let sent = again.iter().map(|piece| world.run(Program::Tc, piece)).collect::<Result<Vec<_>>>()?;
            assert!(sent.iter().all(|ran| ran.action == TC_REDIRECT), "{}", context());
            let [first, last, middle] = sent.try_into().map_err(|_| anyhow::anyhow!("not three"))?;

            is_right(&first.frame, &joined(&middle.frame, &last.frame, frame[14] >> 4 == 6))?;
            // Nothing is kept: the next datagram of this number is held from its first piece on.
            assert_eq!(world.run(Program::Tc, &pieces[1])?.action, TC_REDIRECT, "{}", context());
        }
    }
    Ok(())
}

/// A number that comes again is another datagram's.
#[test]
fn a_first_fragment_leads_no_later_one_that_comes_half_a_minute_after_it() -> Result<()> {
    let mut world = World::new()?;
    let mut routes = open::<FragmentKey, FragmentRoute>(&world, "fragments")?;
    for ends in families() {
        let pieces = fragments(&up(&ends).frame(CLIENT_MAC, GATE_MAC, &[])?, &[128], ID);
        for (seconds, action) in [(25, TC_REDIRECT), (31, TC_DROP)] {
            world.prepare(&ends, &Given::flow(ends.settled()))?;
            world.run(Program::Tc, &pieces[0])?;
            for key in routes.keys().collect::<Result<Vec<_>, _>>()? {
                let route = routes.get(&key, 0)?;
                routes.insert(key, FragmentRoute { seen: route.seen - seconds, ..route }, 0)?;
            }
            let held = world.loaded.plane.counter(Counter::FragmentHeld)?;
            assert_eq!(world.run(Program::Tc, &pieces[1])?.action, action, "after {seconds} s, {}", family(&ends));
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

/// Only what may be of a VIP's flow is held, and what turns out to be somebody else's comes in again and passes.
#[test]
fn fragments_of_others_pass_in_whatever_order_they_come() -> Result<()> {
    let mut world = World::new()?;
    let wire = Tap::open(&world.ns, "eth0")?;
    for ends in families() {
        world.prepare(&ends, &Given::nothing())?;
        let mut other = up(&ends);
        other.destination.set_port(22);
        other.tcp.destination_port = 22;
        let at_the_vips_address = fragments(&other.frame(CLIENT_MAC, GATE_MAC, &[])?, &[128], ID);
        let passed = |world: &World, piece: &Vec<u8>| {
            let ran = world.run(Program::Tc, piece)?;
            ensure!((ran.action, &ran.frame) == (TC_NEXT, piece), "action {}, {}", ran.action, family(&ends));
            Ok(())
        };
        for piece in &at_the_vips_address {
            passed(&world, piece)?;
        }
        let reversed = fragments(&other.frame(CLIENT_MAC, GATE_MAC, &[])?, &[128], ID + 1);
        for piece in reversed.iter().rev() {
            assert_eq!(world.run(Program::Tc, piece)?.action, TC_DROP, "{}", family(&ends));
        }
        let again = came_in(&wire, 2)?;
        assert_eq!(again, reversed, "{}", family(&ends));
        for piece in &again {
            passed(&world, piece)?;
        }
        let mut elsewhere = other.clone();
        elsewhere.destination.set_ip(ends.first.ip());
        for piece in fragments(&elsewhere.frame(CLIENT_MAC, GATE_MAC, &[])?, &[128], ID + 2).iter().rev() {
            passed(&world, piece)?;
        }
        let datagram = [frames::udp(&ends), vec![0; 200]].concat();
        for piece in fragments(&datagram, &[64], ID + 3).iter().rev() {
            passed(&world, piece)?;
        }
    }
    Ok(())
}

fn up(ends: &Ends) -> Segment {
    ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).options(&STAMPS).payload(&[0x5a; 501])
}

/// The next frames that come in there.
fn came_in(wire: &Tap, n: usize) -> Result<Vec<Vec<u8>>> {
    (0..n).map(|_| wire.await_frame(Duration::from_secs(2), |_| true)?.context("nothing came in")).collect()
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
