//! What a gateway knows as a file.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    client::{Client, Offer},
    nginx,
    setting::in_settings,
};

use crate::error;

/// As after a reboot: nothing is pinned any more.
#[test]
fn sessions_and_key_names_that_were_exported_steer_a_gateway_that_knows_nothing() -> Result<()> {
    in_settings(77, |setting| {
        let issuing = nginx::Settings { tickets: true, ..nginx::Settings::default() };
        let scenario = setting.scenario().backends(2).nginx(issuing);
        let run = scenario.vip_setting("ticket_key_name = \"16@0\"").start()?;
        let mut steer = run.agent()?;
        let ticket = Client::offering(&run.pki, Offer::Ticket12)?;
        let session = run.new_client()?;
        run.session_at(&session, 0)?;
        run.session_at(&ticket, 0)?;
        let file = steer.config_path().with_file_name("sessions.jsonl");
        let name = file.display();
        let wrote = steer.json(&format!("sessions export {name}"))?;
        let known = &steer.json("sessions list")?["total"];
        ensure!(wrote["sessions"] == *known && *known != 0 && wrote["key_names"] != 0, "{wrote}");
        ensure!(fs::metadata(&file)?.mode() & 0o777 == 0o600);
        ensure!(error(steer.steer(&format!("sessions export {name}"))).contains("File exists"));
        steer.steer("detach")?;
        steer.launch()?;
        ensure!(steer.json("sessions list")?["total"] == 0);
        let took = steer.json(&format!("sessions import {name}"))?;
        let same = ["sessions", "key_names"].iter().all(|what| took[what] == wrote[what]);
        ensure!(same && took["elsewhere"] == 0, "{took}");
        for client in [&session, &ticket] {
            let elsewhere = run.visit(client, &run.dial(run.source_not_of(0)?))?;
            ensure!(elsewhere.resumed && elsewhere.server == "backend-0", "{elsewhere:?}");
        }
        ensure!(steer.count(Counter::SpliceOpened)? == 2);
        // All is known, of both it was heard since.
        let again = steer.json(&format!("sessions import {name}"))?;
        ensure!(again["known"].as_u64() >= Some(2), "{again}");
        let list = steer.json("sessions list")?["sessions"].clone();
        let used = list.as_array().into_iter().flatten().filter(|session| session["uses"] == 1);
        ensure!(used.count() == 2, "what is known better stays: {list}");
        let text = fs::read_to_string(&file)?;
        fs::write(&file, text.replace("\"id\":\"", "\"id\":\"x"))?;
        let refused = error(steer.steer(&format!("sessions import {name}")));
        ensure!(refused.contains("sessions.jsonl:2: id: expected"), "{refused}");
        Ok(())
    })
}
