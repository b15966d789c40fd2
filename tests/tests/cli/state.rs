//! What a gateway knows outlasts a reboot: nothing is pinned any more, and the file is there.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook},
    client::{Client, Offer},
    nginx,
    process::eventually,
    scenario::{Run, Scenario},
    setting::in_settings,
    topology::Family,
};
use steer_user::crash::{self, Step};

use crate::{TEN_SECONDS, two_backends};

/// Longer than the agent waits until it writes what changed.
const WRITTEN: Duration = Duration::from_secs(90);

/// Has the agent keep what it knows in a directory of its own.
fn keep(steer: &Agent<'_>) -> Result<PathBuf> {
    let file = steer.config_path().with_file_name("kept").join("state");
    steer.reload(|old| format!("state_file = {file:?}\n{old}"))?;
    Ok(file)
}

/// As after a reboot.
fn reboot(steer: &mut Agent<'_>) -> Result<()> {
    steer.steer("detach")?;
    steer.launch_with(&[])
}

fn names(file: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(file.parent().unwrap_or(file))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn resumes_at_its_owner(run: &Run, client: &Client) -> Result<()> {
    let elsewhere = run.visit(client, &run.dial(run.source_not_of(0)?))?;
    ensure!(elsewhere.resumed && elsewhere.server == "backend-0", "{elsewhere:?}");
    Ok(())
}

#[test]
fn after_a_reboot_sessions_key_names_drains_and_backends_of_the_command_line_are_there_again()
-> Result<()> {
    in_settings(78, |setting| {
        let issuing = nginx::Settings { tickets: true, ..nginx::Settings::default() };
        let scenario = setting.scenario().backends(2).nginx(issuing);
        let run = scenario.vip_setting("ticket_key_name = \"16@0\"").start()?;
        let mut steer = run.agent()?;
        let file = keep(&steer)?;
        let (session, ticket) = (run.new_client()?, Client::offering(&run.pki, Offer::Ticket12)?);
        run.session_at(&session, 0)?;
        run.session_at(&ticket, 0)?;
        let (drained, other) = (run.backend_address(0), run.backend_address(1));
        // Nobody serves there: it gets nothing.
        let added = SocketAddr::new(other.ip(), 8444);
        let vip = run.vip();
        for words in [
            format!("drain --for 1h {drained}"),
            format!("add --vip {vip} --weight 7 {other}"),
            format!("add --vip {vip} --weight 0 {added}"),
        ] {
            steer.steer(&format!("backends {words}"))?;
        }
        let known = ["sessions list", "keys list"].map(|list| steer.json(list));
        let [sessions, keys] = known.map(|list| list.unwrap_or_default());
        steer.end(Signal::SIGTERM)?;
        ensure!(names(&file)? == ["state"] && fs::metadata(&file)?.mode() & 0o777 == 0o600);
        reboot(&mut steer)?;
        let log = steer.log();
        ensure!(log.matches("ago: ").count() == 1, "{log}");
        let told =
            "1 drains and 2 other changes of backends are there again; left: 0 expired, 0 of";
        ensure!(log.contains(told), "{log}");
        ensure!(
            steer.json("sessions list")?["total"] == sessions["total"] && sessions["total"] != 0
        );
        let n_names = |keys: &Value| keys["names"].as_array().map(Vec::len);
        let keys_now = steer.json("keys list")?;
        ensure!(n_names(&keys_now) == n_names(&keys) && n_names(&keys) > Some(0), "{keys_now}");
        let drain = steer.backend(drained)?;
        let left = drain["drain_seconds"].as_u64();
        ensure!(
            drain["state"] == "draining" && (Some(3500)..=Some(3600)).contains(&left),
            "{drain}"
        );
        ensure!(steer.backend(other)?["weight"] == 7 && steer.backend(added)?["weight"] == 0);
        for client in [&session, &ticket] {
            resumes_at_its_owner(&run, client)?;
        }
        ensure!(steer.count(Counter::SpliceOpened)? == 2);
        // What the file says otherwise now is right, and the drain goes on.
        steer.end(Signal::SIGTERM)?;
        let line = format!("address = \"{other}\"");
        steer.rewrite(|old| old.replacen(&line, &format!("{line}\nweight = 3"), 1))?;
        reboot(&mut steer)?;
        ensure!(steer.backend(other)?["weight"] == 3, "{}", steer.log());
        ensure!(steer.backend(drained)?["state"] == "draining");
        ensure!(steer.log().contains("1 changes that the configuration overrules"));
        Ok(())
    })
}

/// A power failure, and first starts after it that die on their way.
#[test]
fn what_an_agent_wrote_that_was_killed_is_there_and_what_is_damaged_is_set_aside() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let mut steer = run.agent()?;
    let file = keep(&steer)?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    steer.steer(&format!("backends disable {}", run.backend_address(1)))?;
    let written = eventually(WRITTEN, || file.exists().then_some(()));
    ensure!(written.is_some(), "{}", steer.log());
    steer.end(Signal::SIGKILL)?;
    let left = file.with_file_name(".state.aBcDeF.new");
    fs::write(&left, "half")?;
    steer.steer("detach")?;
    for step in [Step::SettingsWritten, Step::TcAttached] {
        steer.launch_to_end(&[], &[(crash::VARIABLE, step.word())])?;
    }
    steer.launch_with(&[])?;
    ensure!(steer.backend(run.backend_address(1))?["state"] == "disabled", "{}", steer.log());
    steer.steer(&format!("backends enable {}", run.backend_address(1)))?;
    resumes_at_its_owner(&run, &client)?;
    ensure!(!left.exists(), "what the dead left is removed");
    steer.end(Signal::SIGTERM)?;
    let text = fs::read_to_string(&file)?;
    fs::write(&file, &text[..text.len() - 20])?;
    reboot(&mut steer)?;
    ensure!(steer.json("sessions list")?["total"] == 0);
    let [aside] = &names(&file)?[..] else { bail!("{:?}", names(&file)?) };
    ensure!(aside.starts_with("state.bad-20"), "{aside}");
    ensure!(steer.log().contains("nothing is known; it is "), "{}", steer.log());
    Ok(())
}

/// A gateway that is there knows better than a file.
#[test]
fn an_agent_that_finds_a_gateway_reads_no_file() -> Result<()> {
    let run = two_backends()?;
    let mut steer = run.agent()?;
    keep(&steer)?;
    run.session_at(&run.new_client()?, 0)?;
    steer.end(Signal::SIGTERM)?;
    steer.steer("sessions remove --all")?;
    steer.launch()?;
    ensure!(steer.json("sessions list")?["total"] == 0, "{}", steer.log());
    Ok(())
}

#[test]
fn a_file_that_cannot_be_written_is_a_warning_until_it_can() -> Result<()> {
    let run = two_backends()?;
    let mut steer = run.agent()?;
    let file = keep(&steer)?;
    steer.end(Signal::SIGTERM)?;
    let directory = file.parent().context("no directory")?;
    fs::remove_dir_all(directory)?;
    fs::write(directory, "in its place")?;
    reboot(&mut steer)?;
    let warned = || {
        let status = steer.json("status").ok()?;
        let mut warnings = status["warnings"].as_array()?.iter().map(Value::to_string);
        warnings.find(|warning| warning.contains("kept/state cannot be written: make "))
    };
    ensure!(eventually(TEN_SECONDS, warned).is_some(), "{}", steer.log());
    fs::remove_file(directory)?;
    let gone = eventually(WRITTEN, || warned().is_none().then_some(()));
    ensure!(gone.is_some() && file.exists(), "{}", steer.log());
    Ok(())
}
