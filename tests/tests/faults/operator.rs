//! What an operator does while clients are there: bypass, drain, observe, detach.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::Dial,
    payload,
    setting::in_settings,
};

#[test]
fn bypass_stops_re_homing_while_spliced_flows_go_on_and_off_starts_it_again() -> Result<()> {
    in_settings(65, |setting| {
        let run = setting.scenario().start()?;
        let mut case = Case::start(&run)?;
        let sum = run.servers[OWNER].put("down", &payload::bytes(8 << 20, 1))?;
        let mut switched = None;
        let (handshake, response) = run.connect(&case.client, &case.dial, |connection| {
            connection.get_watched("/files/down", |read| {
                if read > 1 << 20 {
                    switched.get_or_insert_with(|| case.steer.steer("bypass on"));
                }
            })
        })?;
        switched.transpose()?;
        assert!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
        case.stays(&case.dial)?;
        case.expect(&[(Counter::SpliceOpened, 1), (Counter::Bypassed, 1)])?;
        case.steer.steer("bypass off")?;
        case.renew()?;
        case.moves(&case.dial)?;
        case.unharmed(1)
    })
}

#[test]
fn a_draining_backend_gets_no_new_sessions_and_its_own_are_honoured() -> Result<()> {
    in_settings(66, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let owner = run.backend_address(OWNER);
        case.steer.steer(&format!("backends drain {owner}"))?;
        let stranger = run.new_client()?;
        for source in 0..20 {
            stranger.forget();
            let handshake = case.fetch_with(&stranger, &run.dial(source))?;
            assert_eq!(run.backend_named(&handshake.server)?, FIRST, "from address {source}");
        }
        // Wherever its client dials from; its old address leads elsewhere now.
        case.moves(&case.dial)?;
        case.moves(&case.home)?;
        case.expect(&[(Counter::SpliceOpened, 2)])?;
        case.steer.steer(&format!("backends undrain {owner}"))?;
        assert_eq!(
            run.backend_named(&case.fetch_with(&run.new_client()?, &case.home)?.server)?,
            OWNER
        );
        case.unharmed(2)
    })
}

#[test]
fn after_its_deadline_a_draining_backends_sessions_are_the_first_backends() -> Result<()> {
    in_settings(67, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        // Long enough for the move on a machine that has other work.
        case.steer.steer(&format!("backends drain --for 5s {}", run.backend_address(OWNER)))?;
        case.moves(&case.dial)?;
        std::thread::sleep(Duration::from_millis(6_100));
        case.stays(&case.dial)?;
        case.expect(&[(Counter::SpliceOpened, 1), (Counter::OwnerDrained, 1)])?;
        case.unharmed(1)
    })
}

#[test]
fn observe_mode_moves_nothing_and_counts_what_it_would_have_moved() -> Result<()> {
    in_settings(68, |setting| {
        let run = setting.scenario().vip_setting("mode = \"observe\"").start()?;
        let mut case = Case::start(&run)?;
        for _ in 0..3 {
            case.stays(&case.dial)?;
            case.expect(&[(Counter::Observed, 1), (Counter::Rehome, 0), (Counter::Buffered, 0)])?;
            case.renew()?;
        }
        case.unharmed(0)
    })
}

#[test]
fn detach_removes_every_pin_and_every_program() -> Result<()> {
    in_settings(69, |setting| {
        let run = setting.scenario().start()?;
        let mut case = Case::start(&run)?;
        case.moves(&case.dial)?;
        case.steer.end(Signal::SIGTERM)?;
        case.moves(&case.dial)?;
        case.steer.steer("detach")?;
        assert!(!case.steer.pin_dir().exists(), "{:?}", case.steer.pin_dir());
        let start = Instant::now();
        let dial = Dial { timeout: Duration::from_secs(1), ..case.dial.clone() };
        assert!(case.fetch(&dial).is_err(), "nobody serves the VIP any more");
        assert!(start.elapsed() < Duration::from_secs(5));
        let straight = Dial { target: run.backend_address(OWNER), ..case.dial.clone() };
        case.fetch(&straight).map(drop)
    })
}
