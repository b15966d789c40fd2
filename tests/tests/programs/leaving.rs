//! While the gateway is being left new connections are the kernel's, and what has begun goes on.

use anyhow::Result;
use steer_common::{
    counters::Counter,
    shared::{
        FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_LEARNED, FLOW_RESET, FLOW_SERVER_FIN, Flow, SWITCH_LEAVE,
    },
};
use steer_tests::programs::Program;

use crate::world::{
    CLIENT_ISN, Case, Given, Out, TC_NEXT, TC_REDIRECT, World, families, from_client, to_backend,
};

/// MSS 1460.
const MSS: [u8; 4] = [2, 4, 5, 180];

#[test]
fn a_syn_repeated_while_the_gateway_is_left_goes_where_the_first_one_went() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        let syn = |isn| from_client(&ends.up(isn).syn().options(&MSS));
        world.prepare(&ends, &Given::nothing())?;
        assert_eq!(world.run(Program::Tc, &syn(CLIENT_ISN))?.action, TC_REDIRECT);
        world.loaded.plane.set_switch(SWITCH_LEAVE, true)?;
        let again = world.run(Program::Tc, &syn(CLIENT_ISN))?;
        let left = to_backend(ends.up(CLIENT_ISN).syn().options(&MSS), ends.first);
        assert_eq!((again.action, &again.frame), (TC_REDIRECT, &left), "the same SYN");
        let other = world.run(Program::Tc, &syn(CLIENT_ISN.wrapping_add(9)))?;
        assert_eq!(
            (other.action, other.frame),
            (TC_NEXT, syn(CLIENT_ISN.wrapping_add(9))),
            "another SYN"
        );
        let new = |what, given, tc, counts| Case {
            what,
            frame: syn(CLIENT_ISN),
            given,
            tc,
            xdp: Out::Untouched,
            counts: Some(counts),
        };
        world.judge(
            &ends,
            &[
                new("a new SYN", Given::nothing(), Out::Untouched, Counter::Left),
                new(
                    "on a live flow",
                    Given::flow(ends.settled()),
                    Out::Sent(left),
                    Counter::SynKnownFlow,
                ),
            ],
        )?;
        world.loaded.plane.set_switch(SWITCH_LEAVE, false)?;
    }
    Ok(())
}

/// The port of a flow that ended is used again, by a connection that the kernel's own rules take.
#[test]
fn a_port_that_is_used_again_while_the_gateway_is_left_is_the_kernels() -> Result<()> {
    let mut world = World::new()?;
    for ends in families() {
        world.loaded.plane.set_switch(SWITCH_LEAVE, true)?;
        let over = Flow { flags: FLOW_LEARNED | FLOW_RESET | FLOW_CLOSED, ..ends.spliced() };
        // Both sides said that they end, and the last acknowledgement was lost.
        const FINS: u32 = FLOW_CLIENT_FIN | FLOW_SERVER_FIN;
        let ended = Flow { flags: FLOW_LEARNED | FINS | FLOW_CLOSED, ..ends.spliced() };
        let givens = [Given::flow(over), Given::flow(ended), Given::handshake(ends.handshake())];
        for given in givens {
            world.prepare(&ends, &given)?;
            if let Some(flow) = &given.flow {
                world.loaded.plane.splices.insert(&ends.key(), flow)?;
            }
            let next = ends.up(77_000).syn().options(&MSS);
            for segment in [next, ends.up(77_001).ack(9), ends.up(77_001).ack(9).payload(b"data")] {
                let ran = world.run(Program::Tc, &from_client(&segment))?;
                assert_eq!((ran.action, ran.frame), (TC_NEXT, from_client(&segment)));
            }
        }
        world.loaded.plane.set_switch(SWITCH_LEAVE, false)?;
    }
    Ok(())
}
