//! Clients that only ever say hello: made-up session IDs, tickets and PSK identities, and hellos
//! that never end.

use std::{io::Read as _, time::Duration};

use anyhow::{Context, Result, ensure};
use steer_common::{counters::Counter, session::Kind, shared::SessionKey};
use steer_tests::{
    case::Case,
    client::{Client, Dial, Offer},
    nginx::{self, TicketKey},
    payload,
    process::eventually,
    scenario::{N_SOURCES, Run},
    setting::{in_one_setting, in_settings},
    tables::entries,
};
use steer_user::{
    address::endpoint,
    plane::{PinDir, Plane},
};

use crate::{bystanders::scenario, lessons::hex};

/// Connections that say a made-up hello each.
const FLOOD: usize = 400;
/// Of them at a time.
const PARALLEL: usize = 16;
/// Entries of `key_name_tries`.
const SEARCHES: usize = 1024;

/// Extension types (RFC 5077, RFC 8446).
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;

/// A hello of TLS 1.2 that offers this session ID.
fn with_session_id(id: &[u8]) -> Result<Vec<u8>> {
    let mut hello =
        hex(include_str!("../../../steer-common/tests/fixtures/openssl12_resumed.client.hex"))?;
    hello[44..76].copy_from_slice(&id[..32]);
    Ok(hello)
}

/// A hello of TLS 1.2 that offers this ticket.
fn with_ticket(ticket: &[u8]) -> Result<Vec<u8>> {
    let hello =
        hex(include_str!("../../../steer-common/tests/fixtures/openssl12_full.client.hex"))?;
    with_extension(&hello, SESSION_TICKET, ticket)
}

/// A hello of TLS 1.3 that offers this PSK identity.
fn with_psk(identity: &[u8]) -> Result<Vec<u8>> {
    let hello = hex(include_str!("../../../steer-common/tests/fixtures/openssl13.client.hex"))?;
    let len = identity.len() as u16;
    let identities = [&(len + 6).to_be_bytes()[..], &len.to_be_bytes(), identity, &[0; 4]].concat();
    let binders = [&[0, 33, 32][..], &[7; 32]].concat();
    with_extension(&hello, PRE_SHARED_KEY, &[identities, binders].concat())
}

/// The first record of a client's stream with an extension more at its end, in place of one of its
/// type.
fn with_extension(hello: &[u8], kind: u16, body: &[u8]) -> Result<Vec<u8>> {
    let word =
        |bytes: &[u8], at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let mut hello = hello[..5 + word(hello, 3)].to_vec();
    let suites = 44 + usize::from(hello[43]);
    let methods = suites + 2 + word(&hello, suites);
    let extensions = methods + 1 + usize::from(hello[methods]);
    let mut kept = Vec::new();
    let mut rest = &hello[extensions + 2..];
    while let [high, low, ..] = *rest {
        let (extension, behind) = rest.split_at(4 + word(rest, 2));
        if u16::from_be_bytes([high, low]) != kind {
            kept.extend_from_slice(extension);
        }
        rest = behind;
    }
    kept.extend([kind.to_be_bytes(), u16::try_from(body.len())?.to_be_bytes()].concat());
    kept.extend_from_slice(body);
    hello.truncate(extensions);
    hello.extend(u16::try_from(kept.len())?.to_be_bytes());
    hello.extend(kept);
    let len = hello.len() as u32;
    hello[5..9].copy_from_slice(&(0x0100_0000 | (len - 9)).to_be_bytes());
    hello[3..5].copy_from_slice(&u16::try_from(len - 5)?.to_be_bytes());
    Ok(hello)
}

/// Servers of both versions, with tickets.
fn servers() -> nginx::Settings {
    let protocols = "TLSv1.2 TLSv1.3".to_owned();
    nginx::Settings {
        protocols,
        tickets: true,
        ticket_key: TicketKey::Private,
        ..nginx::Settings::default()
    }
}

/// What nobody said before.
fn made_up(index: usize) -> Vec<u8> {
    payload::bytes(48, 1000 + index as u64)
}

/// Says `n` hellos over connections of their own, each with something [`made_up`], and hears the
/// start of each answer: a ServerHello.
fn flood(run: &Run, n: usize, hello: impl Fn(&[u8]) -> Result<Vec<u8>> + Sync) -> Result<()> {
    let one = |index: usize| -> Result<()> {
        let dial = run.dial(index % N_SOURCES);
        let mut stream = dial.say(&hello(&made_up(index))?)?;
        let mut record = [0; 6];
        stream.read_exact(&mut record).context("hear an answer")?;
        ensure!(record[0] == 0x16 && record[5] == 2, "no ServerHello but {record:x?}");
        Ok(())
    };
    run.at_once(n, PARALLEL, one).map(drop)
}

/// A client of each kind with a session of the owner's that it was accepted with once.
fn holders(case: &Case<'_>) -> Result<Vec<Client>> {
    [Offer::SessionId, Offer::Ticket12, Offer::Ticket13]
        .map(|offer| {
            let client = case.run.new_client_offering(offer)?;
            case.run.visit(&client, &case.home)?;
            ensure!(case.run.visit(&client, &case.home)?.resumed, "{offer:?}");
            Ok(client)
        })
        .into_iter()
        .collect()
}

