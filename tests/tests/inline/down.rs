//! What the balancer does to connections that it counts on a server, though one of them lives at
//! another: it resets what was idle for long, and acts when the server is marked down (cases 5
//! and 6).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    balancer::{Action, Balancer},
    case::{Case, FIRST, OWNER},
    client::{Connection, Dial},
    l4::Snat,
    nginx, payload,
    process::eventually,
    scenario::Run,
    setting::{Setting, in_settings},
    tables,
};

const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 20_002;
/// Neither the owner nor the first backend.
const THIRD: usize = 2;

fn run(setting: Setting) -> Result<Run> {
    let kept = nginx::Settings { keepalive: "60s".to_owned(), ..nginx::Settings::default() };
    setting.scenario().backends(3).nginx(kept).behind_stand_in().start()
}

/// From the one port.
fn dial(case: &Case<'_>) -> Dial {
    Dial { source_port: Some(PORT), timeout: Duration::from_secs(4), ..case.dial.clone() }
}

fn fetch(connection: &mut Connection) -> Result<()> {
    connection.keep_open(true);
    let response = connection.get("/files/file")?;
    ensure!(response.sha256 == payload::sha256(&payload::bytes(300_000, 7)), "it arrived changed");
    Ok(())
}

/// TCP connections that a backend's kernel has open.
fn n_open(run: &Run, backend: usize) -> Result<usize> {
    let open = run.lab.backend(backend).tool("ss -Htn state established sport = :443")?;
    Ok(open.lines().count())
}

/// A moved connection, and what `acts` makes of it once it is idle. The client speaks again then;
/// whether that was answered is returned.
fn while_idle(
    case: &Case<'_>,
    acts: impl FnOnce() -> Result<()> + Send,
) -> Result<std::result::Result<(), String>> {
    let (handshake, answered) = case.run.connect(&case.client, &dial(case), |connection| {
        fetch(connection)?;
        ensure!(n_open(case.run, OWNER)? == 1, "it is open at its owner");
        acts()?;
        Ok(fetch(connection).map_err(|error| format!("{error:#}")))
    })?;
    ensure!(handshake.resumed, "{handshake:?}");
    case.expect(&[(Counter::SpliceOpened, 1), (Counter::Rehome, 1)])?;
    Ok(answered)
}

/// Its owner's socket is gone, and its splice is given back.
fn is_over_at_its_owner(case: &Case<'_>) -> Result<()> {
    let gone = || (n_open(case.run, OWNER).ok()? == 0).then_some(());
    eventually(PATIENCE, gone).context("its owner keeps it")?;
    ensure!(case.kernel(OWNER + 1, "Tcp.EstabResets")? == 1, "its owner was not reset");
    ensure!(tables::entries(&case.steer, "splices")? == 0, "its splice is kept");
    Ok(())
}

/// The port serves the next connection to what was dialled at once, plain, whatever is left of the
/// one before.
fn the_port_is_free(case: &Case<'_>) -> Result<()> {
    let fresh = case.run.new_client()?;
    let direct = Dial { target: case.run.backend_address(FIRST), ..dial(case) };
    let handshake = case.fetch_with(&fresh, &direct)?;
    ensure!(case.run.backend_named(&handshake.server)? == FIRST, "{handshake:?}");
    case.expect(&[(Counter::LegTranslated, 0), (Counter::LegCollided, 0)])
}

/// Its kernel heard of the end at once, in the only way that counts.
fn was_reset(case: &Case<'_>, answered: std::result::Result<(), String>) -> Result<()> {
    let error = answered.expect_err("it was answered");
    ensure!(case.kernel(0, "Tcp.EstabResets")? == 1, "{error}");
    Ok(())
}

/// Case 5.
#[test]
fn a_moved_flow_that_the_balancer_resets_for_being_idle_is_over_at_both_ends() -> Result<()> {
    in_settings(350, |setting| {
        let run = run(setting)?;
        let balancer = Balancer::start(&run.lab, Snat::No)?;
        let case = Case::start(&run)?;
        let answered = while_idle(&case, || {
            balancer.reset_idle(Some(Duration::from_millis(500)));
            is_over_at_its_owner(&case)
        })?;
        was_reset(&case, answered)?;
        balancer.reset_idle(None);
        the_port_is_free(&case)
    })
}

/// Case 6. The server that the balancer thinks it is at is gone, and it lives on.
#[test]
fn a_moved_flow_outlives_the_server_that_the_balancer_chose_where_it_takes_no_action() -> Result<()>
{
    in_settings(351, |setting| {
        let run = run(setting)?;
        let balancer = Balancer::start(&run.lab, Snat::Yes)?;
        let case = Case::start(&run)?;
        let answered = while_idle(&case, || {
            run.servers[FIRST].stop()?;
            balancer.mark_down(FIRST, Action::Nothing)
        })?;
        assert_eq!(answered, Ok(()));
        // New connections go where the balancer sends them now.
        let seen = run.visit(&run.new_client()?, &case.dial)?;
        ensure!(run.backend_named(&seen.server)? == THIRD, "{seen:?}");
        Ok(())
    })
}

#[test]
fn a_moved_flow_that_the_balancer_resets_with_its_server_is_over_at_both_ends() -> Result<()> {
    in_settings(352, |setting| {
        let run = run(setting)?;
        let balancer = Balancer::start(&run.lab, Snat::No)?;
        let case = Case::start(&run)?;
        let answered = while_idle(&case, || {
            balancer.mark_down(FIRST, Action::Reset)?;
            is_over_at_its_owner(&case)
        })?;
        was_reset(&case, answered)?;
        the_port_is_free(&case)
    })
}

/// An action that nobody is told of: what is kept of the flow ages as any idle one's.
fn untold(setting: Setting, action: Action, judge: impl Fn(&Case<'_>) -> Result<()>) -> Result<()> {
    let kept = nginx::Settings { keepalive: "60s".to_owned(), ..nginx::Settings::default() };
    let scenario = setting.scenario().backends(3).nginx(kept).vip_setting("flow_timeout = \"4s\"");
    let run = scenario.behind_stand_in().start()?;
    let balancer = Balancer::start(&run.lab, Snat::No)?;
    let case = Case::start(&run)?;
    let answered = while_idle(&case, || balancer.mark_down(FIRST, action))?;
    ensure!(answered.is_err(), "it was answered");
    judge(&case)?;
    the_port_is_free(&case)?;
    let freed = || (tables::entries(&case.steer, "splices").ok()? == 0).then_some(());
    eventually(Duration::from_secs(40), freed).context("its splice is kept")
}

#[test]
fn a_moved_flow_that_the_balancer_drops_with_its_server_dies_silently_and_is_forgotten()
-> Result<()> {
    in_settings(353, |setting| {
        untold(setting, Action::Drop, |case| {
            ensure!(case.kernel(0, "Tcp.EstabResets")? == 0, "somebody told its client");
            ensure!(n_open(case.run, OWNER)? == 1, "somebody told its owner");
            Ok(())
        })
    })
}

#[test]
fn a_moved_flow_that_the_balancer_sends_to_another_server_is_reset_by_that_one() -> Result<()> {
    in_settings(354, |setting| {
        untold(setting, Action::Reselect, |case| {
            ensure!(case.kernel(0, "Tcp.EstabResets")? == 1, "its client was not told");
            ensure!(case.kernel(THIRD + 1, "Tcp.OutRsts")? > 0, "nor by that server");
            ensure!(case.counted(Counter::ForeignPassed)? > 0, "its packets were not passed");
            Ok(())
        })
    })
}
