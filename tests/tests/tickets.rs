//! Tickets and TLS 1.3: what session IDs are to older clients, these are to today's.

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    agent::Agent,
    client::{Client, Dial, Offer},
    nginx::{self, TicketKey},
    scenario::{N_SOURCES, Run, Scenario},
    setting::{Setting, in_one_setting, in_settings},
};

/// Servers of both versions with tickets.
fn servers(ticket_key: TicketKey) -> nginx::Settings {
    let protocols = "TLSv1.2 TLSv1.3".to_owned();
    nginx::Settings { protocols, tickets: true, ticket_key, ..nginx::Settings::default() }
}

fn start(setting: Setting, ticket_key: TicketKey) -> Result<Run> {
    setting.scenario().backends(3).nginx(servers(ticket_key)).start()
}

/// Gives the client a session of a backend, through the VIP, and lets it be accepted there once.
fn session_accepted_at(run: &Run, client: &Client, backend: usize) -> Result<()> {
    client.forget();
    let home = run.dial(run.source_of(backend)?);
    let first = run.visit(client, &home)?;
    assert_eq!(run.backend_named(&first.server)?, backend);
    let again = run.visit(client, &home)?;
    assert!(again.resumed, "at home: {again:?}");
    Ok(())
}

/// Offers a session from every address; returns how many flows moved.
fn resumes_everywhere(run: &Run, steer: &Agent, client: &Client, backend: usize) -> Result<u64> {
    let before = steer.count(Counter::SpliceOpened)?;
    for source in 0..N_SOURCES {
        let handshake = run.visit(client, &run.dial(source))?;
        assert!(handshake.offered && handshake.resumed, "from address {source}: {handshake:?}");
        assert_eq!(run.backend_named(&handshake.server)?, backend, "from address {source}");
    }
    Ok(steer.count(Counter::SpliceOpened)? - before)
}

/// The ticket was issued in clear: its owner is known from the first reconnect on.
#[test]
fn tickets_of_tls12_resume_on_their_owner_from_every_address() -> Result<()> {
    in_settings(73, |setting| {
        let run = start(setting, TicketKey::Private)?;
        let steer = run.agent()?;
        let client = run.new_client_offering(Offer::Ticket12)?;
        client.forget();
        let first = run.visit(&client, &run.dial(run.source_of(0)?))?;
        let owner = run.backend_named(&first.server)?;
        assert!(resumes_everywhere(&run, &steer, &client, owner)? > 20);
        assert_eq!(steer.count(Counter::TicketMiss)?, 0);
        Ok(())
    })
}

#[test]
fn tickets_of_tls13_resume_on_their_owner_once_each_key_was_accepted() -> Result<()> {
    in_settings(74, |setting| {
        let run = start(setting, TicketKey::Private)?;
        let steer = run.agent()?;
        let clients =
            (0..3).map(|_| run.new_client_offering(Offer::Ticket13)).collect::<Result<Vec<_>>>()?;
        for (backend, client) in clients.iter().enumerate() {
            session_accepted_at(&run, client, backend)?;
        }
        assert_eq!(steer.count(Counter::KeyNameLearned)?, 3);
        for (backend, client) in clients.iter().enumerate() {
            assert!(resumes_everywhere(&run, &steer, client, backend)? > 20);
        }
        assert_eq!(steer.count(Counter::KeyNameBecameShared)?, 0);
        Ok(())
    })
}

/// Named-key mode: nothing needs to be learned.
#[test]
fn tickets_of_named_keys_resume_on_their_owner_from_the_first_reconnect() -> Result<()> {
    in_settings(75, |setting| {
        let named = |scenario: Scenario, index| {
            let name: String =
                nginx::key_name(index).iter().map(|byte| format!("{byte:02x}")).collect();
            scenario.backend_setting(index, &format!("key_names = [\"{name}\"]"))
        };
        let scenario = setting.scenario().backends(3).nginx(servers(TicketKey::Named));
        let run = (0..3).fold(scenario, named).start()?;
        let steer = run.agent()?;
        for offer in [Offer::Ticket13, Offer::Ticket12] {
            for backend in 0..3 {
                let client = run.new_client_offering(offer)?;
                let first = run.visit(&client, &run.dial(run.source_of(backend)?))?;
                assert_eq!(run.backend_named(&first.server)?, backend);
                assert!(resumes_everywhere(&run, &steer, &client, backend)? > 20);
            }
        }
        let unwanted = [Counter::TicketMiss, Counter::KeyNameLearned, Counter::KeyNameRejected];
        assert_eq!(unwanted.iter().map(|counter| steer.count(*counter)).sum::<Result<u64>>()?, 0);
        Ok(())
    })
}

