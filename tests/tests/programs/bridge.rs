//! The ports of a bridge: what becomes of frames between clients and the backends that they dial
//! themselves. What is not moved the bridge has go on, bit for bit.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::{
        BACKEND_BRIDGED, Backend, BackendPath, BridgePath, FLOW_RESET, Flow, Hop,
        INTERFACE_BRIDGE_AT, INTERFACE_INSIDE, INTERFACE_OUTSIDE, INTERFACE_WAITS, MAX_BRIDGES,
        VIP_BRIDGED, VLAN_WORDS, Vip,
    },
};
use steer_tests::{
    ends::{Ends, inline},
    packets::Segment,
    programs::{Program, Ran},
};
use steer_user::clock;

use crate::{
    errors::{router, too_big},
    surgery::hello,
    world::{
        CLIENT_ISN, FIRST_ISN, Given, OWNER_ISN, TC_DROP, TC_NEXT, TC_REDIRECT, World, XDP_PASS,
        after,
    },
};

/// Station of the balancer.
const BALANCER: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
/// Station of the backend that is dialled.
const FIRST: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
/// Station of the owner.
const OWNER: [u8; 6] = [2, 0, 0, 0, 0, 0xb2];
/// MSS 1460.
const MSS: [u8; 4] = [2, 4, 5, 180];

/// Sides of the bridge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Outside,
    Inside,
}

/// A bridge of two ports.
struct Bridge {
    world: World,
    inside: u32,
    paths: Array<MapData, BridgePath>,
}

impl Bridge {
    fn new() -> Result<Self> {
        let mut world = World::new()?;
        let inside = world.ns.run(|| Ok(nix::net::if_::if_nametoindex("far0")?))?;
        for (port, side) in [(world.ifindex, INTERFACE_OUTSIDE), (inside, INTERFACE_INSIDE)] {
            world.loaded.plane.interfaces.insert(&port, &side)?;
        }
        let mut vlans: Array<MapData, u32> = map(&world, "vlans")?;
        for word in 0..MAX_BRIDGES * VLAN_WORDS {
            vlans.set(word, u32::MAX, 0)?;
        }
        let paths = map(&world, "bridge_paths")?;
        Ok(Self { world, inside, paths })
    }

    /// Fills the maps; the ways to both backends were seen a moment ago.
    fn prepare(&mut self, ends: &Ends, given: &Given) -> Result<()> {
        self.world.prepare(ends, given)?;
        self.world.forget_trace(ends)?;
        let plane = &mut self.world.loaded.plane;
        let now = clock::seconds();
        for (id, mac) in [(ends.first_id, FIRST), (ends.owner_id, OWNER)] {
            let id = u32::from(id);
            let backends = plane.backends()?;
            let (_, backend) = backends.into_iter().find(|(at, _)| *at == id).context("it")?;
            plane
                .set_backend(id, &Backend { flags: backend.flags | BACKEND_BRIDGED, ..backend })?;
            plane.set_backend_path(id, &BackendPath::default())?;
            let path = BridgePath {
                ethernet: Hop::mac_addresses(mac, BALANCER),
                sent: now,
                ifindex: self.inside,
                heard: now,
                ..BridgePath::default()
            };
            self.paths.set(id, path, 0)?;
        }
        let served = ends.served();
        let vip = plane.vip(&served)?.context("the pool")?;
        plane.set_vip(&served, &Vip { flags: vip.flags | VIP_BRIDGED, ..vip })?;
        let hop = Hop::mac_addresses(BALANCER, FIRST);
        for table in [&mut plane.flows, &mut plane.handshakes] {
            if let Some(flow) = table.find(&ends.key())? {
                let client_hop = Hop { ethernet: hop, ..flow.client_hop };
                table.insert(&ends.key(), &Flow { client_hop, ..flow })?;
            }
        }
        Ok(())
    }

    fn run(&self, side: Side, frame: &[u8]) -> Result<Ran> {
        let port = if side == Side::Outside { self.world.ifindex } else { self.inside };
        self.world.ns.run(|| self.world.loaded.run(Program::Tc, frame, port))
    }

    /// Runs a frame, and says by how much a counter grew.
    fn counted(&self, side: Side, frame: &[u8], counter: Counter) -> Result<(Ran, u64)> {
        let before = self.world.loaded.plane.counter(counter)?;
        let ran = self.run(side, frame)?;
        Ok((ran, self.world.loaded.plane.counter(counter)? - before))
    }

