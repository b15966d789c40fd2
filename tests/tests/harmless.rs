//! What must be harmless: hellos that lie, are forged, or are none. Each gets the answer that its
//! server gives without steer between.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    agent::Agent,
    client::{Dial, Offer},
    nginx::{self, TicketKey},
    scenario::Run,
    setting::{Setting, in_settings},
};

fn start(setting: Setting) -> Result<Run> {
    let protocols = "TLSv1.2 TLSv1.3".to_owned();
    let nginx = nginx::Settings {
        protocols,
        tickets: true,
        ticket_key: TicketKey::Private,
        ..nginx::Settings::default()
    };
    setting.scenario().nginx(nginx).start()
}

/// A real hello of OpenSSL that speaks TLS 1.2 and offers a session ID.
fn real_hello() -> Result<Vec<u8>> {
    hex(include_str!("../../steer-common/tests/fixtures/openssl12_resumed.client.hex"))
}

/// A real hello of OpenSSL that speaks TLS 1.3.
fn real_hello_13() -> Result<Vec<u8>> {
    hex(include_str!("../../steer-common/tests/fixtures/openssl13.client.hex"))
}

fn hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair)?, 16).context("hex"))
        .collect()
}

/// The content types and handshake types of a server's first records: what a client goes by.
/// Lengths differ with certificates.
fn kinds(answer: &[u8]) -> Vec<(u8, u8)> {
    let (mut kinds, mut rest) = (Vec::new(), answer);
    while let [content, _, _, high, low, first, ..] = *rest {
        // An alert says something only in its second byte, and what is encrypted says nothing.
        let said = match content {
            0x15 => rest.get(6).copied().unwrap_or(0),
            0x17 => 0,
            _ => first,
        };
        kinds.push((content, said));
        rest = rest.get(5 + usize::from(u16::from_be_bytes([high, low]))..).unwrap_or(&[]);
    }
    kinds
}

/// Says the same to the VIP and to its backend itself, and expects the same kind of answer.
#[track_caller]
fn same_answer(run: &Run, bytes: &[u8]) -> Result<Vec<(u8, u8)>> {
    let dial = Dial { timeout: Duration::from_secs(3), ..run.dial(3) };
    let straight = Dial { target: run.backend_address(0), ..dial.clone() };
    let ask = |dial: &Dial| run.lab.client().run(|| dial.speak_first(bytes));
    let (through, direct) = (ask(&dial)?, ask(&straight)?);
    assert_eq!(
        kinds(&through),
        kinds(&direct),
        "{} bytes through steer, {} directly",
        through.len(),
        direct.len()
    );
    Ok(kinds(&through))
}

/// Says something in every form that a test wants, and expects nothing to be learned or moved.
fn unmoved(steer: &Agent, what: Counter, n: u64) -> Result<()> {
    ensure!(steer.count(what)? == n, "{} is {}, not {n}", what.word(), steer.count(what)?);
    ensure!(
        steer.count(Counter::Learned)? == 0 && steer.count(Counter::Rehome)? == 0,
        "something was learned or moved"
    );
    Ok(())
}

#[test]
fn forged_session_ids_get_a_full_handshake() -> Result<()> {
    in_settings(82, |setting| {
        let run = start(setting)?;
        let steer = run.agent()?;
        let mut hello = real_hello()?;
        for forged in 0..20u8 {
            hello[44..76].fill(forged);
            let kinds = same_answer(&run, &hello)?;
            assert_eq!(kinds.first(), Some(&(0x16, 2)), "a ServerHello");
        }
        unmoved(&steer, Counter::SessionMiss, 20)
    })
}

#[test]
fn ssl2_hellos_and_other_protocols_get_what_the_server_says_to_them() -> Result<()> {
    in_settings(83, |setting| {
        let run = start(setting)?;
        let steer = run.agent()?;
        let ssl2 =
            hex("802e0103010015000000100100800700c0030080060040020080040080000004000005000a\
                        0123456789abcdef0123456789abcdef")?;
        for bytes in [
            &ssl2[..],
            b"GET / HTTP/1.0\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            &[0x16, 3, 1, 0, 4, 2, 0, 0, 0],
        ] {
            same_answer(&run, bytes)?;
        }
        unmoved(&steer, Counter::NotTls, 4)
    })
}

