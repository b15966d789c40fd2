//! One client address and port towards several backends at once, as balancers with one source
//! address have it: nobody's connection suffers from another one's move.
//!
//! Clients dial the backends themselves here, through the balancer, which only routes then.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::{Client, Connection, Dial},
    l4::Snat,
    nginx, payload,
    process::eventually,
    scenario::Run,
    setting::{Setting, in_one_setting, in_settings},
    tables,
};

const PORT: u16 = 20_000;
/// Bytes each way.
const UPLOAD: usize = 200_000;

fn run(setting: Setting) -> Result<Run> {
    let kept = nginx::Settings { keepalive: "60s".to_owned(), ..nginx::Settings::default() };
    setting.scenario().backends(3).nginx(kept).inline(Snat::No).start()
}

/// A dial of a backend itself from the port that all have in common.
fn direct(run: &Run, backend: usize) -> Dial {
    Dial { source_port: Some(PORT), ..Dial::new(run.source(0), run.backend_address(backend)) }
}

/// Bytes go both ways, and arrive as they were sent; the connection stays open.
fn talk(connection: &mut Connection) -> Result<()> {
    connection.keep_open(true);
    let sum = payload::sha256(&payload::bytes(300_000, 7));
    ensure!(connection.get("/files/file")?.sha256 == sum, "the file arrived changed");
    connection.put("/files/up", &payload::bytes(UPLOAD, 3)).map(drop)
}

/// One more answer, behind which the server closes.
fn end(connection: &mut Connection) -> Result<()> {
    connection.keep_open(false);
    connection.get("/")?;
    connection.finish()
}

/// Opens a connection while `held` is open, and both go on.
fn beside(
    case: &Case<'_>,
    held: &mut Connection,
    client: &Client,
    dial: &Dial,
) -> Result<(bool, usize)> {
    let (handshake, ()) = case.run.connect(client, dial, |other| {
        for _ in 0..2 {
            talk(other)?;
            talk(held)?;
        }
        end(other)
    })?;
    talk(held)?;
    Ok((handshake.resumed, case.run.backend_named(&handshake.server)?))
}

/// Case 1 of the list that this shape was designed by.
#[test]
fn a_flow_that_moves_to_where_its_port_is_taken_has_another_one_there() -> Result<()> {
    in_settings(300, |setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        let plain = run.new_client()?;
        run.connect(&plain, &direct(&run, OWNER), |held| {
            let seen = beside(&case, held, &case.client, &direct(&run, FIRST))?;
            assert_eq!(seen, (true, OWNER));
            end(held)
        })?;
        case.expect(&[
            (Counter::LegTranslated, 1),
            (Counter::SpliceOpened, 1),
            (Counter::OwnerChallenge, 0),
        ])?;
        case.unharmed(1)
    })
}

/// Case 2: the balancer opens a connection to a backend from a port that a flow has there that was
/// moved; it may offer a session, too, and move on.
#[test]
fn a_connection_to_where_a_moved_flow_has_its_port_has_another_one() -> Result<()> {
    in_settings(301, |setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        const THIRD: usize = 2;
        for (offers, at) in [(None, OWNER), (Some(OWNER), OWNER), (Some(THIRD), THIRD)] {
            let other = run.new_client()?;
            if let Some(backend) = offers {
                run.session_at(&other, backend)?;
            }
            let before = case.counted(Counter::LegTranslated)?;
            let ((), ()) = run
                .connect(&case.client, &direct(&run, FIRST), |held| {
                    assert!(held.handshake.resumed, "the first is moved");
                    talk(held)?;
                    let seen = beside(&case, held, &other, &direct(&run, OWNER))?;
                    assert_eq!(seen, (offers.is_some(), at), "offers a session of {offers:?}");
                    end(held)
                })
                .map(|(_, done)| ((), done))?;
            let translated = case.counted(Counter::LegTranslated)? - before;
            assert!(translated >= 1, "{translated} have another port");
        }
        case.unharmed_but_for_resets()
    })
}

