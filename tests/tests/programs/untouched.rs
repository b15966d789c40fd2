//! What is not ours leaves as it came, and what cannot be read is counted.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{packets::Segment, programs::Program};

use crate::{
    frames,
    world::{
        CLIENT_ISN, CLIENT_MAC, Case, Ends, GATE_MAC, Given, Out, World, XDP_PASS, families,
        from_backend, from_client,
    },
};

#[test]
fn what_is_not_ours_passes_untouched() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let other_port = SocketAddr::new(ends.vip.ip(), 80);
        let other_host = SocketAddr::new(ends.first.ip(), ends.vip.port());
        let backend_ssh = SocketAddr::new(ends.first.ip(), 22);
        let cases = [
            ("UDP to the VIP's port", frames::udp(&ends), Counter::NotOurs),
            (
                "TCP to another port of the VIP",
                from_client(&Segment::new(ends.client, other_port, 1).syn()),
                Counter::NotOurs,
            ),
            (
                "TCP to another host",
                from_client(&Segment::new(ends.client, other_host, 1).syn()),
                Counter::NotOurs,
            ),
            (
                "a backend's other port",
                from_backend(&ends.down(backend_ssh, 1).ack(1)),
                Counter::NotOurs,
            ),
            ("a fragment of something else", other_fragment(&ends), Counter::FragmentPassed),
        ];
        world.judge(&ends, &cases.map(|(what, frame, counts)| untouched(what, frame, counts)))?;
        // The kernel's own TCP takes neither broadcasts nor frames for another station.
        let syn =
            |station| ends.up(CLIENT_ISN).syn().frame(CLIENT_MAC, station, &[]).expect("a frame");
        let cases = [
            ("ARP", frames::arp()),
            ("a SYN to everybody", syn([0xff; 6])),
            ("a SYN to another station", syn([2, 0, 0, 0, 0, 0x99])),
        ];
        world.judge(
            &ends,
            &cases.map(|(what, frame)| untouched(what, frame, Counter::OtherStation)),
        )?;
    }
    Ok(())
}

/// ::ffff:192.0.2.7 in IPv6 headers is not 192.0.2.7 (RFC 4291 2.5.5.2): no VIP and no backend has
/// such an address.
#[test]
fn mapped_addresses_are_nobodys() -> Result<()> {
    let mut world = World::new()?;
    let [ends, _] = families();
    let mapped = |at: SocketAddr| match at.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), at.port()),
        IpAddr::V6(_) => at,
    };
    for (from, to) in
        [(ends.client, ends.vip), (ends.client, ends.first), (ends.first, ends.client)]
    {
        let syn = Segment::new(mapped(from), mapped(to), CLIENT_ISN).syn();
        assert_eq!(from_client(&syn)[14] >> 4, 6, "an IPv6 header");
        for given in [Given::nothing(), Given::flow(ends.settled())] {
            for segment in
                [syn.clone(), Segment::new(mapped(from), mapped(to), 1).ack(1).payload(b"data")]
            {
                let case = untouched("mapped", from_client(&segment), Counter::NotOurs);
                world.judge(&ends, &[Case { given: given.clone(), counts: None, ..case }])?;
            }
        }
    }
    Ok(())
}

#[test]
fn tagged_frames_pass_to_the_vlans_own_interface() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let cases = [("one tag", &[5][..]), ("two tags", &[5, 6])].map(|(what, vlans)| {
            let frame =
                ends.up(CLIENT_ISN).syn().frame(CLIENT_MAC, GATE_MAC, vlans).expect("a frame");
            untouched(what, frame, Counter::VlanPassed)
        });
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn frames_cut_short_or_with_lengths_that_lie_pass_untouched_but_those_to_a_vip() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let frame = from_client(&ends.up(CLIENT_ISN).syn().options(&[2, 4, 5, 180]));
        let tcp = if ends.client.is_ipv4() { 34 } else { 54 };
        let changed = |at: usize, value: u8| {
            let mut frame = frame.clone();
            frame[at] = value;
            frame
        };
        // The kernel runs TC programs in a test only on frames with a whole IP header.
        for len in [14, 30] {
            let ran = world.run(Program::Xdp, &frame[..len])?;
            assert_eq!((ran.action, ran.frame.as_slice()), (XDP_PASS, &frame[..len]));
        }
        // The local stack, which may have the VIP's address, must not answer them.
        let dropped = [
            ("half a TCP header", frame[..tcp + 10].to_vec()),
            ("a TCP header longer than the packet", changed(tcp + 12, 0xf0)),
            ("a TCP header shorter than one", changed(tcp + 12, 0x40)),
        ];
        let dropped = dropped.map(|(what, frame)| Case {
            tc: Out::Dropped,
            ..untouched(what, frame, Counter::MalformedDropped)
        });
        world.judge(&ends, &dropped)?;
        let mut cases = vec![("another IP version", changed(14, 0x55))];
        if ends.client.is_ipv4() {
            cases.push(("an IPv4 header shorter than one", changed(14, 0x44)));
            cases.push(("an IPv4 length below its header's", changed(17, 19)));
        }
        let cases =
            cases.into_iter().map(|(what, frame)| untouched(what, frame, Counter::Malformed));
        world.judge(&ends, &cases.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn untouched(what: &'static str, frame: Vec<u8>, counts: Counter) -> Case {
    let counts = Some(counts);
    Case { what, frame, given: Given::nothing(), tc: Out::Untouched, xdp: Out::Untouched, counts }
}

fn other_fragment(ends: &Ends) -> Vec<u8> {
    let other = SocketAddr::new(ends.first.ip(), 80);
    steer_tests::pieces::fragments(
        &from_client(&Segment::new(ends.client, other, 1).ack(1).payload(&[7; 100])),
        &[64],
        77,
    )
    .remove(1)
}