/// A key name that nobody accepted yet is looked for: each try is remembered, so that it is found
/// in as many connections as there are backends.
#[test]
fn an_unknown_key_name_is_found_by_trying_each_backend_once() -> Result<()> {
    in_settings(75, |setting| {
        let run = start(setting, TicketKey::Private)?;
        let crowd =
            (0..4).map(|_| run.new_client_offering(Offer::Ticket13)).collect::<Result<Vec<_>>>()?;
        let steer = run.agent()?;
        let home = run.dial(run.source_of(0)?);
        for client in &crowd {
            assert_eq!(run.visit(client, &home)?.server, "backend-0");
        }
        let away = run.dial(run.source_not_of(0)?);
        let tries =
            crowd.iter().map(|client| run.visit(client, &away)).collect::<Result<Vec<_>>>()?;
        let found =
            tries.iter().position(|handshake| handshake.resumed).expect("its owner is found");
        assert!(
            (1..3).contains(&found),
            "the first backend refuses, one of two others accepts: {tries:?}"
        );
        assert!(
            tries[found..]
                .iter()
                .all(|handshake| handshake.resumed && handshake.server == "backend-0"),
            "{tries:?}"
        );
        assert_eq!(steer.count(Counter::KeyNameSearch)?, found as u64);
        assert!(resumes_everywhere(&run, &steer, &crowd[3], 0)? > 20);
        Ok(())
    })
}

/// A ticket may live longer than what is remembered of it; without an agent nobody sweeps that
/// away.
#[test]
fn a_ticket_of_tls12_that_is_remembered_no_longer_is_led_by_its_keys_name() -> Result<()> {
    in_settings(91, |setting| {
        let scenario = setting.scenario().vip_setting("session_timeout = \"1s\"");
        let run = scenario.nginx(servers(TicketKey::Private)).start()?;
        let mut steer = run.agent()?;
        let client = run.new_client_offering(Offer::Ticket12)?;
        let away = run.dial(run.source_not_of(0)?);
        run.session_at(&client, 0)?;
        steer.end(nix::sys::signal::Signal::SIGKILL)?;
        std::thread::sleep(std::time::Duration::from_millis(2_500));
        let handshake = run.visit(&client, &away)?;
        assert!(handshake.resumed && handshake.server == "backend-0", "{handshake:?}");
        assert_eq!(
            (steer.count(Counter::KeyNameHit)?, steer.count(Counter::SessionExpired)?),
            (1, 0)
        );
        Ok(())
    })
}

/// Any backend opens any ticket: nothing needs to move, and nothing does once two have shown it.
/// (nginx takes tickets of its own certificate only, whoever made them.)
#[test]
fn a_key_that_all_backends_share_no_longer_steers() -> Result<()> {
    in_settings(76, |setting| {
        let nginx = nginx::Settings { one_certificate: true, ..servers(TicketKey::Shared) };
        let run = setting.scenario().backends(3).nginx(nginx).start()?;
        let steer = run.agent()?;
        let visit = |client: &Client, source| {
            run.connect(client, &run.dial(source), |connection| Ok(connection.get("/")?.text()))
        };
        let client = run.new_client_offering(Offer::Ticket13)?;
        // Two connections at home teach whose key it seems to be; a full one elsewhere, in TLS 1.2,
        // that it is not.
        let (_, home) = visit(&client, 0)?;
        assert!(visit(&client, 0)?.0.resumed);
        let mut elsewhere = 0;
        for source in 1..N_SOURCES {
            let (_, server) = visit(&run.new_client_offering(Offer::Ticket12)?, source)?;
            elsewhere += usize::from(server.split(' ').next() != home.split(' ').next());
        }
        assert!(elsewhere > 10, "{elsewhere}");
        assert_eq!(steer.count(Counter::KeyNameBecameShared)?, 1);
        for source in 0..N_SOURCES {
            let (handshake, _) = visit(&client, source)?;
            assert!(handshake.resumed, "from address {source}: {handshake:?}");
        }
        assert_eq!(
            (steer.count(Counter::SpliceOpened)?, steer.count(Counter::KeyNameShared)?),
            (0, 64)
        );
        assert_eq!(steer.count(Counter::KeyNameHit)?, 0, "a shared name leads nobody");
        Ok(())
    })
}

/// The PSK is the last thing in a hello, behind whatever makes it long.
#[test]
fn long_hellos_of_several_segments_resume_on_their_owner() -> Result<()> {
    in_settings(77, |setting| {
        let run = start(setting, TicketKey::Private)?;
        let steer = run.agent()?;
        for (len, mss) in [
            (1_400, None),
            (3_000, None),
            (6_000, None),
            (10_000, None),
            (3_000, Some(536)),
            (0, Some(200)),
        ] {
            let mut client = run.new_client_offering(Offer::Ticket13)?;
            session_accepted_at(&run, &client, 0)?;
            client.lengthen_hello(len);
            let dial = Dial { mss, ..run.dial(run.source_not_of(0)?) };
            let handshake = run.visit(&client, &dial)?;
            assert!(
                handshake.resumed && handshake.server == "backend-0",
                "{len} bytes, MSS {mss:?}: {handshake:?}"
            );
        }
        assert_eq!((steer.count(Counter::SpliceOpened)?, steer.count(Counter::HelloCut)?), (6, 0));
        Ok(())
    })
}

