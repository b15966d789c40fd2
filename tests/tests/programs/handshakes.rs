//! SYNs and SYN-ACKs: where they go, what is changed of them, what is remembered.

use anyhow::Result;
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    shared::{FLOW_CLIENT_FIN, FLOW_LEARNED, FLOW_RESET, FLOW_SERVER_FIN, Flow},
};
use steer_tests::programs::Program;

use crate::world::{
    CLIENT_ISN, Case, FIRST_ISN, Given, Out, World, after, from_backend, from_client, shapes,
    to_backend, to_client,
};

/// MSS 1460, SACK permitted, timestamps, NOP, window scale 7: as Linux has them.
const LINUX: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0x1b, 0x58, 0, 0, 0, 0, 1, 3, 3, 7];

#[test]
fn a_syn_goes_where_the_lookup_table_says_without_options_that_would_keep_it_there() -> Result<()> {
    const FAST_OPEN: [u8; 12] = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    const ODD: [u8; 20] = [1, 34, 6, 9, 9, 9, 9, 2, 4, 5, 180, 254, 5, 0xf9, 0x89, 7, 1, 1, 1, 1];
    const ODD_CLEARED: [u8; 20] = [1, 1, 1, 1, 1, 1, 1, 2, 4, 5, 180, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    const MPTCP: [u8; 24] =
        [2, 4, 5, 180, 30, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 4, 2, 3, 3, 7, 1, 1, 1];
    const MPTCP_CLEARED: [u8; 24] =
        [2, 4, 5, 180, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 2, 3, 3, 7, 1, 1, 1];
    let mut signed = [1; 32];
    signed[..2].copy_from_slice(&[19, 18]);
    signed[20..30].copy_from_slice(&FAST_OPEN[..10]);
    let mut authenticated = [1; 28];
    authenticated[..4].copy_from_slice(&[29, 16, 1, 1]);
    authenticated[16..26].copy_from_slice(&FAST_OPEN[..10]);

    let mut world = World::new()?;
    for ends in shapes() {
        let syn = |options: &[u8]| ends.up(CLIENT_ISN).syn().options(options);
        let ecn = |accurate: bool| {
            let mut syn = syn(&LINUX);
            (syn.tcp.ece, syn.tcp.cwr, syn.tcp.ns) = (true, true, accurate);
            syn
        };
        let cases = [
            ("a SYN of Linux", syn(&LINUX), syn(&LINUX), Counter::Syn),
            ("a SYN without options", syn(&[]), syn(&[]), Counter::Syn),
            ("TCP Fast Open", syn(&FAST_OPEN), syn(&[1; 12]), Counter::OptionCleared),
            ("options at odd places", syn(&ODD), syn(&ODD_CLEARED), Counter::OptionCleared),
            ("MPTCP", syn(&MPTCP), syn(&MPTCP_CLEARED), Counter::OptionCleared),
            ("MD5 signature with Fast Open", syn(&signed), syn(&signed), Counter::Syn),
            (
                "authentication option with Fast Open",
                syn(&authenticated),
                syn(&authenticated),
                Counter::Syn,
            ),
            ("a request for AccECN", ecn(true), ecn(false), Counter::Syn),
        ];
        let cases = cases.map(|(what, came, left, counts)| Case {
            what,
            frame: from_client(&came),
            given: Given::nothing(),
            tc: Out::Sent(to_backend(left, ends.first)),
            xdp: Out::Untouched,
            counts: Some(counts),
        });
        world.judge(&ends, &cases)?;
        let drops = Case {
            what: "a SYN to a pool without backends",
            frame: from_client(&syn(&LINUX)),
            given: Given { empty_pool: true, ..Given::nothing() },
            tc: Out::Dropped,
            xdp: Out::Untouched,
            counts: Some(Counter::NoBackend),
        };
        // Who dials a backend itself is sent there.
        if !ends.is_inline() {
            world.judge(&ends, &[drops])?;
        }
    }
    Ok(())
}

#[test]
fn a_syn_on_a_live_flow_goes_to_its_holder_and_on_a_closed_one_where_the_lookup_table_says()
-> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        let syn = ends.up(77_777).syn().options(&LINUX);
        let known = |what, ends_seen: u32, to, counts| Case {
            what,
            frame: from_client(&syn),
            given: Given::flow(Flow { flags: FLOW_LEARNED | ends_seen, ..ends.spliced() }),
            tc: Out::Sent(to_backend(syn.clone(), to)),
            xdp: Out::Untouched,
            counts: Some(counts),
        };
        let cases = [
            known("live", 0, ends.owner, Counter::SynKnownFlow),
            known("half closed by its client", FLOW_CLIENT_FIN, ends.owner, Counter::SynKnownFlow),
            known("half closed by its backend", FLOW_SERVER_FIN, ends.owner, Counter::SynKnownFlow),
            known("closed", FLOW_CLIENT_FIN | FLOW_SERVER_FIN, ends.first, Counter::Syn),
            known("reset", FLOW_RESET, ends.first, Counter::Syn),
        ];
        world.judge(&ends, &cases)?;
    }
    Ok(())
}

#[test]
fn a_syn_is_remembered_as_it_was() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        world.prepare(&ends, &Given::nothing())?;
        world.run(Program::Tc, &from_client(&ends.up(CLIENT_ISN).syn().options(&LINUX)))?;
        let found = world.loaded.plane.handshakes.find(&ends.key())?.expect("a handshake");
        assert_eq!(StateWord(found.word), StateWord::new(State::Syn, CLIENT_ISN));
        assert_eq!(
            (found.client_ts, found.client_mss, found.client_scale, found.first),
            (0x1b58, 1460, 7, ends.first_id)
        );
    }
    Ok(())
}

#[test]
fn a_syn_ack_comes_from_the_vip_with_the_smallest_mss_of_the_pool() -> Result<()> {
    /// The MSS option at an even and at an odd place.
    const EVEN: [u8; 8] = [2, 4, 5, 180, 1, 3, 3, 7];
    const ODD: [u8; 8] = [1, 2, 4, 5, 180, 3, 3, 7];
    let mut world = World::new()?;
    for ends in shapes() {
        let syn_ack = |options: &[u8]| {
            ends.down(ends.first, FIRST_ISN).syn().ack(after(CLIENT_ISN)).options(options)
        };
        let cases = [
            ("a SYN-ACK", 1460, &EVEN[..], &EVEN[..], Counter::SynAck),
            ("a SYN-ACK without options", 1200, &[], &[], Counter::SynAck),
            ("clamped", 1200, &EVEN, &[2, 4, 4, 176, 1, 3, 3, 7], Counter::MssClamped),
            (
                "clamped at an odd place",
                1200,
                &ODD,
                &[1, 2, 4, 4, 176, 3, 3, 7],
                Counter::MssClamped,
            ),
        ];
        let cases = cases.map(|(what, vip_mss, came, left, counts)| Case {
            what,
            frame: from_backend(&syn_ack(came)),
            given: Given { vip_mss, ..Given::handshake(ends.handshake()) },
            tc: Out::Sent(to_client(syn_ack(left), ends.vip)),
            xdp: Out::Untouched,
            counts: Some(counts),
        });
        world.judge(&ends, &cases)?;
    }
    Ok(())
}
