//! Segments with the addresses and ports of a live flow, sent by somebody who does not see it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    detour::{Detour, Fate},
    flood::{LINUX, at_backend, at_clients, from_backend, from_clients},
    packets::Segment,
    setting::{Setting, in_settings},
};

use crate::bystanders::{Moment, PORTIONS, attacked, is_open, record, scenario};

/// Forged segments in a portion.
const EACH: usize = 32;

/// A sequence number that nobody could know.
fn guess(portion: usize, index: usize) -> u32 {
    ((portion * EACH + index) as u32).wrapping_mul(0x9e37_79b9)
}

#[test]
fn forged_syns_on_live_flows_leave_them_as_they_are() -> Result<()> {
    attacked(94, |case, bystanders| {
        let run = case.run;
        let tap = at_clients(&run.lab)?;
        bystanders.during(case, |Moment { portion, client, .. }| {
            let syn = |index| {
                from_clients(
                    &Segment::new(client, run.vip(), guess(portion, index)).syn().options(&LINUX),
                )
            };
            let syns = (0..EACH).map(syn).collect::<Result<Vec<_>>>()?;
            tap.pour(&syns).map(drop)
        })?;
        let known = case.counted(Counter::SynKnownFlow)?;
        ensure!(known > (EACH * PORTIONS / 2) as u64, "{known} SYNs were seen on known flows");
        case.expect(&[
            (Counter::FlowReplaced, 0),
            (Counter::FlowEstablished, 2),
            (Counter::NoFlowForwarded, 0),
        ])
    })
}

/// Between the client's acknowledgement and its hello: the flow is made already.
#[test]
fn a_forged_syn_before_the_hello_leaves_the_session_to_its_owner() -> Result<()> {
    in_settings(95, |setting| {
        forged_syn_before(setting, 2, |case| {
            case.moves(&case.dial)?;
            case.expect(&[
                (Counter::SpliceOpened, 1),
                (Counter::HandshakeMismatch, 0),
                (Counter::FlowReplaced, 0),
            ])
        })
    })
}

/// Before the client's acknowledgement: the handshake that the first backend answered keeps its
/// place.
#[test]
fn a_forged_syn_within_the_handshake_leaves_the_session_to_its_owner_and_is_counted() -> Result<()>
{
    in_settings(96, |setting| {
        forged_syn_before(setting, 1, |case| {
            case.moves(&case.dial)?;
            case.expect(&[
                (Counter::SpliceOpened, 1),
                (Counter::HandshakeMismatch, 0),
                (Counter::SynKnownFlow, 1),
            ])
        })
    })
}

/// One connection; before the client's packet of this number somebody sends a SYN in its name.
fn forged_syn_before(
    setting: Setting,
    packet: usize,
    judge: impl Fn(&mut Case<'_>) -> Result<()>,
) -> Result<()> {
    const PORT: u16 = 4003;
    let run = scenario(setting).start()?;
    let mut case = Case::start(&run)?;
    case.dial.source_port = Some(PORT);
    let client = SocketAddr::new(case.dial.source, PORT);
    // With the MSS alone: an old timestamp would be counted by the backend's kernel, rightly.
    let syn = from_clients(&Segment::new(client, run.vip(), 77_777).syn().options(&LINUX[..4]))?;
    let tap = at_clients(&run.lab)?;
    let _detour = Detour::start(&run, move |seen| {
        if seen.number == packet && tap.send(&syn).is_err() { Fate::Drop } else { Fate::Pass }
    })?;
    judge(&mut case)?;
    let seen = case.counted(Counter::Syn)? + case.counted(Counter::SynKnownFlow)?;
    ensure!(seen >= 2, "the forged SYN was not seen");
    case.unharmed_but_for_resets()
}

/// From the client's address, from the backends themselves, and with a backend's address from
/// outside.
#[test]
fn blind_resets_close_no_flow() -> Result<()> {
    attacked(97, |case, bystanders| {
        let run = case.run;
        let (outside, first, owner) =
            (at_clients(&run.lab)?, at_backend(&run.lab, FIRST)?, at_backend(&run.lab, OWNER)?);
        bystanders.during(case, |Moment { portion, client, holder }| {
            let inside = if holder == OWNER { &owner } else { &first };
            for index in 0..EACH {
                let seq = guess(portion, index);
                let up = Segment::new(client, run.vip(), seq).rst();
                let down = Segment::new(run.backend_address(holder), client, seq).rst().ack(seq);
                outside.pour(&[from_clients(&up)?, from_clients(&down)?])?;
                inside.pour(&[from_backend(holder, &down)?])?;
            }
            is_open(case, client)
        })
    })
}

/// RFC 5961 5.2 for a gateway: data in nobody's window must not move what is expected next, or the
/// attacker would know the number at which a reset is believed.
#[test]
fn a_blind_attacker_who_sweeps_all_sequence_numbers_cannot_have_a_flow_taken_for_closed()
-> Result<()> {
    /// So many guesses meet every window of 16 MB.
    const GUESSES: u32 = 256;
    const STRIDE: u32 = PORTIONS as u32 / 2;
    attacked(98, |case, bystanders| {
        let run = case.run;
        let tap = at_clients(&run.lab)?;
        bystanders.during(case, |Moment { portion, client, .. }| {
            let expected = record(case, client)?.server_next;
            for number in (portion as u32 % STRIDE..GUESSES).step_by(STRIDE as usize) {
                let seq = (number << 24).wrapping_add(0x12_3456);
                // Far from what the backend has sent, in its numbers and in the client's.
                let ack = expected.wrapping_add(0x6000_0000);
                let data = Segment::new(client, run.vip(), seq).ack(ack).payload(&[0]);
                let reset = Segment::new(client, run.vip(), seq.wrapping_add(1)).rst();
                tap.pour(&[from_clients(&data)?, from_clients(&reset)?])?;
            }
            is_open(case, client)
        })
    })
}
