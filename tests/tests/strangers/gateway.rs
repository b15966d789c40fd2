//! The gateway's own connections, and those of backends among themselves.

use anyhow::Result;
use nix::sys::signal::Signal;
use steer_tests::{
    setting::in_settings,
    talk::{Conversation, Crowd},
};

use crate::street::{CROWD, Street, nothing_was_guessed};

#[test]
fn the_gateways_own_conversations_with_backends_go_on_when_the_agent_starts_and_starts_again()
-> Result<()> {
    in_settings(230, |setting| {
        let street = Street::build(setting)?;
        let older = Crowd::of(from_the_gateway(&street)?);
        let mut steer = street.agent()?;
        let younger = Crowd::of(from_the_gateway(&street)?);
        older.goes_on();
        younger.goes_on();
        steer.end(Signal::SIGKILL)?;
        steer.launch()?;
        older.goes_on();
        younger.goes_on();
        nothing_was_guessed(&steer)?;
        older.end()?;
        younger.end()
    })
}

/// The kernel then looks up no route for steer; it still has its own.
#[test]
fn the_gateways_own_conversations_with_backends_go_on_where_it_forwards_nothing() -> Result<()> {
    in_settings(231, |setting| {
        let street = Street::build(setting)?;
        let gateway = street.lab.gateway();
        gateway.sysctl("ipv4/ip_forward", "0")?;
        gateway.sysctl("ipv6/conf/all/forwarding", "0")?;
        let steer = street.agent()?;
        let crowd = Crowd::of(from_the_gateway(&street)?);
        crowd.goes_on();
        nothing_was_guessed(&steer)?;
        crowd.end()
    })
}

#[test]
fn conversations_among_backends_go_on_when_the_agent_starts() -> Result<()> {
    in_settings(232, |setting| {
        let street = Street::build(setting)?;
        let older = Crowd::of(among_backends(&street)?);
        let steer = street.agent()?;
        let younger = Crowd::of(among_backends(&street)?);
        older.goes_on();
        younger.goes_on();
        nothing_was_guessed(&steer)?;
        older.end()?;
        younger.end()
    })
}

fn from_the_gateway(street: &Street) -> Result<Vec<Conversation>> {
    (0..CROWD)
        .map(|number| street.peers.dial_from_anywhere(street.lab.gateway(), street.backend(number)))
        .collect()
}

/// Each dials the next one.
fn among_backends(street: &Street) -> Result<Vec<Conversation>> {
    let n = street.lab.n_backends();
    (0..CROWD)
        .map(|number| {
            street
                .peers
                .dial_from_anywhere(street.lab.backend(number % n), street.backend(number + 1))
        })
        .collect()
}
