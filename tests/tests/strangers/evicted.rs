//! Flows of a VIP that a small table has forgotten: whoever speaks next, they go on.

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    agent::Agent,
    setting::in_settings,
    talk::{Conversation, Crowd, Who},
};

use crate::street::{CROWD, Since, Street, nothing_was_guessed};

/// Room in the tables, and connections that come and go meanwhile.
const ROOM: usize = 64;
const OTHERS: usize = 400;

fn forgotten_flows_go_on(
    number: usize,
    wake: impl Fn(&mut Conversation) -> Result<()>,
) -> Result<()> {
    in_settings(number, |setting| {
        let street = small(Street::build(setting)?);
        let steer = street.agent()?;
        let mut idle = street.dials(0..CROWD, |_| street.vip())?;
        crowd_out(&street, &steer)?;
        let since = Since::now(&steer)?;
        for (number, conversation) in idle.iter_mut().enumerate() {
            wake(conversation).with_context(|| format!("conversation {number}"))?;
        }
        let found = since.of(Counter::TraceFound)?;
        ensure!(found > CROWD as u64 / 2, "only {found} of {CROWD} had been forgotten");
        nothing_was_guessed(&steer)?;
        let crowd = Crowd::of(idle);
        crowd.goes_on();
        crowd.end()
    })
}

#[test]
fn forgotten_flows_go_on_when_their_servers_speak_next() -> Result<()> {
    forgotten_flows_go_on(260, |conversation| {
        conversation.say(Who::Server, 60_000)?;
        conversation.exchange(60_000)
    })
}

#[test]
fn forgotten_flows_go_on_when_their_clients_speak_next() -> Result<()> {
    forgotten_flows_go_on(261, |conversation| {
        conversation.say(Who::Client, 60_000)?;
        conversation.exchange(60_000)
    })
}

/// The first packet after that is a FIN.
#[test]
fn forgotten_flows_end_as_they_should() -> Result<()> {
    in_settings(262, |setting| {
        let street = small(Street::build(setting)?);
        let steer = street.agent()?;
        let idle = street.dials(0..CROWD, |_| street.vip())?;
        crowd_out(&street, &steer)?;
        for (number, conversation) in idle.into_iter().enumerate() {
            let first = if number % 2 == 0 { Who::Server } else { Who::Client };
            conversation.finish(first).with_context(|| format!("conversation {number}"))?;
        }
        nothing_was_guessed(&steer)
    })
}

/// Forgotten while a direct connection has the same port at the same backend, or the other way
/// round.
#[test]
fn forgotten_flows_and_direct_connections_from_the_same_ports_are_not_mixed_up() -> Result<()> {
    in_settings(263, |setting| {
        const PORT: u16 = 21_000;
        let street = small(Street::with_backends(setting, 1)?);
        let steer = street.agent()?;
        let from =
            |client: usize, target| street.dial_from((street.client(client), PORT).into(), target);
        let (mut own, mut direct) = (Vec::new(), Vec::new());
        for client in 0..CROWD / 2 {
            // By turns the flow and the direct connection come first, and the other one has another
            // port.
            if client % 2 == 0 {
                own.push(from(client, street.vip())?);
                direct.push(from(client, street.backend(0))?);
            } else {
                direct.push(from(client, street.backend(0))?);
                own.push(from(client, street.vip())?);
            }
        }
        crowd_out(&street, &steer)?;
        for (client, (own, direct)) in own.iter_mut().zip(&mut direct).enumerate() {
            let first = if client % 4 < 2 { Who::Server } else { Who::Client };
            for (what, conversation) in [("to the VIP", &mut *own), ("direct", &mut *direct)] {
                conversation
                    .say(first, 9000)
                    .with_context(|| format!("client {client}, {what}"))?;
                conversation.exchange(9000).with_context(|| format!("client {client}, {what}"))?;
            }
        }
        nothing_was_guessed(&steer)?;
        for crowd in [Crowd::of(own), Crowd::of(direct)] {
            crowd.end()?;
        }
        Ok(())
    })
}

/// A table so small that others push flows out of it.
fn small(street: Street) -> Street {
    street.size(&format!("flows = {ROOM}")).size(&format!("handshakes = {ROOM}"))
}

/// Lets others come and go until nothing of the idle ones can be left in the tables.
fn crowd_out(street: &Street, steer: &Agent<'_>) -> Result<()> {
    let since = Since::now(steer)?;
    for number in 0..OTHERS {
        let mut other = street.dial(30 + number % 30, street.vip())?;
        other.exchange(100)?;
        other.finish(Who::Client)?;
    }
    ensure!(since.of(Counter::FlowEstablished)? == OTHERS as u64, "others were flows of steer's");
    Ok(())
}
