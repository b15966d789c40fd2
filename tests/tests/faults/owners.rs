//! Owners that do not take the flow: the first backend makes a full handshake.

use std::{thread, time::Duration};

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::Dial,
    frames::Tap,
    loss::Loss,
    packets::Segment,
    process::eventually,
    scenario::Scenario,
    setting::{Setting, in_one_setting, in_settings},
};

/// Long enough for every try at an owner that is silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// A client's first retransmission timer is not shorter.
pub(crate) const TIMER: Duration = Duration::from_millis(180);
/// After so long the gateway asks for the way to a backend again.
const HOP_AGE: Duration = Duration::from_millis(2_100);

#[test]
fn an_owner_that_refuses_costs_no_timer() -> Result<()> {
    in_settings(33, |setting| {
        let run = unchecked(setting).start()?;
        let case = Case::start(&run)?;
        run.servers[OWNER].stop()?;
        let handshake = case.stays(&case.dial)?;
        assert!(handshake.time < TIMER, "{handshake:?}");
        case.expect(&[(Counter::Rehome, 1), (Counter::OwnerRefused, 1), (Counter::Flushed, 1)])?;
        case.expect(&[(Counter::SpliceOpened, 0), (Counter::OwnerSynRepeated, 0)])?;
        case.unharmed(0)
    })
}

#[test]
fn a_silent_owner_costs_one_client_timer_for_each_syn_tried() -> Result<()> {
    in_settings(34, |setting| {
        let run = unchecked(setting).vip_setting("owner_tries = 2").start()?;
        let case = Case::start(&run)?;
        let _silence = Loss::incoming(run.lab.backend(OWNER), "meta l4proto tcp")?;
        let handshake = case.stays(&case.dial)?;
        assert!(handshake.time < Duration::from_secs(2), "{handshake:?}");
        case.expect(&[
            (Counter::OwnerSynRepeated, 1),
            (Counter::OwnerSilent, 1),
            (Counter::Flushed, 1),
        ])?;
        case.unharmed(0)
    })
}

/// What the first backend's session is worth afterwards: it is resumed there.
#[test]
fn after_a_silent_owner_the_new_session_is_the_first_backends() -> Result<()> {
    in_one_setting(|setting| {
        let run = unchecked(setting).start()?;
        let case = Case::start(&run)?;
        let _silence = Loss::incoming(run.lab.backend(OWNER), "meta l4proto tcp")?;
        case.stays(&case.dial)?;
        case.expect(&[(Counter::OwnerSynRepeated, 2), (Counter::OwnerSilent, 1)])?;
        let handshake = case.fetch(&case.dial)?;
        assert!(
            handshake.resumed && run.backend_named(&handshake.server)? == FIRST,
            "{handshake:?}"
        );
        case.expect(&[(Counter::SessionHit, 1), (Counter::Rehome, 1)])
    })
}

#[test]
fn an_owner_whose_link_is_down_costs_no_timer() -> Result<()> {
    in_settings(35, |setting| {
        let run = unchecked(setting).start()?;
        let case = Case::start(&run)?;
        run.lab.link(OWNER, false)?;
        thread::sleep(HOP_AGE);
        let handshake = case.stays(&case.dial)?;
        case.expect(&[
            (Counter::OwnerNoRoute, 1),
            (Counter::Flushed, 1),
            (Counter::SpliceOpened, 0),
        ])?;
        case.unharmed(0)?;
        assert!(handshake.time < TIMER, "{handshake:?}");
        Ok(())
    })
}

/// The way to a backend is remembered for a second; within it the owner is merely silent.
#[test]
fn an_owner_whose_link_went_down_just_now_costs_no_more_than_a_silent_one() -> Result<()> {
    in_settings(72, |setting| {
        let run = unchecked(setting).start()?;
        let case = Case::start(&run)?;
        run.lab.link(OWNER, false)?;
        let handshake = case.stays(&case.dial)?;
        assert!(handshake.time < Duration::from_secs(2), "{handshake:?}");
        case.expect(&[(Counter::Flushed, 1), (Counter::SpliceOpened, 0)])?;
        case.unharmed(0)
    })
}

