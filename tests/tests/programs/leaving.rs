//! While the gateway is being left new connections are the kernel's, and what has begun goes on; what is left of a flow
//! that no table has any more.

use anyhow::Result;
use steer_common::{
    counters::Counter,
    shared::{Backend, SWITCH_LEAVE},
};
use steer_tests::programs::Program;

use crate::world::{
    CLIENT_ISN, Case, Ends, FIRST_ISN, Given, Out, TC_DROP, TC_NEXT, TC_REDIRECT, World, families, from_backend,
    from_client, to_backend,
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
        assert_eq!((other.action, other.frame), (TC_NEXT, syn(CLIENT_ISN.wrapping_add(9))), "another SYN");
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
                new("on a live flow", Given::flow(ends.settled()), Out::Sent(left), Counter::SynKnownFlow),
            ],
        )?;
        world.loaded.plane.set_switch(SWITCH_LEAVE, false)?;
    }
    Ok(())
}

/// A handshake, after which every table forgets the flow: only its trace is left.
fn forgotten(world: &mut World, ends: &Ends) -> Result<()> {
    world.prepare(ends, &Given::nothing())?;
    let (client, first) = (CLIENT_ISN.wrapping_add(1), FIRST_ISN.wrapping_add(1));
    for frame in [
        from_client(&ends.up(CLIENT_ISN).syn().options(&MSS)),
        from_backend(&ends.down(ends.first, FIRST_ISN).syn().ack(client).options(&MSS)),
        from_client(&ends.up(client).ack(first)),
    ] {
        world.run(Program::Tc, &frame)?;
    }
    // Where the lookup table leads nowhere, only the trace knows the flow.
    world.prepare(ends, &Given { empty_pool: true, ..Given::nothing() })
}

#[test]
fn what_is_left_of_a_flow_counts_only_while_its_backend_is_of_the_same_vip() -> Result<()> {
    let mut world = World::new()?;
    let [ends, other] = families();
    let id = u32::from(ends.first_id);
    for (what, vip_id, goes_on) in [("its own", ends.vip_id, true), ("another VIP's", other.vip_id, false)] {
        forgotten(&mut world, &ends)?;
        let backend = world.loaded.plane.backends()?.into_iter().find(|(at, _)| *at == id).map(|(_, b)| b);
        world.loaded.plane.set_backend(id, &Backend { vip_id, ..backend.unwrap_or_default() })?;
        let up = ends.up(CLIENT_ISN.wrapping_add(1)).ack(FIRST_ISN.wrapping_add(1)).payload(b"data");
        let ran = world.run(Program::Tc, &from_client(&up))?;
        let wanted = if goes_on { (TC_REDIRECT, to_backend(up, ends.first)) } else { (TC_DROP, from_client(&up)) };
        assert_eq!((ran.action, ran.frame), wanted, "{what}");
    }
    Ok(())
}
