//! Connections on addresses and ports that a backend or the gateway still remembers.

use std::{thread, time::Duration};

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::Dial,
    process::eventually,
    scenario::Run,
    setting::in_settings,
};

use crate::owners::TIMER;

const PORT: u16 = 4321;
/// Timestamps of one clock for every peer, as most stacks have them: a later connection's are
/// later.
const ONE_CLOCK: (&str, &str) = ("ipv4/tcp_timestamps", "2");

#[test]
fn the_same_addresses_and_ports_serve_ten_times() -> Result<()> {
    in_settings(48, |setting| {
        let run = setting.scenario().client_sysctl(ONE_CLOCK.0, ONE_CLOCK.1).start()?;
        let case = Case::start(&run)?;
        let dial = Dial { source_port: Some(PORT), ..case.dial.clone() };
        for _ in 0..10 {
            case.moves(&dial)?;
        }
        // Each flow is closed when the next begins, which is led by the lookup table and its
        // session as any other.
        case.expect(&[
            (Counter::SpliceOpened, 10),
            (Counter::SynKnownFlow, 0),
            (Counter::FlowReplaced, 9),
        ])?;
        case.unharmed(10)
    })
}

#[test]
fn the_same_addresses_and_ports_serve_ten_times_if_clients_reset_their_connections() -> Result<()> {
    in_settings(49, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let dial = Dial { source_port: Some(PORT), reset: true, ..case.dial.clone() };
        for _ in 0..10 {
            let (handshake, _) =
                run.connect(&case.client, &dial, |connection| connection.get("/"))?;
            assert!(handshake.resumed, "{handshake:?}");
        }
        case.unharmed_but_for_resets()
    })
}

#[test]
fn an_owner_in_time_wait_takes_the_flow() -> Result<()> {
    in_settings(50, |setting| {
        let run = setting.scenario().client_sysctl(ONE_CLOCK.0, ONE_CLOCK.1).start()?;
        let case = Case::start(&run)?;
        let dial = Dial { source_port: Some(PORT), ..case.dial.clone() };
        case.fetch_with(&run.new_client()?, &straight(&run, &dial))?;
        let filter = format!("ss -Htan state time-wait dport = :{PORT}");
        let waits = || run.lab.backend(OWNER).tool(&filter).ok().filter(|lines| !lines.is_empty());
        assert!(eventually(Duration::from_secs(1), waits).is_some(), "the owner waits");
        case.moves(&dial)?;
        case.expect(&[(Counter::SpliceOpened, 1), (Counter::OwnerChallenge, 0)])?;
        case.unharmed(1)
    })
}

#[test]
fn an_owner_to_which_the_client_has_a_connection_from_the_same_port_takes_the_flow_under_another_one()
-> Result<()> {
    in_settings(51, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let dial = Dial { source_port: Some(PORT), ..case.dial.clone() };
        run.connect(&run.new_client()?, &straight(&run, &dial), |old| {
            case.moves(&dial)?;
            old.get("/")?;
            old.finish()
        })?;
        case.expect(&[
            (Counter::LegTranslated, 1),
            (Counter::OwnerChallenge, 0),
            (Counter::OwnerReset, 0),
        ])?;
        case.unharmed(1)
    })
}

/// RFC 5961 4: the owner challenges the SYN. What it holds is older than the gateway and is not
/// reset; the flow moves under another port, and so does the next one from there.
#[test]
fn an_owner_that_challenges_keeps_what_it_holds_and_gets_the_flow_under_another_port() -> Result<()>
{
    in_settings(151, |setting| {
        let run = setting.scenario().start()?;
        // An agent tells from where FIRST is reached, and is detached.
        let source = run.agent().and_then(|_found_out| run.source_of(FIRST))?;
        let port = Dial { source_port: Some(PORT), ..run.dial(source) };
        run.connect(&run.new_client()?, &straight(&run, &port), |old| {
            // In a thread of its own: this one is in the clients' network namespace.
            let judged = thread::scope(|scope| scope.spawn(|| challenged(&run, &port)).join());
            judged.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            old.get("/").map(drop)
        })
        .map(drop)
    })
}

/// Starts an agent; the first dial from this port is challenged and moves under another one, and so
/// does the second, which nobody has to challenge.
fn challenged(run: &Run, dial: &Dial) -> Result<()> {
    let mut case = Case::start(run)?;
    let handshake = case.moves(dial)?;
    assert!(handshake.time < TIMER, "{handshake:?}");
    case.expect(&[
        (Counter::OwnerPortTaken, 1),
        (Counter::LegTranslated, 1),
        (Counter::Rehome, 1),
        (Counter::OwnerReset, 0),
        (Counter::Flushed, 0),
    ])?;
    case.renew()?;
    case.moves(dial)?;
    case.expect(&[(Counter::OwnerPortTaken, 0), (Counter::LegTranslated, 1)])?;
    case.unharmed_but_for_resets()
}

/// The same dial to the owner itself, past the VIP: for the owner these are the addresses of the
/// re-homed flow.
fn straight(run: &Run, dial: &Dial) -> Dial {
    Dial { target: run.backend_address(OWNER), ..dial.clone() }
}
