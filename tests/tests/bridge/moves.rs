//! Sessions are kept through a bridge, and nobody else is harmed.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    agent::Hook,
    case::{Case, OWNER},
    client::Dial,
    l4::Snat,
    nginx, payload,
    scenario::{Run, Scenario},
    setting::{Setting, in_settings},
};

/// The bridge's setting of one for routers.
pub(crate) fn scenario(setting: Setting) -> Scenario {
    Setting { hook: Hook::Tc, ..setting }.scenario()
}

/// Visits every backend once: what passes shows the bridge the ways to them.
pub(crate) fn show_the_ways(run: &Run) -> Result<()> {
    let stranger = run.new_client()?;
    for backend in 0..run.lab.n_backends() {
        stranger.forget();
        run.visit(&stranger, &Dial::new(run.source(0), run.backend_address(backend)))?;
    }
    Ok(())
}

/// Bytes go both ways on a moved connection, and arrive as they were sent.
#[test]
fn a_session_is_resumed_at_its_owner_and_megabytes_go_both_ways() -> Result<()> {
    in_settings(340, |setting| {
        for snat in [Snat::No, Snat::Yes] {
            let run = scenario(setting).bridge(snat).start()?;
            let case = Case::start(&run)?;
            case.moves(&case.dial)?;
            let body = payload::bytes(2_000_000, 9);
            let sent = case.upload(&case.dial, &body)?;
            ensure!(sent.resumed, "the second visit moves as well");
            case.expect(&[(Counter::SpliceOpened, 2), (Counter::OwnerNoRoute, 0)])?;
            case.unharmed(2)?;
        }
        Ok(())
    })
}

/// A bridge that has not seen an owner's frames lately moves nobody there.
#[test]
fn an_owner_of_whom_nothing_passed_is_not_asked_until_something_does() -> Result<()> {
    in_settings(341, |setting| {
        let run = scenario(setting).bridge(Snat::No).start()?;
        let mut case = Case::start(&run)?;
        steer_tests::tables::forget_bridge_paths(&case.steer)?;
        case.stays(&case.dial)?;
        case.expect(&[(Counter::OwnerNoRoute, 1), (Counter::SpliceOpened, 0)])?;
        show_the_ways(&run)?;
        case.renew()?;
        case.moves(&case.dial)?;
        case.unharmed(1)
    })
}

/// The owner's link is down.
#[test]
fn a_flow_whose_owner_is_behind_a_link_that_is_down_stays_where_it_was_sent() -> Result<()> {
    in_settings(342, |setting| {
        let run = scenario(setting).bridge(Snat::No).start()?;
        let case = Case::start(&run)?;
        run.lab.link(OWNER, false)?;
        // Until the agent has seen it.
        thread::sleep(Duration::from_secs(2));
        case.stays(&case.dial)?;
        case.expect(&[(Counter::OwnerNoRoute, 1), (Counter::SpliceOpened, 0), (Counter::Syn, 1)])?;
        case.unharmed(0)
    })
}

/// In observe mode nothing is moved, and what would have been is counted.
#[test]
fn the_default_is_to_look_on() -> Result<()> {
    in_settings(343, |setting| {
        let run = scenario(setting).vip_setting("mode = \"observe\"").bridge(Snat::No).start()?;
        let case = Case::start(&run)?;
        case.stays(&case.dial)?;
        case.expect(&[(Counter::Observed, 1), (Counter::Rehome, 0)])?;
        case.unharmed(0)
    })
}

/// One source address, whose ports are used towards several backends at once.
#[test]
fn sessions_are_kept_behind_one_address_with_many_connections_open() -> Result<()> {
    in_settings(344, |setting| {
        let patient = nginx::Settings { patience: "600s".to_owned(), ..nginx::Settings::default() };
        let run = scenario(setting).nginx(patient).bridge(Snat::Yes).start()?;
        let steer = run.agent()?;
        let held = run.hold(600)?;
        let visits = run.at_once(16, 16, |number| {
            let client = run.new_client()?;
            client.visit(&run.dial(number))?;
            let mut n = 0;
            for turn in 1..20 {
                let seen = client.visit(&run.dial(number + turn))?;
                ensure!(seen.resumed, "client {number}, turn {turn}: {seen:?}");
                n += 1;
            }
            Ok(n)
        })?;
        assert_eq!(visits.iter().sum::<usize>(), 16 * 19);
        assert_eq!(steer.count(Counter::LegCollided)?, 0);
        assert!(steer.count(Counter::SpliceOpened)? > 50);
        drop(held);
        Ok(())
    })
}

/// Nothing comes back of a download whose client only listens: it is asked by the way of the bridge.
#[test]
fn a_moved_download_is_reset_at_once_when_steer_is_detached() -> Result<()> {
    in_settings(355, |setting| {
        let run = scenario(setting).bridge(Snat::Yes).start()?;
        Case::start(&run)?.detach_in_a_download()
    })
}