#[test]
fn an_owner_that_fails_its_checks_is_not_asked() -> Result<()> {
    in_settings(36, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        run.servers[OWNER].stop()?;
        let address = run.backend_address(OWNER).to_string();
        let down = || {
            let list = case.steer.json("backends list").ok()?;
            let ours = list["backends"]
                .as_array()?
                .iter()
                .find(|backend| backend["address"] == *address)?;
            (ours["state"] == "down").then_some(())
        };
        assert!(eventually(PATIENCE, down).is_some(), "the agent notices");
        case.stays(&case.dial)?;
        case.expect(&[(Counter::OwnerDown, 1), (Counter::Rehome, 0)])?;
        case.unharmed(0)
    })
}

#[test]
fn an_owner_whose_syn_acks_are_lost_half_the_time_gets_its_flows() -> Result<()> {
    in_settings(37, |setting| {
        let run = unchecked(setting).start()?;
        let case = Case::start(&run)?;
        let every_other = "tcp flags & (syn | ack) == syn | ack numgen inc mod 2 == 0";
        let _loss = Loss::outgoing(run.lab.backend(OWNER), every_other)?;
        for _ in 0..4 {
            case.moves(&case.dial)?;
        }
        case.expect(&[(Counter::SpliceOpened, 4), (Counter::OwnerSilent, 0)])?;
        assert!(case.counted(Counter::OwnerSynRepeated)? >= 3);
        case.unharmed(4)
    })
}

#[test]
fn a_client_that_resets_while_a_silent_owner_is_asked_resets_the_first_backend() -> Result<()> {
    in_settings(38, |setting| {
        let run = unchecked(setting).start()?;
        let case = Case::start(&run)?;
        let _silence = Loss::incoming(run.lab.backend(OWNER), "meta l4proto tcp")?;
        let impatient =
            Dial { timeout: Duration::from_millis(150), reset: true, ..case.dial.clone() };
        assert!(case.fetch(&impatient).is_err());
        case.await_count(Counter::WaitReset, 1, PATIENCE)?;
        case.expect(&[
            (Counter::Rehome, 1),
            (Counter::SpliceOpened, 0),
            (Counter::OwnerSilent, 0),
        ])?;
        let reset = || (case.kernel(FIRST + 1, "Tcp.EstabResets").ok()? == 1).then_some(());
        assert!(eventually(PATIENCE, reset).is_some(), "the first backend hears of it");
        case.unharmed_but_for_resets()
    })
}

/// RFC 5961 3.2: a reset that does not lie in the client's sent data is somebody else's.
#[test]
fn a_blind_reset_while_the_owner_is_asked_changes_nothing() -> Result<()> {
    in_settings(39, |setting| {
        const PORT: u16 = 4321;
        let run = unchecked(setting.finished()).start()?;
        let case = Case::start(&run)?;
        let dial = Dial { source_port: Some(PORT), ..case.dial.clone() };
        let silence = Loss::incoming(run.lab.backend(OWNER), "meta l4proto tcp")?;
        thread::scope(|scope| -> Result<()> {
            let visit = scope.spawn(|| case.moves(&dial));
            case.await_count(Counter::Rehome, 1, PATIENCE)?;
            let tap = Tap::open(run.lab.client(), "eth0")?;
            let (client, gate) = run.lab.client_link();
            for seq in [0, 1 << 30, 2 << 30, 3 << 30] {
                let reset = Segment::new((dial.source, PORT).into(), run.vip(), seq).rst();
                tap.send(&reset.frame(client, gate, &[])?)?;
            }
            drop(silence);
            visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(drop)
        })?;
        case.expect(&[
            (Counter::ResetInvalid, 4),
            (Counter::WaitReset, 0),
            (Counter::SpliceOpened, 1),
        ])?;
        case.unharmed(1)
    })
}

/// Without health checks, so that only the flow itself finds out.
pub(crate) fn unchecked(setting: Setting) -> Scenario {
    let mut scenario = setting.scenario();
    scenario.steer.health = vec!["enabled = false".to_owned()];
    scenario
}