#[test]
fn hellos_with_made_up_sessions_fill_no_table_but_that_of_searches_which_is_bounded() -> Result<()>
{
    in_settings(100, |setting| {
        let run = scenario(setting).nginx(servers()).start()?;
        let mut case = Case::start(&run)?;
        let holders = holders(&case)?;
        let tables = ["sessions", "key_names", "splices", "pending"];
        let count = |case: &Case<'_>| tables.map(|table| entries(&case.steer, table).ok());
        case.count_from_here()?;
        let before = count(&case);
        flood(&run, FLOOD, with_session_id)?;
        flood(&run, FLOOD, with_ticket)?;
        let n = FLOOD as u64;
        case.expect(&[
            (Counter::SessionMiss, n),
            (Counter::TicketMiss, n),
            (Counter::HelloMalformed, 0),
        ])?;
        assert_eq!(
            entries(&case.steer, "key_name_tries")?,
            0,
            "a server of TLS 1.2 says nothing of a ticket so early"
        );
        flood(&run, FLOOD, with_psk)?;
        case.expect(&[
            (Counter::TicketMiss, 2 * n),
            (Counter::Learned, 0),
            (Counter::KeyNameLearned, 0),
        ])?;
        case.expect(&[(Counter::Rehome, 0), (Counter::Buffered, 0), (Counter::Hello, 3 * n)])?;
        assert_eq!(
            entries(&case.steer, "key_name_tries")?,
            FLOOD,
            "one search a name that was rejected"
        );
        assert_eq!(count(&case), before, "entries of {tables:?}");
        for holder in &holders {
            let handshake = run.visit(holder, &case.dial)?;
            assert!(handshake.resumed && handshake.server == "backend-0", "{handshake:?}");
        }
        case.expect(&[(Counter::SpliceOpened, 3)])
    })
}

/// Searches beyond the table's size push out the oldest; known names steer on.
#[test]
fn more_made_up_key_names_than_searches_are_remembered_push_out_the_oldest() -> Result<()> {
    in_one_setting(|setting| {
        let run = scenario(setting).nginx(servers()).start()?;
        let mut case = Case::start(&run)?;
        let holders = holders(&case)?;
        case.count_from_here()?;
        let names = entries(&case.steer, "key_names")?;
        flood(&run, SEARCHES + SEARCHES / 2, with_psk)?;
        let searches = entries(&case.steer, "key_name_tries")?;
        ensure!(
            searches > SEARCHES / 2 && searches <= SEARCHES,
            "{searches} searches in a table of {SEARCHES}"
        );
        ensure!(latest_are_searched(&case)?, "the latest found no room");
        ensure!(entries(&case.steer, "key_names")? == names, "a made-up name was learned");
        let handshake = run.visit(&holders[2], &case.dial)?;
        assert!(handshake.resumed && handshake.server == "backend-0", "{handshake:?}");
        case.expect(&[
            (Counter::KeyNameLearned, 0),
            (Counter::KeyNameHit, 1),
            (Counter::SpliceOpened, 1),
        ])
    })
}

/// Whether most of the names that were said last are among those whose owner is searched.
fn latest_are_searched(case: &Case<'_>) -> Result<bool> {
    let plane = Plane::open(&PinDir::new(case.steer.pin_dir()))?;
    let vip = plane.vip(&endpoint(case.run.vip()))?.context("no VIP")?;
    let mut n = 0;
    for index in SEARCHES..SEARCHES + SEARCHES / 2 {
        let name =
            SessionKey::new(vip.id, Kind::KeyName, &made_up(index)[..16]).context("a name")?;
        n += usize::from(plane.key_name_tries.find(&name)?.is_some());
    }
    Ok(n > SEARCHES / 4)
}

/// One byte each, then silence: the clients' own kernels repeat it until the first backend gets it.
#[test]
fn hellos_that_are_never_finished_keep_no_more_buffers_than_there_are_and_nobody_waits_for_them()
-> Result<()> {
    const SLOW: usize = 300;
    const BUFFERS: usize = 64;
    in_settings(101, |setting| {
        let run = scenario(setting).size(&format!("pending = {BUFFERS}")).start()?;
        let mut case = Case::start(&run)?;
        case.count_from_here()?;
        let hello = with_session_id(&payload::bytes(48, 5))?;
        let dial = |index: usize| Dial { source: run.source(index), ..case.dial.clone() };
        let slow = run.lab.client().run(|| {
            (0..SLOW).map(|index| dial(index).say(&hello[..1])).collect::<Result<Vec<_>>>()
        })?;
        for handshake in case.visit_at_once(32, &case.dial)? {
            assert!(handshake.offered, "{handshake:?}");
        }
        case.expect(&[(Counter::Gather, SLOW as u64)])?;
        let buffers = entries(&case.steer, "pending")?;
        ensure!(buffers <= BUFFERS, "{buffers} of {BUFFERS} buffers");
        let ended = || {
            let ends = [Counter::GatherStalled, Counter::PendingLost, Counter::ServerFirst];
            let n = ends.iter().map(|end| case.counted(*end)).sum::<Result<u64>>().ok()?;
            (n >= SLOW as u64).then_some(n)
        };
        ensure!(
            eventually(Duration::from_secs(5), ended).is_some(),
            "some gather on: {:?}",
            case.steer.counts()
        );
        case.moves(&case.dial)?;
        ensure!(
            entries(&case.steer, "splices")? <= 33,
            "somebody who never said who he is was moved"
        );
        drop(slow);
        case.unharmed_but_for_resets()
    })
}