    fn path(&self, id: u16) -> Result<BridgePath> {
        Ok(self.paths.get(&u32::from(id), 0)?)
    }

    fn set_path(&mut self, id: u16, path: BridgePath) -> Result<()> {
        Ok(self.paths.set(u32::from(id), path, 0)?)
    }
}

/// A port does not forward any more.
fn set_waits(bridge: &mut Bridge, side: Side) -> Result<()> {
    let port = if side == Side::Outside { bridge.world.ifindex } else { bridge.inside };
    bridge.world.loaded.plane.interfaces.insert(&port, &INTERFACE_WAITS)
}

fn map<V: aya::Pod>(world: &World, name: &str) -> Result<Array<MapData, V>> {
    let map = MapData::from_pin(world.loaded.pin(name)).and_then(Map::from_map_data)?;
    map.try_into().context("open a map")
}

/// A frame of the balancer to the backend that is dialled.
fn up(segment: &Segment) -> Vec<u8> {
    segment.frame(BALANCER, FIRST, &[]).expect("a frame")
}

/// A frame of a backend to the balancer.
fn down(mac: [u8; 6], segment: &Segment) -> Vec<u8> {
    segment.frame(mac, BALANCER, &[]).expect("a frame")
}

fn data(ends: &Ends) -> Segment {
    ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).payload(b"data")
}

fn answer(ends: &Ends, from: SocketAddr, isn: u32) -> Segment {
    ends.down(from, after(isn)).ack(after(CLIENT_ISN)).payload(b"answer")
}

#[track_caller]
fn passed(ran: &Ran, came: &[u8]) {
    assert_eq!((ran.action, ran.frame.as_slice()), (TC_NEXT, came));
}

#[track_caller]
fn sent(ran: &Ran, wanted: &[u8]) {
    assert_eq!((ran.action, ran.frame.as_slice()), (TC_REDIRECT, wanted));
}

#[test]
fn a_flow_that_was_not_moved_goes_on_untouched_in_both_directions() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        for (side, frame) in [
            (Side::Outside, up(&data(&ends))),
            (Side::Inside, down(FIRST, &answer(&ends, ends.first, FIRST_ISN))),
        ] {
            bridge.prepare(&ends, &Given::flow(ends.settled()))?;
            for turn in ["by its record", "by the cache"] {
                let (ran, n) = bridge.counted(side, &frame, Counter::Forwarded)?;
                passed(&ran, &frame);
                assert_eq!(n, 1, "{turn}");
            }
        }
    }
    Ok(())
}

/// Stations and address change, the hop limit does not.
#[test]
fn a_moved_flow_goes_from_port_to_port_between_the_stations_that_were_seen() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        let came = data(&ends);
        let mut left = Segment { destination: ends.owner, ..came.clone().ack(after(OWNER_ISN)) };
        left.tcp.destination_port = ends.owner.port();
        let to_owner = left.frame(BALANCER, OWNER, &[])?;
        let answered = answer(&ends, ends.owner, OWNER_ISN);
        let mut shown = Segment { source: ends.first, ..answered.clone() };
        shown.tcp.source_port = ends.first.port();
        shown.tcp.sequence_number = after(FIRST_ISN);
        let to_client = shown.frame(FIRST, BALANCER, &[])?;
        for (side, came, left) in [
            (Side::Outside, up(&came), to_owner),
            (Side::Inside, down(OWNER, &answered), to_client),
        ] {
            bridge.prepare(&ends, &Given::flow(ends.spliced()))?;
            for _ in ["by its record", "by the cache"] {
                sent(&bridge.run(side, &came)?, &left);
            }
        }
    }
    Ok(())
}

#[test]
fn what_comes_in_on_the_other_side_passes_and_shows_no_way() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        bridge.prepare(&ends, &Given::flow(ends.spliced()))?;
        let before = (bridge.path(ends.first_id)?, bridge.path(ends.owner_id)?);
        for (side, frame) in [
            (Side::Inside, up(&data(&ends))),
            (Side::Outside, down(OWNER, &answer(&ends, ends.owner, OWNER_ISN))),
        ] {
            let (ran, n) = bridge.counted(side, &frame, Counter::BridgeOtherSide)?;
            passed(&ran, &frame);
            assert_eq!(n, 1);
        }
        assert_eq!((bridge.path(ends.first_id)?, bridge.path(ends.owner_id)?), before);
    }
    Ok(())
}

