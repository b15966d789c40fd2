//! Connections that say nothing for a while, in which others come in crowds.

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    flood::{LINUX, Strangers, at_clients, from_clients},
    setting::{Setting, in_settings},
    talk::{Conversation, Who},
};

use crate::street::{CROWD, Since, Street, nothing_was_guessed};

/// SYNs that come meanwhile: more than the largest default table of connections that are beginning
/// has room for.
const SYNS: usize = 100_000;
/// As many are sent at a time.
const PORTION: usize = 5000;

#[test]
fn idle_direct_conversations_outlive_100_000_syns_to_the_vip() -> Result<()> {
    in_settings(250, |setting| {
        let street = street(setting)?;
        let mut idle = street.dials(0..CROWD / 2, |client| street.backend(client))?;
        let steer = street.agent()?;
        idle.extend(street.dials(CROWD / 2..CROWD, |client| street.backend(client))?);
        let since = Since::now(&steer)?;
        flood(&street, |strangers| strangers.segment().syn().options(&LINUX))?;
        ensure!(
            since.of(Counter::Syn)? > SYNS as u64 / 2,
            "{} of them came",
            since.of(Counter::Syn)?
        );
        wake(&mut idle)?;
        nothing_was_guessed(&steer)?;
        idle.into_iter().try_for_each(|conversation| conversation.finish(Who::Server))
    })
}

/// What is remembered of direct connections is pushed out by others.
#[test]
fn idle_direct_conversations_outlive_100_000_syns_to_a_backend_itself() -> Result<()> {
    in_settings(251, |setting| {
        let street = street(setting)?;
        let steer = street.agent()?;
        let mut idle = street.dials(0..CROWD, |client| street.backend(client))?;
        let since = Since::now(&steer)?;
        let backend = street.backend(0);
        flood(&street, |strangers| {
            let segment = strangers.segment().syn().options(&LINUX);
            steer_tests::packets::Segment { destination: backend, ..segment }
        })?;
        let direct = since.of(Counter::DirectAccess)?;
        ensure!(direct > SYNS as u64 / 2, "{direct} of them came");
        wake(&mut idle)?;
        nothing_was_guessed(&steer)?;
        idle.into_iter().try_for_each(|conversation| conversation.finish(Who::Client))
    })
}

/// The VIP's own, whose records are of another table.
#[test]
fn idle_conversations_with_the_vip_outlive_100_000_syns() -> Result<()> {
    in_settings(252, |setting| {
        let street = street(setting)?;
        let steer = street.agent()?;
        let mut idle = street.dials(0..CROWD, |_| street.vip())?;
        flood(&street, |strangers| strangers.segment().syn().options(&LINUX))?;
        wake(&mut idle)?;
        nothing_was_guessed(&steer)?;
        idle.into_iter().try_for_each(|conversation| conversation.finish(Who::Server))
    })
}

/// Checksums finished, for frames are sent; backends count as up, whatever a flood does to their
/// queues.
fn street(setting: Setting) -> Result<Street> {
    Ok(Street::build(setting.finished())?.without_health_checks())
}

fn flood(
    street: &Street,
    segment: impl Fn(&mut Strangers) -> steer_tests::packets::Segment,
) -> Result<()> {
    let tap = at_clients(&street.lab)?;
    let mut strangers = Strangers::new(street.family);
    for _ in 0..SYNS / PORTION {
        let frames = (0..PORTION)
            .map(|_| from_clients(&segment(&mut strangers)))
            .collect::<Result<Vec<_>>>()?;
        tap.pour(&frames)?;
    }
    Ok(())
}

/// Servers speak first in one half, clients in the other.
fn wake(idle: &mut [Conversation]) -> Result<()> {
    for (number, conversation) in idle.iter_mut().enumerate() {
        let first = if number % 2 == 0 { Who::Server } else { Who::Client };
        conversation.say(first, 40_000)?;
        conversation.exchange(40_000)?;
    }
    Ok(())
}
