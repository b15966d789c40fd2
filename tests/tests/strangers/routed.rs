//! Connections that clients dialled to backends themselves, through a router that becomes a
//! gateway.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook},
    setting::{Setting, in_settings},
    talk::{Conversation, Who},
};

use crate::street::{CROWD, Street, nothing_was_guessed};

/// Half of the conversations began before there was a gateway, the others while it is one; then
/// this happens.
fn talk_goes_on(
    number: usize,
    happens: impl Fn(&Street, &mut Agent<'_>) -> Result<()>,
) -> Result<()> {
    in_settings(number, |setting| goes_on_in(setting, "", &happens))
}

fn goes_on_in(
    setting: Setting,
    vip_setting: &str,
    happens: impl Fn(&Street, &mut Agent<'_>) -> Result<()>,
) -> Result<()> {
    let street = Street::build(setting)?.vip_setting(vip_setting);
    let older = street.direct(0..CROWD / 2)?;
    older.goes_on();
    let mut steer = street.agent()?;
    let younger = street.direct(CROWD / 2..CROWD)?;
    older.goes_on();
    younger.goes_on();
    nothing_was_guessed(&steer)?;
    happens(&street, &mut steer)?;
    older.goes_on();
    younger.goes_on();
    older.end()?;
    younger.end()
}

#[test]
fn routed_conversations_go_on_when_the_agent_starts() -> Result<()> {
    in_settings(200, |setting| {
        let street = Street::build(setting)?;
        let crowd = street.direct(0..CROWD)?;
        crowd.goes_on();
        let steer = street.agent()?;
        crowd.goes_on();
        nothing_was_guessed(&steer)?;
        ensure!(steer.count(Counter::BackendPassed)? > 0, "no packet of theirs met steer");
        crowd.end()
    })
}

#[test]
fn routed_conversations_go_on_when_an_agent_starts_that_only_observes() -> Result<()> {
    in_settings(201, |setting| goes_on_in(setting, "mode = \"observe\"", |_, _| Ok(())))
}

#[test]
fn routed_conversations_go_on_when_the_agent_starts_again() -> Result<()> {
    talk_goes_on(202, |_, steer| {
        steer.end(Signal::SIGTERM)?;
        steer.launch()?;
        nothing_was_guessed(steer)
    })
}

#[test]
fn routed_conversations_go_on_when_the_agent_is_killed_and_starts_again() -> Result<()> {
    talk_goes_on(203, |_, steer| {
        steer.end(Signal::SIGKILL)?;
        steer.launch()?;
        nothing_was_guessed(steer)
    })
}

#[test]
fn routed_conversations_go_on_when_steer_is_detached() -> Result<()> {
    talk_goes_on(204, |_, steer| steer.steer("detach").map(drop))
}

#[test]
fn routed_conversations_go_on_when_an_agent_starts_after_another_was_detached() -> Result<()> {
    talk_goes_on(205, |_, steer| {
        steer.steer("detach")?;
        drop(steer.end(Signal::SIGTERM));
        steer.launch()?;
        nothing_was_guessed(steer)
    })
}

#[test]
fn routed_conversations_go_on_when_tables_change_their_sizes() -> Result<()> {
    talk_goes_on(206, |street, steer| {
        steer.end(Signal::SIGTERM)?;
        let mut larger = street.steer.clone();
        larger.sizes =
            ["flows = 300000", "splices = 70000", "sessions = 200000"].map(str::to_owned).to_vec();
        steer.configure(&larger)?;
        steer.launch()?;
        nothing_was_guessed(steer)
    })
}

#[test]
fn routed_conversations_go_on_when_backends_leave_and_join_the_pool() -> Result<()> {
    talk_goes_on(207, |street, steer| {
        let (vip, backend) = (street.vip(), street.backend(1));
        steer.steer(&format!("backends drain {backend}"))?;
        steer.steer(&format!("backends remove {backend}"))?;
        steer.steer(&format!("backends add --vip {vip} {backend}"))?;
        nothing_was_guessed(steer)
    })
}

#[test]
fn routed_conversations_go_on_when_bypass_is_switched_on_and_off() -> Result<()> {
    talk_goes_on(208, |_, steer| {
        steer.steer("bypass on")?;
        steer.steer("bypass off")?;
        nothing_was_guessed(steer)
    })
}

/// Nothing was heard of them since the gateway is one, whoever speaks first then.
#[test]
fn routed_conversations_that_were_silent_all_along_go_on() -> Result<()> {
    in_settings(209, |setting| {
        let street = Street::build(setting)?;
        let mut silent = street.dials(0..CROWD, |client| street.backend(client))?;
        let steer = street.agent()?;
        for (number, conversation) in silent.iter_mut().enumerate() {
            let first = if number % 2 == 0 { Who::Server } else { Who::Client };
            conversation.say(first, 50_000)?;
            conversation.say(first.other(), 50_000)?;
        }
        nothing_was_guessed(&steer)?;
        all_end(silent)
    })
}

/// The first packet that the gateway sees of them ends them.
#[test]
fn routed_conversations_that_were_silent_all_along_end_as_they_should() -> Result<()> {
    in_settings(210, |setting| {
        let street = Street::build(setting)?;
        let silent = street.dials(0..CROWD, |client| street.backend(client))?;
        let steer = street.agent()?;
        all_end(silent)?;
        nothing_was_guessed(&steer)
    })
}

/// Where clients come in by what XDP serves and backends are reached by what it does not, or the
/// other way round.
#[test]
fn routed_conversations_go_on_on_hooks_of_the_agents_own_choice() -> Result<()> {
    in_settings(211, |setting| {
        let mut street = Street::build(setting)?;
        street.steer.hook = Hook::Auto;
        let crowd = street.direct(0..CROWD)?;
        let steer = street.agent()?;
        crowd.goes_on();
        nothing_was_guessed(&steer)?;
        crowd.end()
    })
}

/// Half of them by their clients, half by their servers.
fn all_end(conversations: Vec<Conversation>) -> Result<()> {
    conversations.into_iter().enumerate().try_for_each(|(number, conversation)| {
        conversation.finish(if number % 4 < 2 { Who::Server } else { Who::Client })
    })
}