/// Case 3: the gateway never saw the connection that has the port, which is silent since. Its
/// backend's challenge tells; nobody is reset for it, and the move takes another port. The next one
/// needs no challenge.
#[test]
fn a_connection_older_than_the_gateway_keeps_its_port_and_the_move_takes_another() -> Result<()> {
    in_settings(302, |setting| {
        let run = run(setting)?;
        let plain = run.new_client()?;
        let body = payload::bytes(300_000, 7);
        run.servers.iter().try_for_each(|server| server.put("file", &body).map(drop))?;
        run.connect(&plain, &direct(&run, OWNER), |held| {
            talk(held)?;
            let mut case = Case::start(&run)?;
            for challenged in [1, 0] {
                case.renew()?;
                case.moves(&direct(&run, FIRST))?;
                case.expect(&[
                    (Counter::OwnerPortTaken, challenged),
                    (Counter::LegTranslated, 1),
                    (Counter::Rehome, 1),
                ])?;
            }
            talk(held)?;
            end(held)
        })
        .map(drop)
    })
}

/// Case 4: the balancer uses a port again a moment after a moved flow on it ended.
#[test]
fn a_port_that_a_moved_flow_had_is_used_again_at_once() -> Result<()> {
    in_settings(303, |setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        let plain = run.new_client()?;
        for again in [OWNER, FIRST, 2] {
            assert!(case.fetch(&direct(&run, FIRST))?.resumed);
            plain.forget();
            let handshake = case.fetch_with(&plain, &direct(&run, again))?;
            assert_eq!(run.backend_named(&handshake.server)?, again);
        }
        case.unharmed_but_for_resets()
    })
}

/// Case 4: the balancer's own record of a connection lives five seconds, and its server's, which
/// closed first, a minute.
#[test]
fn a_port_that_a_moved_flow_had_is_used_again_five_seconds_later() -> Result<()> {
    /// tcpCloseTimeout of an F5.
    const FORGOTTEN: Duration = Duration::from_secs(5);
    in_settings(305, |setting| {
        for (again, translated) in [(OWNER, 1), (FIRST, 0)] {
            let run = run(setting)?;
            let case = Case::start(&run)?;
            let plain = run.new_client()?;
            assert!(case.fetch(&direct(&run, FIRST))?.resumed);
            thread::sleep(FORGOTTEN);
            let handshake = case.fetch_with(&plain, &direct(&run, again))?;
            assert_eq!(run.backend_named(&handshake.server)?, again);
            case.expect(&[
                (Counter::SpliceOpened, 1),
                (Counter::LegTranslated, translated),
                (Counter::LegCollided, 0),
            ])?;
            case.unharmed(1)?;
        }
        Ok(())
    })
}

/// After TIME_WAIT the port at the owner is anybody's.
#[test]
fn a_port_that_a_moved_flow_had_is_plain_again_after_a_minute() -> Result<()> {
    /// Longer than an agent takes to give back what nobody uses for a minute.
    const GIVEN_BACK: Duration = Duration::from_secs(80);
    in_one_setting(|setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        assert!(case.fetch(&direct(&run, FIRST))?.resumed);
        let gone = |table| tables::entries(&case.steer, table).ok().filter(|&n| n == 0);
        assert_ne!(tables::entries(&case.steer, "legs")?, 0, "it lasts for TIME_WAIT");
        ensure!(eventually(GIVEN_BACK, || gone("legs")).is_some(), "the leg is kept");
        ensure!(gone("splices").is_some(), "the splice is kept");
        let handshake = case.fetch_with(&run.new_client()?, &direct(&run, OWNER))?;
        assert_eq!(run.backend_named(&handshake.server)?, OWNER);
        case.expect(&[(Counter::SpliceOpened, 1), (Counter::LegTranslated, 0)])?;
        case.unharmed(1)
    })
}

/// Case 14: a backend is a client of another one, with a session of its own server.
#[test]
fn a_backend_that_is_a_client_is_never_moved_to_itself() -> Result<()> {
    in_settings(304, |setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        let dial = Dial::new(run.backend_address(OWNER).ip(), run.backend_address(FIRST));
        let handshake = run.lab.backend(OWNER).run(|| case.client.visit(&dial))?;
        assert!(handshake.offered && !handshake.resumed, "{handshake:?}");
        assert_eq!(run.backend_named(&handshake.server)?, FIRST);
        case.expect(&[(Counter::OwnerIsClient, 1), (Counter::Rehome, 0)])
    })
}