/// Nothing is acknowledged before the decision: a client may send no more than its initial window
/// of ten segments.
#[test]
fn a_hello_that_its_client_may_not_send_whole_stays_whole_at_the_first_backend() -> Result<()> {
    in_settings(81, |setting| {
        let run = start(setting, TicketKey::Private)?;
        let steer = run.agent()?;
        let mut client = run.new_client_offering(Offer::Ticket13)?;
        session_accepted_at(&run, &client, 0)?;
        client.lengthen_hello(3_000);
        let dial = Dial { mss: Some(100), ..run.dial(run.source_not_of(0)?) };
        let handshake = run.visit(&client, &dial)?;
        assert!(
            handshake.offered && !handshake.resumed && handshake.server != "backend-0",
            "{handshake:?}"
        );
        assert_eq!(steer.count(Counter::GatherStalled)? + steer.count(Counter::GatherWindow)?, 1);
        Ok(())
    })
}

#[test]
fn hellos_split_over_records_resume_on_their_owner() -> Result<()> {
    in_settings(78, |setting| {
        for offer in [Offer::SessionId, Offer::Ticket12, Offer::Ticket13] {
            let nginx = nginx::Settings {
                tickets: offer != Offer::SessionId,
                ..servers(TicketKey::Private)
            };
            let run = setting.scenario().nginx(nginx).start()?;
            let steer = run.agent()?;
            let client = run.new_client_offering(offer)?;
            session_accepted_at(&run, &client, 0)?;
            let away = run.dial(run.source_not_of(0)?);
            for (record, cuts) in [
                (200, vec![]),
                (40, vec![]),
                (17, vec![]),
                (3, vec![]),
                (40, (7..600).step_by(33).collect()),
            ] {
                let dial = Dial { record: Some(record), cuts: cuts.clone(), ..away.clone() };
                let handshake = run.visit(&client, &dial)?;
                let moved = handshake.resumed && handshake.server == "backend-0";
                assert!(moved, "{offer:?}, records of {record}, cut at {cuts:?}: {handshake:?}");
            }
            assert_eq!(steer.count(Counter::HelloMalformed)?, 0);
        }
        Ok(())
    })
}

/// The second hello goes where the first went.
#[test]
fn a_hello_retry_request_keeps_the_binding() -> Result<()> {
    in_settings(79, |setting| {
        let nginx =
            nginx::Settings { curves: "prime256v1".to_owned(), ..servers(TicketKey::Private) };
        let run = setting.scenario().nginx(nginx).start()?;
        let steer = run.agent()?;
        let client = run.new_client_offering(Offer::Ticket13)?;
        session_accepted_at(&run, &client, 0)?;
        let before = steer.count(Counter::ServerRetry)?;
        client.forget_group();
        let handshake = run.visit(&client, &run.dial(run.source_not_of(0)?))?;
        assert!(handshake.resumed && handshake.server == "backend-0", "{handshake:?}");
        assert_eq!(steer.count(Counter::ServerRetry)? - before, 1);
        Ok(())
    })
}

#[test]
fn early_data_behind_the_hello_arrives_at_the_owner() -> Result<()> {
    in_settings(80, |setting| {
        let run = start(setting, TicketKey::Private)?;
        let steer = run.agent()?;
        let mut client = run.new_client_offering(Offer::Ticket13)?;
        client.change(|config| config.enable_early_data = true);
        session_accepted_at(&run, &client, 0)?;
        let away = run.dial(run.source_not_of(0)?);
        let (handshake, early) = run.lab.client().run(|| client.visit_early(&away))?;
        assert!(
            early && handshake.resumed && handshake.server == "backend-0",
            "{handshake:?}, early data {early}"
        );
        assert_eq!(steer.count(Counter::SpliceOpened)?, 1);
        Ok(())
    })
}

/// The rate that operators look at is that of the servers' own answers.
#[test]
fn what_came_of_offered_sessions_is_counted_by_backend_and_version() -> Result<()> {
    in_one_setting(|setting| {
        let run = start(setting, TicketKey::Private)?;
        let steer = run.agent()?;
        let home = run.source_of(0)?;
        let client = run.new_client_offering(Offer::Ticket13)?;
        let before = steer.backend(run.backend_address(0))?;
        run.visit(&client, &run.dial(home))?;
        run.visit(&client, &run.dial(home))?;
        run.visit(&client, &run.dial(home))?;
        let after = steer.backend(run.backend_address(0))?;
        let of = |report: &serde_json::Value, name: &str| {
            report["tls13"][name].as_u64().unwrap_or(u64::MAX)
        };
        assert_eq!(of(&after, "accepted") - of(&before, "accepted"), 2, "{after}");
        assert_eq!(of(&after, "not_offered") - of(&before, "not_offered"), 1, "{after}");
        assert_eq!(of(&after, "rejected"), 0, "{after}");
        Ok(())
    })
}
