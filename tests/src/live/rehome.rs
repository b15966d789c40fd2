//! One re-home on each hook, in each family, by each kind of session.

use anyhow::{Result, ensure};
use steer_common::counters::Counter;

use crate::{agent::Hook, client::Offer, nginx, scenario::Scenario, topology::Family};

/// A session of backend 0 is offered at home once, then from an address whose flows go to backend
/// 1.
pub(super) fn by(hook: Hook, family: Family, offer: Offer) -> Result<String> {
    let protocols = "TLSv1.2 TLSv1.3".to_owned();
    let servers = nginx::Settings {
        protocols,
        tickets: offer != Offer::SessionId,
        ..nginx::Settings::default()
    };
    let run = Scenario::new(hook, family).backends(2).nginx(servers).start()?;
    let steer = run.agent()?;
    let client = run.new_client_offering(offer)?;
    run.session_at(&client, 0)?;
    let home = run.visit(&client, &run.dial(run.source_of(0)?))?;
    let away = run.visit(&client, &run.dial(run.source_not_of(0)?))?;
    let splices = steer.count(Counter::SpliceOpened)?;
    ensure!(home.resumed && away.resumed, "a full handshake: {home:?}, {away:?}");
    ensure!(away.server == "backend-0", "resumed at another backend than the owner: {away:?}");
    ensure!(splices == 1, "{splices} splices, not 1");
    Ok("resumed on the owner from another address, by a splice".to_owned())
}
