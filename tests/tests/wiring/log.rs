//! What an auditor finds in the log.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use steer_tests::{agent::Hook, scenario::Scenario, topology::Family};

use crate::logged;

/// What an auditor asks: which version runs with which file, what a restart changed, and who asked
/// for what.
#[test]
fn the_log_says_what_a_restart_changed_and_who_asked_for_what() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let mut steer = run.agent()?;
    let (backend, vip, file) = (run.backend_address(1), run.vip(), steer.config_path());
    let (version, pins) = (env!("CARGO_PKG_VERSION"), steer.pin_dir().display());
    logged(&steer, &format!("steer {version} starts with {} for {pins}", file.display()))?;

    steer.steer(&format!("backends drain {backend}"))?;
    let asked =
        format!(r#"asked {{"verb":"drain-backend","address":"{backend}","seconds":null}}: done"#);
    logged(&steer, &asked)?;
    logged(&steer, "user 0 (process ")?;
    ensure!(steer.steer("backends remove 10.99.99.99:443").is_err());
    logged(&steer, r#""address":"10.99.99.99:443"}: refused: "#)?;

    steer.steer(&format!("backends undrain {backend}"))?;
    steer.end(Signal::SIGTERM)?;
    let text = fs::read_to_string(&file)?;
    fs::write(
        &file,
        text.replace(
            &format!("address = \"{backend}\"\n"),
            &format!("address = \"{backend}\"\nweight = 7\n"),
        ),
    )?;
    let change = format!("the backend {backend} of {vip} has the weight 7; it was 1");
    let check = steer.command(&format!("config check {}", file.display())).output()?;
    let told = String::from_utf8(check.stderr)?;
    ensure!(
        check.status.success() && told.contains(&format!("a start would change: {change}")),
        "{told}"
    );
    steer.launch()?;
    logged(&steer, &change)
}

/// What programs read: each line is an object of its own, also where a text has several lines.
#[test]
fn with_log_format_json_every_line_is_an_object_with_time_level_target_and_message() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let mut steer = run.agent()?;
    steer.end(Signal::SIGTERM)?;
    steer.launch_with(&["--log-format", "json"])?;
    let backend = run.backend_address(1);
    steer.steer(&format!("backends drain {backend}"))?;
    logged(&steer, "drain-backend")?;
    let lines = steer.log();
    ensure!(lines.lines().count() > 3, "{lines}");
    for line in lines.lines() {
        let said = serde_json::from_str::<Value>(line).with_context(|| line.to_owned())?;
        let keys = ["time", "level", "target", "message"];
        ensure!(keys.iter().all(|key| said[key].is_string()), "{line}");
        let time = said["time"].as_str().unwrap_or_default();
        ensure!(time.len() == 24 && time.ends_with('Z'), "{time}");
    }
    Ok(())
}

#[test]
fn what_ends_an_agent_is_told_in_the_form_of_its_log() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let words = "agent --log-format json --config /nowhere/steer.toml";
    let ended = run.lab.gateway().run(|| Ok(steer.command(words).output()?))?;
    let told = String::from_utf8(ended.stderr)?;
    let said = serde_json::from_str::<Value>(&told).with_context(|| told.clone())?;
    ensure!(said["level"] == "error" && told.contains("/nowhere/steer.toml"), "{told}");
    Ok(())
}

/// systemd says by JOURNAL_STREAM which file the journal reads; a file of that name only is one.
#[test]
fn the_journal_gets_levels_in_its_own_way_and_nobody_else_does() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let mut steer = run.agent()?;
    steer.end(Signal::SIGTERM)?;
    let words = |of: &str| format!("JOURNAL_STREAM={of} exec \"$0\" \"$@\"");
    steer.launch_by(&["sh", "-c", &words("$(stat -L -c %d:%i /proc/self/fd/2)")])?;
    logged(&steer, "<6>steer_user::agent::start: steer ")?;
    ensure!(steer.log().lines().all(|line| line.starts_with('<')), "{}", steer.log());
    steer.end(Signal::SIGTERM)?;
    steer.launch_by(&["sh", "-c", &words("1:2")])?;
    logged(&steer, " INFO  steer_user::agent::start] steer ")?;
    ensure!(!steer.log().contains("<6>"), "{}", steer.log());
    Ok(())
}
