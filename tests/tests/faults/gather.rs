//! Hellos in pieces too small to decide on, and the ends of gathering them.

use std::time::Duration;

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST},
    client::Dial,
    scenario::{Run, Scenario},
    setting::{Setting, in_settings},
};

use crate::owners::TIMER;

/// Ahead of the session ID: nothing can be decided on so few bytes.
const LITTLE: usize = 30;

#[test]
fn a_hello_in_20_byte_writes_with_pauses_moves() -> Result<()> {
    in_settings(7, |setting| {
        let run = one_clock(setting).start()?;
        let case = Case::start(&run)?;
        case.moves(&in_pieces(&case.dial, 20, 5))?;
        case.expect(&[
            (Counter::Gather, 1),
            (Counter::SpliceOpened, 1),
            (Counter::GatherStalled, 0),
        ])?;
        assert!(case.counted(Counter::Buffered)? >= 4);
        case.unharmed(1)
    })
}

/// Ten segments of one byte fill the client's first congestion window: it sends no more until it is
/// acknowledged.
#[test]
fn a_hello_in_1_byte_writes_with_pauses_stalls_and_stays_whole() -> Result<()> {
    in_settings(8, |setting| {
        let run = one_clock(setting).start()?;
        let case = Case::start(&run)?;
        case.stays(&in_pieces(&case.dial, 1, 1))?;
        case.expect(&[
            (Counter::Gather, 1),
            (Counter::GatherStalled, 1),
            (Counter::SpliceOpened, 0),
        ])?;
        case.unharmed(0)
    })
}

/// With a congestion window that is wide enough, the same writes are gathered until they can be
/// decided on.
#[test]
fn a_hello_in_1_byte_writes_moves_if_the_client_may_send_them() -> Result<()> {
    in_settings(9, |setting| {
        let run = one_clock(setting).start()?;
        widen_first_window(&run)?;
        let case = Case::start(&run)?;
        case.moves(&in_pieces(&case.dial, 1, 1))?;
        case.expect(&[(Counter::Gather, 1), (Counter::SpliceOpened, 1)])?;
        assert!(case.counted(Counter::Buffered)? >= 44);
        case.unharmed(1)
    })
}

#[test]
fn two_small_writes_with_nagle_and_no_tail_loss_probe_stall_and_stay_whole() -> Result<()> {
    in_settings(10, |setting| {
        let run = one_clock(setting).client_sysctl("ipv4/tcp_early_retrans", "0").start()?;
        let case = Case::start(&run)?;
        case.stays(&two_writes_with_nagle(&case.dial))?;
        case.expect(&[
            (Counter::Gather, 1),
            (Counter::GatherStalled, 1),
            (Counter::SpliceOpened, 0),
        ])?;
        case.unharmed(0)
    })
}

/// The tail-loss probe of a client with unsent data is that data.
#[test]
fn two_small_writes_with_nagle_move_at_the_tail_loss_probe() -> Result<()> {
    in_settings(11, |setting| {
        let run = one_clock(setting).start()?;
        let case = Case::start(&run)?;
        let handshake = case.moves(&two_writes_with_nagle(&case.dial))?;
        assert!(handshake.time > Duration::from_millis(150), "{handshake:?}");
        case.expect(&[
            (Counter::Gather, 1),
            (Counter::GatherStalled, 0),
            (Counter::SpliceOpened, 1),
        ])?;
        case.unharmed(1)
    })
}

#[test]
fn what_is_no_tls_goes_to_the_first_backend_at_once() -> Result<()> {
    in_settings(12, |setting| {
        let run = one_clock(setting).start()?;
        let case = Case::start(&run)?;
        let answer =
            run.lab.client().run(|| case.dial.speak(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"))?;
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&answer));
        case.expect(&[(Counter::NotTls, 1), (Counter::Gather, 0)])?;
        case.unharmed_but_for_resets()
    })
}

/// What was gathered reaches the first backend as its client would have sent it, without one more
/// timer.
#[test]
fn a_gathered_hello_of_the_first_backends_session_is_given_to_it_at_once() -> Result<()> {
    in_settings(70, |setting| {
        let run = one_clock(setting).start()?;
        let case = Case::start(&run)?;
        case.client.forget();
        case.fetch(&case.dial)?;
        let handshake = case.fetch(&in_pieces(&case.dial, 20, 1))?;
        assert!(
            handshake.resumed && run.backend_named(&handshake.server)? == FIRST,
            "{handshake:?}"
        );
        case.expect(&[(Counter::Gather, 1), (Counter::SessionHit, 1), (Counter::Flushed, 1)])?;
        case.unharmed(0)?;
        assert!(handshake.time < TIMER, "{handshake:?}");
        Ok(())
    })
}

#[test]
fn a_gathered_hello_without_a_session_is_given_to_the_first_backend_at_once() -> Result<()> {
    in_settings(71, |setting| {
        let run = one_clock(setting).start()?;
        let case = Case::start(&run)?;
        case.client.forget();
        let handshake = case.fetch(&in_pieces(&case.dial, 20, 1))?;
        assert!(
            !handshake.resumed && run.backend_named(&handshake.server)? == FIRST,
            "{handshake:?}"
        );
        case.expect(&[(Counter::Gather, 1), (Counter::Flushed, 1), (Counter::Rehome, 0)])?;
        case.unharmed(0)?;
        assert!(handshake.time < TIMER, "{handshake:?}");
        Ok(())
    })
}

/// Timestamps count from a clock that all peers see, so that one from the past is always noticed.
fn one_clock(setting: Setting) -> Scenario {
    setting.scenario().client_sysctl("ipv4/tcp_timestamps", "2")
}

/// The first 200 bytes in pieces of one size, then the rest.
fn in_pieces(dial: &Dial, size: usize, pause_ms: u64) -> Dial {
    let cuts = (size..200).step_by(size).collect();
    Dial { cuts, cut_pause: Duration::from_millis(pause_ms), ..dial.clone() }
}

fn two_writes_with_nagle(dial: &Dial) -> Dial {
    Dial { cuts: vec![LITTLE], nodelay: false, ..dial.clone() }
}

fn widen_first_window(run: &Run) -> Result<()> {
    run.lab.client().ip("route replace default via 10.1.0.1 dev eth0 initcwnd 400\n\
         route replace ::/0 via fd00:1::1 dev eth0 initcwnd 400\n")
}
