//! Forged answers of backends: nothing is learned from them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    flood::{at_clients, from_clients},
    loss::Loss,
    packets::Segment,
    scenario::Run,
    setting::in_settings,
    tables::entries,
};

use crate::{bystanders::scenario, raw::RawClient};

/// What every backend but the attacker leaves unsaid: only what is forged answers a hello.
const ANSWERS: &str = "meta length > 200 meta l4proto tcp";
/// The clients' kernel knows nothing of connections made by hand.
const RESETS: &str = "tcp sport 4100-4399 tcp flags & rst == rst";
/// Further ahead than a handshake is read.
const FAR: u32 = 1 << 20;

/// A hello that offers nothing, and all that a server says to it: a session ID, then a
/// ChangeCipherSpec.
fn hello_and_answer() -> Result<(Vec<u8>, Vec<u8>)> {
    let client =
        hex(include_str!("../../../steer-common/tests/fixtures/openssl12_full.client.hex"))?;
    let server =
        hex(include_str!("../../../steer-common/tests/fixtures/openssl12_full.server.hex"))?;
    let record = 5 + usize::from(u16::from_be_bytes([client[3], client[4]]));
    Ok((client[..record].to_vec(), server))
}

pub(crate) fn hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair)?, 16).context("hex"))
        .collect()
}

/// A client's flow whose hello was forwarded to [`FIRST`], which does not answer.
fn unanswered(case: &Case<'_>, port: u16) -> Result<RawClient> {
    let client = RawClient::connect(case.run, (case.dial.source, port).into())?;
    client.say(&hello_and_answer()?.0)?;
    Ok(client)
}

/// Sends the answer to the client's flow in segments, from `source` and from sequence number `seq`
/// on.
fn answer(
    run: &Run,
    client: &RawClient,
    source: SocketAddr,
    to: SocketAddr,
    seq: u32,
) -> Result<()> {
    const SEGMENT: usize = 1000;
    let tap = at_clients(&run.lab)?;
    for (index, piece) in hello_and_answer()?.1.chunks(SEGMENT).enumerate() {
        let seq = seq.wrapping_add((index * SEGMENT) as u32);
        let segment =
            Segment::new(source, to, seq).ack(client.isn.wrapping_add(300)).payload(piece);
        tap.send(&from_clients(&segment)?)?;
    }
    Ok(())
}

#[test]
fn forged_answers_from_elsewhere_or_at_wrong_numbers_teach_nothing() -> Result<()> {
    in_settings(99, |setting| {
        let run = scenario(setting).start()?;
        let case = Case::start(&run)?;
        let known = entries(&case.steer, "sessions")?;
        let silence = Loss::outgoing(run.lab.backend(FIRST), ANSWERS)?;
        let _deaf = Loss::outgoing(run.lab.client(), RESETS)?;
        let (first, other) = (run.backend_address(FIRST), run.backend_address(OWNER));
        let stranger = SocketAddr::new(run.source(200), first.port());
        let other_port = SocketAddr::new(first.ip(), 8443);
        // Nobody else's packets come at the right number, and the right backend's at another.
        for (index, source) in [stranger, other_port, other].into_iter().enumerate() {
            let client = unanswered(&case, 4100 + index as u16)?;
            answer(&run, &client, source, client.address, client.server_isn.wrapping_add(1))?;
        }
        for (index, off) in [FAR, FAR.wrapping_neg(), 1 << 31, 3 << 30].into_iter().enumerate() {
            let client = unanswered(&case, 4200 + index as u16)?;
            answer(
                &run,
                &client,
                first,
                client.address,
                client.server_isn.wrapping_add(1).wrapping_add(off),
            )?;
        }
        // No such flow.
        let client = unanswered(&case, 4300)?;
        let nobody = SocketAddr::new(client.address.ip(), 4301);
        answer(&run, &client, first, nobody, client.server_isn.wrapping_add(1))?;
        case.expect(&[
            (Counter::FlowEstablished, 8),
            (Counter::Learned, 0),
            (Counter::OwnerChanged, 0),
        ])?;
        case.expect(&[(Counter::StrayBackend, 0), (Counter::LearnGivenUp, 4)])?;
        ensure!(entries(&case.steer, "sessions")? == known, "something was learned");
        // The same words from the right backend at the right number are its own.
        answer(&run, &client, first, client.address, client.server_isn.wrapping_add(1))?;
        case.expect(&[(Counter::Learned, 1)])?;
        drop(silence);
        case.moves(&case.dial).map(drop)
    })
}
