//! Clients without the certificate that their servers ask for: nginx finishes their handshakes all
//! the same, and says no in HTTP. What it issues to them is not learned.

use anyhow::{Result, ensure};
use rustls::version::TLS12;
use steer_common::counters::Counter;
use steer_tests::{
    agent::Agent,
    client::{Client, Dial, Handshake, Offer},
    nginx,
    scenario::{N_SOURCES, Run, Scenario},
    setting::{Setting, in_settings},
};

/// Servers of TLS 1.2 with session IDs and tickets.
fn scenario(setting: Setting, verify_client: &str) -> Scenario {
    let nginx = nginx::Settings {
        verify_client: verify_client.to_owned(),
        tickets: true,
        ..nginx::Settings::default()
    };
    setting.scenario().nginx(nginx)
}

/// A client without a certificate.
fn stranger(run: &Run) -> Result<Client> {
    Ok(Client::with_config(&run.pki, run.pki.client_config(false, &TLS12)?))
}

/// Shakes hands and says nothing more.
fn shake(run: &Run, client: &Client, dial: &Dial) -> Result<Handshake> {
    Ok(run.connect(client, dial, |_| Ok(()))?.0)
}

/// Nothing at all is known, of sessions or of keys.
fn knows_nothing(steer: &Agent) -> Result<()> {
    let listed = steer.json("sessions list")?;
    ensure!(listed["sessions"].as_array().is_some_and(Vec::is_empty), "{listed}");
    ensure!(
        steer.count(Counter::Learned)? == 0 && steer.count(Counter::KeyNameLearned)? == 0,
        "something was learned"
    );
    Ok(())
}

#[test]
fn a_flood_of_handshakes_without_a_certificate_teaches_nothing() -> Result<()> {
    in_settings(92, |setting| {
        for offer in [Offer::SessionId, Offer::Ticket12] {
            let nginx =
                nginx::Settings { tickets: offer == Offer::Ticket12, ..nginx::Settings::default() };
            let run = setting.scenario().nginx(nginx).start()?;
            let steer = run.agent()?;
            let flood = stranger(&run)?;
            for source in 0..N_SOURCES {
                flood.forget();
                ensure!(!shake(&run, &flood, &run.dial(source))?.resumed, "a full handshake");
            }
            ensure!(
                steer.count(Counter::SessionNoCertificate)? == N_SOURCES as u64,
                "each was seen for what it is"
            );
            knows_nothing(&steer)?;
            // Meanwhile those who have one are served as ever.
            let client = run.new_client_offering(offer)?;
            let moved = run.resume_elsewhere(&client)?;
            ensure!(moved.resumed && moved.server == "backend-0", "{moved:?}");
        }
        Ok(())
    })
}

/// However a client that has a certificate sends its hello: its second flight is found behind it.
#[test]
fn a_certificate_is_seen_behind_a_hello_of_any_form() -> Result<()> {
    in_settings(93, |setting| {
        let run = scenario(setting, "on").start()?;
        let steer = run.agent()?;
        let home = run.dial(run.source_of(0)?);
        let forms = [
            Dial { cuts: vec![3], ..home.clone() },
            Dial { cuts: vec![8, 60], ..home.clone() },
            Dial { record: Some(50), ..home.clone() },
            Dial { record: Some(60), cuts: vec![30, 100], ..home.clone() },
            Dial { mss: Some(200), ..home.clone() },
            Dial { mss: Some(88), ..home },
        ];
        for dial in forms {
            let before = steer.count(Counter::Learned)?;
            let handshake = shake(&run, &run.new_client()?, &dial)?;
            ensure!(
                steer.count(Counter::Learned)? == before + 1,
                "not learned: {dial:?}, {handshake:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_certificate_is_seen_in_bypass_and_observe_mode() -> Result<()> {
    in_settings(94, |setting| {
        for observe in [false, true] {
            let mode = if observe { "mode = \"observe\"" } else { "mode = \"steer\"" };
            let run = scenario(setting, "on").vip_setting(mode).start()?;
            let steer = run.agent()?;
            if !observe {
                steer.steer("bypass on")?;
            }
            shake(&run, &run.new_client()?, &run.dial(0))?;
            shake(&run, &stranger(&run)?, &run.dial(0))?;
            let counted =
                (steer.count(Counter::Learned)?, steer.count(Counter::SessionNoCertificate)?);
            ensure!(counted == (1, 1), "learned and not: {counted:?}, observe: {observe}");
        }
        Ok(())
    })
}

/// A known session that its server no longer has: a full handshake on a moved flow, whose hello was
/// decided early.
#[test]
fn a_certificate_is_seen_on_a_moved_flow() -> Result<()> {
    in_settings(95, |setting| {
        let run = setting.scenario().start()?;
        let steer = run.agent()?;
        let (client, away) = (run.new_client()?, run.dial(run.source_not_of(0)?));
        run.session_at(&client, 0)?;
        run.servers[0].stop()?;
        run.servers[0].restart(run.lab.backend(0))?;
        steer_tests::process::eventually(std::time::Duration::from_secs(5), || {
            let up =
                steer.backend(run.backend_address(0)).is_ok_and(|backend| backend["state"] == "up");
            up.then_some(())
        });
        let before = steer.count(Counter::Learned)?;
        let again = shake(&run, &client, &Dial { cuts: vec![80], ..away })?;
        ensure!(again.offered && !again.resumed && again.server == "backend-0", "{again:?}");
        ensure!(steer.count(Counter::SpliceOpened)? == 1, "it moved");
        ensure!(steer.count(Counter::Learned)? == before + 1, "what it was issued is learned");
        Ok(())
    })
}

#[test]
fn where_certificates_are_optional_a_setting_says_who_is_learned() -> Result<()> {
    in_settings(96, |setting| {
        for (line, learned) in
            [("learn_without_certificate = false", 0), ("learn_without_certificate = true", 1)]
        {
            let run = scenario(setting, "optional").vip_setting(line).start()?;
            let steer = run.agent()?;
            let client = stranger(&run)?;
            let (home, away) = (run.source_of(0)?, run.source_not_of(0)?);
            let before = steer.count(Counter::Learned)?;
            shake(&run, &client, &run.dial(home))?;
            ensure!(steer.count(Counter::Learned)? - before == learned, "{line}");
            ensure!(steer.count(Counter::SessionNoCertificate)? == 1 - learned, "{line}");
            let again = shake(&run, &client, &run.dial(away))?;
            ensure!(again.offered && again.resumed == (learned == 1), "{line}: {again:?}");
        }
        Ok(())
    })
}

/// The default of nginx: nobody is asked, and everybody's session is learned.
#[test]
fn where_no_certificate_is_asked_for_none_is_missed() -> Result<()> {
    in_settings(97, |setting| {
        let run = scenario(setting, "off").start()?;
        let steer = run.agent()?;
        let client = stranger(&run)?;
        shake(&run, &client, &run.dial(0))?;
        let counted = (steer.count(Counter::Learned)?, steer.count(Counter::SessionNoCertificate)?);
        ensure!(counted == (1, 0), "{counted:?}");
        Ok(())
    })
}