#[test]
fn hellos_whose_lengths_lie_get_the_servers_own_alert() -> Result<()> {
    in_settings(84, |setting| {
        let run = start(setting)?;
        let steer = run.agent()?;
        let (old, new) = (real_hello()?, real_hello_13()?);
        let id_len = usize::from(new[43]);
        let suites = usize::from(u16::from_be_bytes([new[44 + id_len], new[45 + id_len]]));
        let extensions = 44 + id_len + 2 + suites + 2;
        let lies = [
            (&old, 43, 0xff),
            (&old, 43, 33),
            (&old, 76, 0xff),
            (&new, 43, 40),
            (&new, extensions, 0xff),
            (&new, extensions + 4, 0xff),
        ];
        for (hello, at, lie) in lies {
            let mut hello = hello.clone();
            hello[at] = lie;
            let kinds = same_answer(&run, &hello)?;
            assert!(kinds.first().is_none_or(|(content, _)| *content == 0x15), "{at}: {kinds:?}");
        }
        unmoved(&steer, Counter::HelloMalformed, 6)
    })
}

/// Unknown extensions, versions and suites (RFC 8701), grease for ECH, a post-quantum key share: as
/// Chromium sends them.
#[test]
fn a_hello_full_of_grease_gets_the_servers_answer() -> Result<()> {
    in_settings(89, |setting| {
        let run = start(setting)?;
        let steer = run.agent()?;
        let hello = hex(include_str!("../../steer-common/tests/fixtures/chromium13.client.hex"))?;
        let kinds = same_answer(&run, &hello)?;
        assert_eq!(kinds.first(), Some(&(0x16, 2)), "a ServerHello");
        ensure!(
            steer.count(Counter::ServerTls13)? == 1 && steer.count(Counter::HelloMalformed)? == 0,
            "it was not read"
        );
        // Its session ID is made up, as TLS 1.3 has it: nothing is missed.
        ensure!(steer.count(Counter::SessionMiss)? == 0, "a made-up ID is counted as missed");
        unmoved(&steer, Counter::HelloNoSession, 1)
    })
}

/// Longer than the buffer: its PSK, the last thing in it, is never seen.
#[test]
fn a_hello_of_15_kilobytes_gets_a_full_handshake() -> Result<()> {
    in_settings(85, |setting| {
        let run = start(setting)?;
        let steer = run.agent()?;
        let mut client = run.new_client_offering(Offer::Ticket13)?;
        run.session_at(&client, 0)?;
        client.lengthen_hello(14_500);
        let handshake = run.visit(&client, &run.dial(run.source_not_of(0)?))?;
        assert!(handshake.offered && !handshake.resumed, "{handshake:?}");
        let limits = [
            Counter::GatherLimit,
            Counter::GatherWindow,
            Counter::GatherStalled,
            Counter::TicketMiss,
        ];
        let seen = limits.iter().map(|counter| steer.count(*counter)).sum::<Result<u64>>()?;
        assert_eq!((seen, steer.count(Counter::Rehome)?), (1, 0));
        Ok(())
    })
}

/// A client's first connections at once, none of which knows of a session yet.
#[test]
fn simultaneous_first_connections_of_a_client_all_work_and_their_sessions_too() -> Result<()> {
    in_settings(86, |setting| {
        let run = start(setting)?;
        let steer = run.agent()?;
        for offer in [Offer::SessionId, Offer::Ticket12, Offer::Ticket13] {
            let client = run.new_client_offering(offer)?;
            let first = run.at_once(16, 16, |_| run.visit(&client, &run.dial(7)))?;
            let server = &first[0].server;
            assert!(
                first.iter().all(|handshake| handshake.server == *server),
                "one address, one backend: {first:?}"
            );
        }
        ensure!(steer.count(Counter::HelloMalformed)? == 0, "a hello was not read");
        Ok(())
    })
}

/// TCP Fast Open (RFC 7413) with the hello in the SYN: the option is cleared, so the server takes
/// no data before the handshake, and the client repeats it.
#[test]
fn a_hello_in_a_syn_is_repeated_and_moves() -> Result<()> {
    in_settings(87, |setting| {
        // Data in the SYN without a cookie (4) by clients (1) and servers (2, 0x200).
        let scenario = setting.scenario().client_sysctl("ipv4/tcp_fastopen", "5");
        let run = (0..2)
            .fold(scenario, |s, index| s.backend_sysctl(index, "ipv4/tcp_fastopen", "519"))
            .start()?;
        let steer = run.agent()?;
        let client = run.new_client()?;
        run.session_at(&client, 0)?;
        let dial = Dial { fast_open: true, ..run.dial(run.source_not_of(0)?) };
        for _ in 0..5 {
            let handshake = run.visit(&client, &dial)?;
            assert!(handshake.resumed && handshake.server == "backend-0", "{handshake:?}");
        }
        assert_eq!(steer.count(Counter::SpliceOpened)?, 5);
        let sent = run.client_counters()?.of("TcpExt.TCPFastOpenActiveFail");
        assert!(sent > 0, "data went out in a SYN, and was not taken");
        Ok(())
    })
}
