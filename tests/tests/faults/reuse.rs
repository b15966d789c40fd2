//! Connections on addresses and ports that a backend or the gateway still remembers.

use std::time::Duration;

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, OWNER},
    client::Dial,
    process::eventually,
    scenario::Run,
    setting::in_settings,
};

use crate::owners::TIMER;

const PORT: u16 = 4321;
/// Timestamps of one clock for every peer, as most stacks have them: a later connection's are later.
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
        // Each flow is closed when the next begins, which is led by the lookup table and its session as any other.
        case.expect(&[(Counter::SpliceOpened, 10), (Counter::SynKnownFlow, 0), (Counter::FlowReplaced, 9)])?;
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
            let (handshake, _) = run.connect(&case.client, &dial, |connection| connection.get("/"))?;
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

/// RFC 5961 4: the owner challenges the SYN; it is reset, and the first backend keeps the flow.
#[test]
fn an_owner_that_still_holds_a_connection_of_these_addresses_leaves_the_flow_to_the_first_backend() -> Result<()> {
    in_settings(51, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let dial = Dial { source_port: Some(PORT), ..case.dial.clone() };
        let stranger = run.new_client()?;
        run.connect(&stranger, &straight(&run, &dial), |_old| {
            let handshake = case.stays(&dial)?;
            assert!(handshake.time < TIMER, "{handshake:?}");
            Ok(())
        })?;
        case.expect(&[(Counter::OwnerChallenge, 1), (Counter::OwnerReset, 1), (Counter::Flushed, 1)])?;
        case.unharmed_but_for_resets()
    })
}

/// The same dial to the owner itself, past the VIP: for the owner these are the addresses of the re-homed flow.
fn straight(run: &Run, dial: &Dial) -> Dial {
    Dial { target: run.backend_address(OWNER), ..dial.clone() }
}
