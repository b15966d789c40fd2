//! Plain layer 4: flows that stay, and how they end.

use anyhow::Result;
use steer_common::{
    counters::Counter,
    shared::{FLOW_CLIENT_FIN, FLOW_RESET, FLOW_SERVER_FIN, Flow},
};
use steer_tests::{pieces, programs::Program};

use crate::{
    frames,
    world::{
        CLIENT_ISN, Case, Ends, FIRST_ISN, Given, Out, STAMPS, TC_REDIRECT, World, XDP_PASS, after,
        from_backend, from_client, shapes, to_backend, to_client,
    },
};

#[test]
fn a_settled_flow_changes_addresses_only_both_ways_on_both_hooks() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let up = ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN));
        let down = ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN));
        let mut marked = up.clone();
        marked.traffic_class = 0xb9;
        let cases = [
            ("an acknowledgement", up.clone()),
            ("data", up.clone().options(&STAMPS).payload(b"odd")),
            ("DSCP and ECN", marked),
            (
                "a selective acknowledgement",
                up.clone().options(&[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
            ),
            ("malformed options", up.clone().options(&[8, 40, 1, 1])),
            ("1460 bytes", up.options(&[]).payload(&[0xa5; 1440])),
        ];
        let cases = cases.map(|(what, came)| {
            let left = Out::Sent(to_backend(came.clone(), ends.first));
            both_hooks(what, from_client(&came), ends.settled(), left)
        });
        world.judge(&ends, &cases)?;
        let cases = [
            ("an answer", down.clone()),
            ("an answer's data", down.options(&STAMPS).payload(&[9; 1001])),
        ];
        let cases = cases.map(|(what, came)| {
            let left = Out::Sent(to_client(came.clone(), ends.vip));
            both_hooks(what, from_backend(&came), ends.settled(), left)
        });
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn ip_options_and_extension_headers_are_carried_along() -> Result<()> {
    const DESTINATION_OPTIONS: u8 = 60;
    const PADDED: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    let mut world = World::new()?;
    let [v4, v6] = steer_tests::ends::families();
    let up = |ends: &Ends| {
        ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).options(&STAMPS).payload(b"data")
    };
    let mut with_options = up(&v4);
    with_options.ip_options = vec![1, 1, 1, 0];
    let left = Out::Sent(frames::whole_length(to_backend(with_options.clone(), v4.first)));
    let came = frames::whole_length(from_client(&with_options));
    world.judge(&v4, &[both_hooks("IPv4 options", came, v4.settled(), left)])?;

    let came = pieces::with_extension(&from_client(&up(&v6)), DESTINATION_OPTIONS, &PADDED);
    let left = pieces::with_extension(&to_backend(up(&v6), v6.first), DESTINATION_OPTIONS, &PADDED);
    world.judge(&v6, &[both_hooks("an extension header", came, v6.settled(), Out::Sent(left))])
}

#[test]
fn the_end_of_the_hop_limit_is_dropped_towards_a_backend_and_left_to_the_stack_towards_a_client()
-> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let mut up = ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN));
        let mut down = ends.down(ends.first, after(FIRST_ISN)).ack(after(CLIENT_ISN));
        (up.hop_limit, down.hop_limit) = (1, 1);
        // A VIP's the stack would deliver here; what dials a backend itself it answers as a router.
        let late = if ends.is_inline() { Out::Untouched } else { Out::Dropped };
        let case = |what, frame, tc| Case {
            what,
            frame,
            given: Given::flow(ends.settled()),
            tc,
            xdp: Out::Untouched,
            counts: Some(Counter::HopLimit),
        };
        let cases = [
            case("towards a backend", from_client(&up), late.clone()),
            case("towards a client", from_backend(&down), Out::Untouched),
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn xdp_leaves_an_unfinished_checksum_to_tc() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let mut frame =
            from_client(&ends.up(after(CLIENT_ISN)).ack(after(FIRST_ISN)).payload(b"data"));
        let tcp = if ends.client.is_ipv4() { 34 } else { 54 };
        let addresses = if ends.client.is_ipv4() { 26..34 } else { 22..54 };
        let len = frame.len() - tcp;
        let sum = frame[addresses]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum::<u32>();
        let sum = sum + len as u32 + 6;
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
        frame[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
        world.prepare_for(Program::Xdp, &ends, &Given::flow(ends.settled()))?;
        let before = world.loaded.plane.counter(Counter::XdpUnfinishedChecksum)?;
        let ran = world.run(Program::Xdp, &frame)?;
        assert_eq!((ran.action, ran.frame == frame), (XDP_PASS, true));
        assert_eq!(world.loaded.plane.counter(Counter::XdpUnfinishedChecksum)?, before + 1);
    }
    Ok(())
}

#[test]
fn ends_are_marked_only_at_the_exact_number_with_a_right_checksum() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let up = |seq| ends.up(seq).ack(after(FIRST_ISN));
        let down = |seq| ends.down(ends.first, seq).ack(after(CLIENT_ISN));
        let (client, server) = (after(CLIENT_ISN), after(FIRST_ISN));
        let broken = |mut frame: Vec<u8>| {
            *frame.last_mut().expect("a frame") ^= 0x55;
            frame
        };
        let cases = [
            ("the client's FIN", from_client(&up(client).fin()), FLOW_CLIENT_FIN),
            ("the server's FIN", from_backend(&down(server).fin()), FLOW_SERVER_FIN),
            ("the client's reset", from_client(&up(client).rst()), FLOW_RESET),
            ("the server's reset", from_backend(&down(server).rst()), FLOW_RESET),
            ("a reset elsewhere", from_client(&up(client + 9).rst()), 0),
            ("a FIN elsewhere", from_client(&up(client + 9).fin()), 0),
            ("a FIN with data", from_client(&up(client).payload(b"data").fin()), FLOW_CLIENT_FIN),
            ("data", from_client(&up(client).payload(b"data")), 0),
            (
                "a client's FIN that was damaged",
                broken(from_client(&up(client).payload(b"data").fin())),
                0,
            ),
            (
                "a server's reset that was damaged",
                broken(from_backend(&down(server).rst().options(&[1, 1, 1, 1]))),
                0,
            ),
        ];
        for (what, frame, mark) in cases {
            // Also before the first data: who checks a VIP connects and ends.
            for flow in [ends.settled(), ends.established()] {
                world.prepare(&ends, &Given::flow(flow))?;
                let ran = world.run(Program::Tc, &frame)?;
                assert_eq!(ran.action, TC_REDIRECT, "{what} goes on");
                let flags =
                    world.flow(&ends)?.flags & (FLOW_CLIENT_FIN | FLOW_SERVER_FIN | FLOW_RESET);
                assert_eq!(flags, mark, "{what}");
            }
            world.prepare_for(Program::Xdp, &ends, &Given::flow(ends.settled()))?;
            let ran = world.run(Program::Xdp, &frame)?;
            assert_eq!(ran.action == XDP_PASS, what != "data", "XDP leaves ends to TC: {what}");
        }
    }
    Ok(())
}

/// A settled flow's packet, which either hook forwards.
fn both_hooks(what: &'static str, frame: Vec<u8>, flow: Flow, left: Out) -> Case {
    Case {
        what,
        frame,
        given: Given::flow(flow),
        tc: left.clone(),
        xdp: left,
        counts: Some(Counter::Forwarded),
    }
}