/// A port that does not forward, or is none of the bridge's, has no bits in `interfaces`.
#[test]
fn a_port_that_does_not_forward_is_neither_looked_at_nor_sent_to() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        bridge.prepare(&ends, &Given::flow(ends.spliced()))?;
        let (outside, inside) = (bridge.world.ifindex, bridge.inside);
        let mut set =
            |port: u32, bits: u32| bridge.world.loaded.plane.interfaces.insert(&port, &bits);
        set(inside, INTERFACE_WAITS)?;
        bridge.world.loaded.plane.splices.insert(&ends.key(), &ends.spliced())?;
        let moved = up(&data(&ends));
        let ran = bridge.run(Side::Outside, &moved)?;
        assert_eq!(ran.action, TC_DROP, "its owner is behind a port that does not forward");
        // What would reach the backend that was dialled, which does not have the flow any more, waits.
        set_waits(&mut bridge, Side::Outside)?;
        assert_eq!(bridge.run(Side::Outside, &moved)?.action, TC_DROP);
        let answered = down(OWNER, &answer(&ends, ends.owner, OWNER_ISN));
        assert_eq!(bridge.run(Side::Inside, &answered)?.action, TC_DROP);
        bridge.prepare(&ends, &Given::flow(ends.settled()))?;
        let before = bridge.path(ends.first_id)?;
        let plain = down(FIRST, &answer(&ends, ends.first, FIRST_ISN));
        passed(&bridge.run(Side::Outside, &moved)?, &moved);
        passed(&bridge.run(Side::Inside, &plain)?, &plain);
        assert_eq!(bridge.path(ends.first_id)?, before, "and shows no way");
        bridge.prepare(&ends, &Given::flow(ends.spliced()))?;
        let mut set =
            |port: u32, bits: u32| bridge.world.loaded.plane.interfaces.insert(&port, &bits);
        set(outside, INTERFACE_OUTSIDE)?;
        set(inside, 0)?;
        let frame = down(OWNER, &answer(&ends, ends.owner, OWNER_ISN));
        let (ran, n) = bridge.counted(Side::Inside, &frame, Counter::OtherStation)?;
        passed(&ran, &frame);
        assert_eq!(n, 1);
        let mut set =
            |port: u32, bits: u32| bridge.world.loaded.plane.interfaces.insert(&port, &bits);
        set(inside, INTERFACE_INSIDE)?;
        set(outside, 0)?;
        let ran = bridge.run(Side::Inside, &frame)?;
        assert_eq!(ran.action, TC_DROP, "its client is behind a port that does not forward");
        bridge.world.loaded.plane.interfaces.insert(&outside, &INTERFACE_OUTSIDE)?;
    }
    Ok(())
}

/// A port of a bridge has its own pools, and so has any other interface.
#[test]
fn a_bridges_pool_is_nobodys_at_other_interfaces_nor_the_other_way_round() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        bridge.prepare(&ends, &Given::flow(ends.spliced()))?;
        // For the station of the interface itself: a router's frame.
        let routed = data(&ends).frame(BALANCER, crate::world::GATE_MAC, &[])?;
        let (ran, n) = bridge.counted(Side::Outside, &routed, Counter::NotOurs)?;
        passed(&ran, &routed);
        assert_eq!(n, 1);
        let ran = bridge.world.run(Program::Xdp, &up(&data(&ends)))?;
        assert_eq!((ran.action, ran.frame), (XDP_PASS, up(&data(&ends))));
        // An inline pool.
        bridge.world.prepare(&ends, &Given::flow(ends.spliced()))?;
        let frame = up(&data(&ends));
        let (ran, n) = bridge.counted(Side::Outside, &frame, Counter::NotOurs)?;
        passed(&ran, &frame);
        assert_eq!(n, 1);
    }
    Ok(())
}

#[test]
fn frames_show_the_way_to_a_backend() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        bridge.prepare(&ends, &Given::nothing())?;
        bridge.set_path(ends.first_id, BridgePath::default())?;
        let syn = up(&ends.up(CLIENT_ISN).syn().options(&MSS));
        passed(&bridge.run(Side::Outside, &syn)?, &syn);
        let half = bridge.path(ends.first_id)?;
        assert_eq!(half.ethernet, Hop::mac_addresses(FIRST, BALANCER));
        assert!(half.sent != 0 && half.heard == 0, "{half:?}");
        let syn_ack = ends.down(ends.first, FIRST_ISN).syn().ack(after(CLIENT_ISN)).options(&MSS);
        let frame = down(FIRST, &syn_ack);
        passed(&bridge.run(Side::Inside, &frame)?, &frame);
        let whole = bridge.path(ends.first_id)?;
        assert!(whole.is_known(clock::seconds()), "{whole:?}");
        assert_eq!(whole.ifindex, bridge.inside);
    }
    Ok(())
}

