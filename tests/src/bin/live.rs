//! `cargo xtask verify --kernel 6.1`: re-homes with a real TLS client, two servers and the real agent, inside the kernel
//! that runs this.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{agent::Hook, client::Offer, nginx, scenario::Scenario, topology::Family};

fn main() -> ExitCode {
    let runs = [
        (Hook::Tc, Family::V4, Offer::SessionId),
        (Hook::Tc, Family::V6, Offer::Ticket12),
        (Hook::Xdp, Family::V4, Offer::SessionId),
        (Hook::Tc, Family::V4, Offer::Ticket13),
    ];
    for (hook, family, offer) in runs {
        if let Err(error) = rehome(hook, family, offer) {
            eprintln!("live: {} {family:?}, {offer:?}: {error:#}", hook.word());
            return ExitCode::FAILURE;
        }
        let hook = hook.word();
        eprintln!("live: {hook} {family:?}, {offer:?}: resumed on the owner from another address, by a splice");
    }
    ExitCode::SUCCESS
}

/// A session of backend 0 is offered at home once, then from an address whose flows go to backend 1.
fn rehome(hook: Hook, family: Family, offer: Offer) -> Result<()> {
    let protocols = "TLSv1.2 TLSv1.3".to_owned();
    let servers = nginx::Settings { protocols, tickets: offer != Offer::SessionId, ..nginx::Settings::default() };
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
    Ok(())
}
