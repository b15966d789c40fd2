//! Segments that come late, in another order, more than once, changed, or not at all; and clients
//! that wait.

use std::{thread, time::Duration};

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::{Dial, Handshake},
    detour::{Detour, Fate, Seen},
    loss::Loss,
    nginx,
    process::eventually,
    scenario::{Run, Scenario},
    setting::{Setting, in_one_setting, in_settings},
};

use crate::owners::TIMER;

/// Offset of a cut before the session ID, and of one behind it.
const BEFORE_ID: usize = 30;
const BEHIND_ID: usize = 120;

#[test]
fn a_hello_whose_second_segment_comes_50_ms_late_moves() -> Result<()> {
    in_settings(40, |setting| {
        for cut in [BEFORE_ID, BEHIND_ID] {
            let run = setting.scenario().start()?;
            let case = Case::start(&run)?;
            let pause = Duration::from_millis(50);
            let dial = Dial { cuts: vec![cut], cut_pause: pause, ..case.dial.clone() };
            assert!(case.moves(&dial)?.time >= pause);
            case.expect(&[
                (Counter::SpliceOpened, 1),
                (Counter::Gather, u64::from(cut == BEFORE_ID)),
            ])?;
            case.unharmed(1)?;
        }
        Ok(())
    })
}

#[test]
fn a_hello_whose_segments_change_places_moves() -> Result<()> {
    in_settings(41, |setting| {
        for cut in [BEFORE_ID, BEHIND_ID] {
            let rule = |seen: Seen| if seen.data == Some(0) { Fate::AfterNext } else { Fate::Pass };
            detoured(setting, rule, &[cut], |case, handshake| {
                assert!(handshake.time < TIMER, "without a timer: {handshake:?}");
                case.expect(&[(Counter::Gather, 1), (Counter::Buffered, 2)])
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_hello_whose_every_segment_comes_four_times_moves() -> Result<()> {
    in_settings(42, |setting| {
        for cut in [BEFORE_ID, BEHIND_ID] {
            let rule = |seen: Seen| if seen.data.is_some() { Fate::Copies(4) } else { Fate::Pass };
            detoured(setting, rule, &[cut], |case, _| {
                case.expect(&[(Counter::Rehome, 1), (Counter::OwnerSynRepeated, 0)])
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_connection_whose_every_packet_comes_four_times_moves() -> Result<()> {
    in_settings(43, |setting| {
        detoured(setting, |_| Fate::Copies(4), &[], |case, _| case.expect(&[(Counter::Rehome, 1)]))
    })
}

#[test]
fn a_hello_whose_first_segment_is_lost_moves() -> Result<()> {
    in_settings(44, |setting| {
        let rule = |seen: Seen| if seen.data == Some(0) { Fate::Drop } else { Fate::Pass };
        detoured(setting, rule, &[BEHIND_ID], |case, _| case.expect(&[(Counter::Rehome, 1)]))
    })
}

#[test]
fn a_hello_that_arrives_corrupt_is_repeated_and_moves() -> Result<()> {
    in_settings(45, |setting| {
        let rule = |seen: Seen| if seen.data == Some(0) { Fate::Corrupt } else { Fate::Pass };
        detoured(setting, rule, &[], |case, _| {
            case.expect(&[(Counter::BadChecksum, 1), (Counter::Rehome, 1)])
        })
    })
}

/// The hello acknowledges the first backend as well as the bare acknowledgement would have.
#[test]
fn a_hello_whose_bare_acknowledgement_was_lost_moves() -> Result<()> {
    in_settings(46, |setting| {
        let rule = |seen: Seen| if seen.number == 1 { Fate::Drop } else { Fate::Pass };
        // The first backend is reset before its connection is established.
        detoured(setting, rule, &[], |case, _| case.expect(&[(Counter::Rehome, 1)]))
    })
}

#[test]
fn flows_that_idled_3_and_10_seconds_before_their_hello_move() -> Result<()> {
    in_one_setting(|setting| idle_flows_move(setting.scenario()))
}

#[test]
fn flows_that_idled_move_if_the_first_backend_defers_its_accept() -> Result<()> {
    in_one_setting(|setting| {
        let listen = "backlog=4096 deferred".to_owned();
        idle_flows_move(
            setting.scenario().nginx(nginx::Settings { listen, ..nginx::Settings::default() }),
        )
    })
}

#[test]
fn flows_that_idled_move_if_the_backends_answer_with_syn_cookies() -> Result<()> {
    in_one_setting(|setting| {
        let cookies = |scenario: Scenario, backend| {
            scenario.backend_sysctl(backend, "ipv4/tcp_syncookies", "2")
        };
        idle_flows_move(cookies(cookies(setting.scenario(), OWNER), FIRST))
    })
}

/// The first backend never hears that the flow went: whatever it says later is answered with
/// another reset.
#[test]
fn a_first_backend_that_missed_its_reset_gets_another_when_it_speaks() -> Result<()> {
    in_settings(47, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let deaf = Loss::incoming(run.lab.backend(FIRST), "tcp flags & rst == rst")?;
        let (handshake, ()) = run.connect(&case.client, &case.dial, |connection| {
            assert_eq!(case.kernel(FIRST + 1, "Tcp.EstabResets")?, 0);
            drop(deaf);
            // Its kernel closes the connection that nobody else holds any more.
            run.servers[FIRST].stop()?;
            case.await_count(Counter::StrayBackend, 1, Duration::from_secs(5))?;
            connection.get("/files/file")?;
            connection.finish()
        })?;
        assert!(handshake.resumed, "{handshake:?}");
        let gone = || (open_connections(&run, FIRST).ok()? == 0).then_some(());
        assert!(
            eventually(Duration::from_secs(5), gone).is_some(),
            "the first backend keeps nothing"
        );
        case.expect(&[(Counter::SpliceOpened, 1)])?;
        case.unharmed_but_for_resets()
    })
}

/// As above, where it has not heard of the handshake's end: it repeats its SYN-ACK.
#[test]
fn a_first_backend_that_missed_its_reset_gets_another_when_it_repeats_its_syn_ack() -> Result<()> {
    in_settings(49, |setting| {
        let mut scenario = setting.scenario().vip_setting("swallow = true");
        scenario.steer.health = vec!["enabled = false".to_owned()];
        let run = scenario.start()?;
        let case = Case::start(&run)?;
        let deaf = Loss::incoming(run.lab.backend(FIRST), "tcp flags & rst == rst")?;
        let (handshake, ()) = run.connect(&case.client, &case.dial, |connection| {
            drop(deaf);
            case.await_count(Counter::StrayBackend, 1, Duration::from_secs(5))?;
            connection.get("/files/file")?;
            connection.finish()
        })?;
        assert!(handshake.resumed, "{handshake:?}");
        case.expect(&[(Counter::SpliceOpened, 1), (Counter::StrayBackend, 1)])?;
        case.unharmed(1)
    })
}

/// One fetch with the hello cut at `cuts`, through a detour; the session must be resumed on a flow
/// that moved.
fn detoured(
    setting: Setting,
    rule: impl FnMut(Seen) -> Fate + Send + 'static,
    cuts: &[usize],
    judge: impl Fn(&Case<'_>, &Handshake) -> Result<()>,
) -> Result<()> {
    let run = setting.finished().scenario().start()?;
    let case = Case::start(&run)?;
    let _detour = Detour::start(&run, rule)?;
    let handshake = case.moves(&Dial { cuts: cuts.to_vec(), ..case.dial.clone() })?;
    judge(&case, &handshake)?;
    case.expect(&[(Counter::SpliceOpened, 1)])?;
    case.unharmed(1)
}

fn idle_flows_move(scenario: Scenario) -> Result<()> {
    let run = scenario.start()?;
    let case = Case::start(&run)?;
    let visit =
        |seconds| case.moves(&Dial { idle: Duration::from_secs(seconds), ..case.dial.clone() });
    thread::scope(|scope| {
        let visits = [3, 10].map(|seconds| scope.spawn(move || visit(seconds)));
        visits.into_iter().try_for_each(|visit| {
            visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(drop)
        })
    })?;
    case.expect(&[(Counter::SpliceOpened, 2)])?;
    case.unharmed_but_for_resets()
}

/// TCP connections of a backend's port that are in any state but LISTEN and TIME_WAIT.
fn open_connections(run: &Run, backend: usize) -> Result<usize> {
    Ok(run.lab.backend(backend).tool("ss -Htn sport = :443")?.lines().count())
}