/// What keeps a flow from being moved, and what is counted then.
#[test]
fn a_flow_is_moved_only_where_the_way_is_known_and_not_ambiguous() -> Result<()> {
    let mut bridge = Bridge::new()?;
    let id = [7; 32];
    let long_ago = clock::seconds().saturating_sub(301).max(1);
    for ends in inline() {
        let said = ends
            .up(after(CLIENT_ISN))
            .ack(after(FIRST_ISN))
            .options(&crate::world::STAMPS)
            .payload(&hello(&id, 300));
        type Spoil = fn(&mut BridgePath, u32);
        let cases: [(&str, u16, Spoil, Option<Counter>); 6] = [
            ("known", ends.owner_id, |_, _| {}, None),
            ("never sent to", ends.owner_id, |path, _| path.sent = 0, Some(Counter::OwnerNoRoute)),
            ("never heard", ends.owner_id, |path, _| path.heard = 0, Some(Counter::OwnerNoRoute)),
            ("long ago", ends.owner_id, |path, ago| path.heard = ago, Some(Counter::OwnerNoRoute)),
            (
                "two VLANs",
                ends.owner_id,
                |path, _| path.mixed = clock::seconds(),
                Some(Counter::VlanAmbiguous),
            ),
            (
                "two VLANs before",
                ends.first_id,
                |path, _| path.mixed = clock::seconds(),
                Some(Counter::VlanAmbiguous),
            ),
        ];
        for (what, backend, spoil, reason) in cases {
            let given = Given { session: Some(id.to_vec()), ..Given::flow(ends.established()) };
            bridge.prepare(&ends, &given)?;
            let mut path = bridge.path(backend)?;
            spoil(&mut path, long_ago);
            bridge.set_path(backend, path)?;
            let counter = reason.unwrap_or(Counter::Rehome);
            let (ran, n) = bridge.counted(Side::Outside, &up(&said), counter)?;
            assert_eq!(n, 1, "{what}");
            assert_eq!(ran.action, TC_REDIRECT, "{what}: a SYN or the buffered hello");
            let station = if reason.is_none() { OWNER } else { FIRST };
            assert_eq!(ran.frame[..6], station, "{what}");
            assert_eq!(ran.frame[6..12], BALANCER, "{what}");
        }
    }
    Ok(())
}

/// What is made for the backend that was dialled goes between the stations of the client's own
/// packets, whatever others' frames to it said since.
#[test]
fn a_held_hello_goes_on_between_its_own_stations() -> Result<()> {
    const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x5e];
    let mut bridge = Bridge::new()?;
    let id = [7; 32];
    for ends in inline() {
        let given = Given { session: Some(id.to_vec()), ..Given::flow(ends.established()) };
        bridge.prepare(&ends, &given)?;
        let owner = bridge.path(ends.owner_id)?;
        bridge.set_path(ends.owner_id, BridgePath { heard: 0, ..owner })?;
        let said = ends
            .up(after(CLIENT_ISN))
            .ack(after(FIRST_ISN))
            .options(&crate::world::STAMPS)
            .payload(&hello(&id, 300));
        let first = bridge.path(ends.first_id)?;
        let ethernet = Hop::mac_addresses(STRANGER, STRANGER);
        // Of another VLAN, a moment ago: the client's own frame does not replace it.
        bridge.set_path(ends.first_id, BridgePath { ethernet, vlan: 5, ..first })?;
        let ran = bridge.run(Side::Outside, &up(&said))?;
        assert_eq!(ran.action, TC_REDIRECT);
        assert_eq!((&ran.frame[..6], &ran.frame[6..12]), (&FIRST[..], &BALANCER[..]));
    }
    Ok(())
}

