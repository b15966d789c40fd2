//! Case 16: a balancer under attack answers clients itself, and opens the server when the client
//! has shown that it is there: no timestamps, no SACK, no window scale, and the hello right behind
//! the acknowledgement, or in its place.

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    balancer::{Balancer, Cookies},
    case::Case,
    l4::Snat,
    payload,
    setting::in_settings,
};

const VISITS: u64 = 8;

/// Everybody is resumed by the owner, nothing is repeated by a timer, and what is moved arrives.
fn sessions_resume(number: usize, snat: Snat, cookies: Cookies) -> Result<()> {
    in_settings(number, |setting| {
        let run = setting.scenario().behind_stand_in().start()?;
        let balancer = Balancer::start(&run.lab, snat)?;
        let mut case = Case::start(&run)?;
        balancer.answer_itself(Some(cookies));
        case.renew()?;
        for _ in 0..VISITS {
            case.moves(&case.dial)?;
        }
        ensure!(case.upload(&case.dial, &payload::bytes(1 << 20, 3))?.resumed, "not resumed");
        case.expect(&[
            (Counter::Rehome, VISITS + 1),
            (Counter::SpliceOpened, VISITS + 1),
            (Counter::OwnerSynRepeated, 0),
            (Counter::GatherStalled, 0),
            (Counter::HandshakeMismatch, 0),
        ])?;
        case.unharmed(VISITS as i64 + 1)
    })
}

#[test]
fn sessions_resume_behind_syn_cookies_with_the_hello_right_behind_the_acknowledgement() -> Result<()>
{
    sessions_resume(330, Snat::No, Cookies { window: 1460, glued: false })
}

#[test]
fn sessions_resume_behind_syn_cookies_with_the_hello_in_the_acknowledgement() -> Result<()> {
    sessions_resume(331, Snat::No, Cookies { window: 1460, glued: true })
}

/// The client may say nothing until the server is open.
#[test]
fn sessions_resume_behind_syn_cookies_with_a_window_of_nothing_behind_one_address() -> Result<()> {
    sessions_resume(332, Snat::Yes, Cookies { window: 0, glued: false })
}
