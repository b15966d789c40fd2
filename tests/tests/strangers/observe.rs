//! Observe mode is a look: what it forwards keeps its options and its MSS.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use etherparse::{SlicedPacket, TransportSlice};
use steer_common::counters::Counter;
use steer_tests::{
    flood::{at_backend, at_clients, from_clients},
    frames::Tap,
    packets::Segment,
    setting::{Setting, in_settings},
    topology::Plan,
};

use crate::street::{CROWD, Since, Street, nothing_was_guessed};

const PATIENCE: Duration = Duration::from_secs(5);
/// MSS 1400, SACK permitted, timestamps, window scale 7, a request for a Fast Open cookie (RFC
/// 7413), MP_CAPABLE (RFC 8684), and an option for experiments (RFC 6994).
const OPTIONS: [u8; 36] = [
    2, 4, 5, 0x78, 4, 2, 8, 10, 0, 0, 0x1b, 0x58, 0, 0, 0, 0, 3, 3, 7, 34, 2, 30, 12, 0, 0x81, 1,
    2, 3, 4, 5, 6, 7, 8, 253, 3, 7,
];
/// MTU of the link to the backend that takes least, and the MSS that follows from it.
const NARROW: u32 = 1300;

/// What a SYN and its answer look like where they arrive.
struct Seen {
    /// Options and flags of the SYN at the backend.
    syn: (Vec<u8>, [bool; 4]),
    /// Options of the SYN-ACK as the backend sent it, and as it came to the client.
    answer: [Vec<u8>; 2],
}

#[test]
fn a_syn_and_its_answer_keep_all_of_their_options_in_observe_mode() -> Result<()> {
    in_settings(300, |setting| {
        let seen = seen(setting, "mode = \"observe\"", Counter::OptionCleared)?;
        ensure!(seen.syn.0 == OPTIONS, "the SYN arrives with the options {:?}", seen.syn.0);
        ensure!(
            seen.syn.1 == [true, true, true, false],
            "the SYN arrives with the flags {:?}",
            seen.syn.1
        );
        ensure!(
            seen.answer[0] == seen.answer[1],
            "{:?} was answered, {:?} arrives",
            seen.answer[0],
            seen.answer[1]
        );
        Ok(())
    })
}

/// The control: what observe mode must not do is done where flows may move.
#[test]
fn a_syn_and_its_answer_are_made_movable_in_steer_mode() -> Result<()> {
    in_settings(301, |setting| {
        let seen = seen(setting, "mode = \"steer\"", Counter::NoFlowTranslated)?;
        ensure!(seen.syn.0 != OPTIONS, "the SYN arrives as it was");
        ensure!(!seen.syn.1[2], "the SYN asks for AccECN still");
        ensure!(seen.answer[0] != seen.answer[1], "the SYN-ACK arrives as it was");
        Ok(())
    })
}

/// The VIP's own connections, which it balances, and those to backends.
#[test]
fn conversations_go_on_in_observe_mode_and_none_moves() -> Result<()> {
    in_settings(302, |setting| {
        let street = Street::build(setting)?.vip_setting("mode = \"observe\"");
        let steer = street.agent()?;
        let crowds = [street.to_vip(0..CROWD)?, street.direct(0..CROWD)?];
        for crowd in crowds {
            crowd.goes_on();
            crowd.end()?;
        }
        ensure!(steer.count(Counter::Rehome)? == 0, "some moved");
        nothing_was_guessed(&steer)
    })
}

/// Sends a SYN that asks for everything to a VIP of two backends, one of which takes less than the
/// other. `untouched` is expected not to be counted.
fn seen(setting: Setting, mode: &str, untouched: Counter) -> Result<Seen> {
    let plan = Plan { n_backends: 2, backend_mtu: vec![(1, NARROW)], ..Plan::default() };
    let street = Street::of(setting.finished(), plan)?.without_health_checks().vip_setting(mode);
    let steer = street.agent()?;
    // Each backend has told its MSS, and the agent has had time to draw its conclusions.
    for backend in 0..2 {
        street.client_of(backend)?;
    }
    thread::sleep(Duration::from_secs(7));
    let source = street.client(street.client_of(0)?);
    let client = SocketAddr::new(source, 7001);
    let (at_client, at_server) = (at_clients(&street.lab)?, at_backend(&street.lab, 0)?);
    let since = Since::now(&steer)?;
    let mut syn = Segment::new(client, street.vip(), 0x2000_0000).syn().options(&OPTIONS);
    (syn.tcp.ece, syn.tcp.cwr, syn.tcp.ns) = (true, true, true);
    at_client.send(&from_clients(&syn)?)?;
    let syn =
        options(&at_server, |tcp| tcp.syn() && !tcp.ack() && tcp.source_port() == client.port())?;
    let answer =
        |tap| options(tap, |tcp| tcp.syn() && tcp.ack() && tcp.destination_port() == client.port());
    let answer = [answer(&at_server)?.0, answer(&at_client)?.0];
    ensure!(since.of(untouched)? == 0, "{}: {}", untouched.word(), since.of(untouched)?);
    Ok(Seen { syn, answer })
}

/// Options of a segment on its way, and its flags ECE, CWR, AE and RST.
fn options(
    tap: &Tap,
    wanted: impl Fn(&etherparse::TcpSlice<'_>) -> bool,
) -> Result<(Vec<u8>, [bool; 4])> {
    let frame =
        tap.await_frame(PATIENCE, |frame| with_tcp(frame, |tcp| wanted(tcp)).unwrap_or(false))?;
    let frame = frame.context("the segment does not come by")?;
    with_tcp(&frame, |tcp| (tcp.options().to_vec(), [tcp.ece(), tcp.cwr(), tcp.ns(), tcp.rst()]))
        .context("read it again")
}

fn with_tcp<T>(frame: &[u8], read: impl FnOnce(&etherparse::TcpSlice<'_>) -> T) -> Option<T> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some(read(&tcp)),
        _ => None,
    }
}