/// Both programs of a CPU have the same working memory.
#[test]
fn xdp_elsewhere_does_not_go_by_the_port_of_the_packet_before() -> Result<()> {
    let mut bridge = Bridge::new()?;
    steer_tests::frames::pin_to(0)?;
    for (bridged, ends) in inline().into_iter().zip(crate::world::families()) {
        bridge.prepare(&bridged, &Given::flow(bridged.settled()))?;
        bridge.world.prepare_for(Program::Xdp, &ends, &Given::flow(ends.settled()))?;
        let frame = up(&data(&bridged));
        let segment = ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).payload(b"data");
        let wanted = crate::world::to_backend(segment.clone(), ends.first);
        // The namespace's thread is one of its own: both runs on one.
        let ran = bridge.world.ns.run(|| {
            steer_tests::frames::pin_to(0)?;
            let loaded = &bridge.world.loaded;
            loaded.run(Program::Tc, &frame, bridge.world.ifindex)?;
            loaded.run(Program::Xdp, &crate::world::from_client(&segment), bridge.world.ifindex)
        })?;
        assert_eq!((ran.action, ran.frame), (crate::world::XDP_REDIRECT, wanted));
    }
    Ok(())
}

#[test]
fn a_packet_too_large_for_its_port_is_dropped_as_a_bridge_drops_it() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        bridge.prepare(&ends, &Given::flow(ends.spliced()))?;
        let table = &mut bridge.world.loaded.plane.flows;
        let flow = table.find(&ends.key())?.context("the flow")?;
        let client_hop = Hop { mtu: 1000, ..flow.client_hop };
        table.insert(&ends.key(), &Flow { client_hop, ..flow })?;
        let large = answer(&ends, ends.owner, OWNER_ISN).payload(&[1; 1200]);
        let (ran, n) =
            bridge.counted(Side::Inside, &down(OWNER, &large), Counter::TooBigDropped)?;
        assert_eq!((ran.action, n), (TC_DROP, 1));
        // Towards the owner its port's own MTU counts, 1500.
        bridge.prepare(&ends, &Given::flow(ends.spliced()))?;
        let large = up(&data(&ends).payload(&[1; 1600]));
        let (ran, n) = bridge.counted(Side::Outside, &large, Counter::TooBigDropped)?;
        assert_eq!((ran.action, n), (TC_DROP, 1));
    }
    Ok(())
}

#[test]
fn errors_about_moved_flows_are_translated_and_others_pass() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        let about = |from: SocketAddr, seq: u32| ends.down(from, after(seq)).ack(1);
        let error =
            |macs, to: SocketAddr, seq| too_big(macs, router(&ends), to.ip(), 64, &about(to, seq));
        let came = error((BALANCER, FIRST), ends.first, FIRST_ISN);
        bridge.prepare(&ends, &Given::flow(ends.settled()))?;
        passed(&bridge.run(Side::Outside, &came)?, &came);
        bridge.prepare(&ends, &Given::flow(ends.spliced()))?;
        sent(&bridge.run(Side::Outside, &came)?, &error((BALANCER, OWNER), ends.owner, OWNER_ISN));
        let inwards = |macs, to| {
            let about = Segment::new(ends.client, to, after(CLIENT_ISN)).ack(1);
            too_big(macs, router(&ends), ends.client.ip(), 64, &about)
        };
        sent(
            &bridge.run(Side::Inside, &inwards((OWNER, BALANCER), ends.owner))?,
            &inwards((FIRST, BALANCER), ends.first),
        );
    }
    Ok(())
}

/// A second connection to a port that a moved flow has at its owner: it gets another port there, and
/// the bridge has it go on.
#[test]
fn a_connection_with_another_port_goes_on_between_its_own_stations() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        bridge.prepare(&ends, &Given::flow(ends.spliced()))?;
        let mut syn =
            Segment { destination: ends.owner, ..ends.up(CLIENT_ISN).syn().options(&MSS) };
        syn.tcp.destination_port = ends.owner.port();
        let ran = bridge.run(Side::Outside, &syn.frame(BALANCER, OWNER, &[])?)?;
        let at = if ends.client.is_ipv4() { 34 } else { 54 };
        let port = u16::from_be_bytes([ran.frame[at], ran.frame[at + 1]]);
        assert_ne!(port, ends.client.port());
        let mut left = syn.clone();
        left.source.set_port(port);
        left.tcp.source_port = port;
        passed(&ran, &left.frame(BALANCER, OWNER, &[])?);
        let mut syn_ack = ends.down(ends.owner, 5).syn().ack(after(CLIENT_ISN)).options(&MSS);
        syn_ack.destination.set_port(port);
        syn_ack.tcp.destination_port = port;
        let ran = bridge.run(Side::Inside, &down(OWNER, &syn_ack))?;
        syn_ack.destination.set_port(ends.client.port());
        syn_ack.tcp.destination_port = ends.client.port();
        passed(&ran, &down(OWNER, &syn_ack));
    }
    Ok(())
}

/// Behind the end of a moved flow its port at the owner is nobody's.
#[test]
fn what_an_owner_sends_behind_the_end_of_a_moved_flow_is_dropped() -> Result<()> {
    let mut bridge = Bridge::new()?;
    for ends in inline() {
        let over = Flow { flags: ends.spliced().flags | FLOW_RESET, ..ends.spliced() };
        bridge.prepare(&ends, &Given::flow(over))?;
        bridge.world.loaded.plane.flows.remove(&ends.key())?;
        let late = down(OWNER, &answer(&ends, ends.owner, OWNER_ISN));
        let (ran, n) = bridge.counted(Side::Inside, &late, Counter::LegOver)?;
        assert_eq!((ran.action, n), (TC_DROP, 1));
    }
    Ok(())
}

/// Two links of a LAG, a bridge each: what a switch sends over the one its peer answers over the
/// other, and either changes its mind in mid-flow. The maps are common.
#[test]
fn a_flow_whose_halves_take_two_wires_is_moved_and_goes_on_when_they_change() -> Result<()> {
    let mut bridge = Bridge::new()?;
    let links = "link add lag0 type veth peer name lag1\nlink set lag0 up\nlink set lag1 up\n";
    bridge.world.ns.ip(links)?;
    let index = nix::net::if_::if_nametoindex::<str>;
    let second = bridge.world.ns.run(|| Ok([index("lag0")?, index("lag1")?]))?;
    let wires = [[bridge.world.ifindex, bridge.inside], second];
    for (port, side) in [(second[0], INTERFACE_OUTSIDE), (second[1], INTERFACE_INSIDE)] {
        let number = 1 << INTERFACE_BRIDGE_AT;
        bridge.world.loaded.plane.interfaces.insert(&port, &(side | number))?;
    }
    let id = [7; 32];
    for ends in inline() {
        bridge.prepare(&ends, &Given { session: Some(id.to_vec()), ..Given::nothing() })?;
        let at = |side: Side, wire: usize, frame: &[u8]| {
            let port = wires[wire][usize::from(side == Side::Inside)];
            bridge.world.ns.run(|| bridge.world.loaded.run(Program::Tc, frame, port))
        };
        let (client, first) = (after(CLIENT_ISN), after(FIRST_ISN));
        let syn = up(&ends.up(CLIENT_ISN).syn().options(&MSS));
        passed(&at(Side::Outside, 0, &syn)?, &syn);
        let syn_ack = ends.down(ends.first, FIRST_ISN).syn().ack(client).options(&MSS);
        let syn_ack = down(FIRST, &syn_ack);
        passed(&at(Side::Inside, 1, &syn_ack)?, &syn_ack);
        let ack = up(&ends.up(client).ack(first));
        passed(&at(Side::Outside, 1, &ack)?, &ack);
        let said = up(&ends.up(client).ack(first).payload(&hello(&id, 300)));
        let asked = at(Side::Outside, 0, &said)?;
        assert_eq!((asked.action, &asked.frame[..6]), (TC_REDIRECT, &OWNER[..]));
        let agreed = ends.down(ends.owner, OWNER_ISN).syn().ack(client).options(&MSS);
        let moved = at(Side::Inside, 1, &down(OWNER, &agreed))?;
        assert_eq!((moved.action, &moved.frame[..6]), (TC_REDIRECT, &OWNER[..]));
        assert!(StateWord(bridge.world.flow(&ends)?.word).is(State::Spliced));
        let answered = down(OWNER, &answer(&ends, ends.owner, OWNER_ISN));
        for (up_by, down_by) in [(0, 1), (1, 0), (1, 1), (0, 0)] {
            let said = up(&ends.up(client).ack(first).payload(b"data"));
            let ran = at(Side::Outside, up_by, &said)?;
            assert_eq!((ran.action, &ran.frame[..6]), (TC_REDIRECT, &OWNER[..]));
            let ran = at(Side::Inside, down_by, &answered)?;
            assert_eq!((ran.action, &ran.frame[..6]), (TC_REDIRECT, &BALANCER[..]));
            let path = bridge.path(ends.owner_id)?;
            assert_eq!(path.ifindex, wires[down_by][1], "by the wire that it speaks on");
        }
    }
    Ok(())
}
