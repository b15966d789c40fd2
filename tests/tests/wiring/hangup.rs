//! SIGHUP ends no agent: it says what the file would change.

use std::fs;

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use steer_tests::{
    agent::{Agent, Hook},
    scenario::Scenario,
    topology::Family,
};

use crate::logged;

fn hang_up(steer: &Agent<'_>) -> Result<()> {
    let process = steer.process_id().unwrap_or_default();
    kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGHUP)?;
    Ok(())
}

#[test]
fn sighup_says_what_a_restart_would_change_or_what_is_wrong_and_ends_nothing() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let good = fs::read_to_string(steer.config_path())?;
    hang_up(&steer)?;
    logged(&steer, "is good and changes nothing")?;

    let backend = run.backend_address(1);
    let other = good.replace(
        &format!("address = \"{backend}\"\n"),
        &format!("address = \"{backend}\"\nweight = 7\n"),
    );
    fs::write(steer.config_path(), other.replace("hook = \"tc\"", "hook = \"auto\""))?;
    hang_up(&steer)?;
    logged(
        &steer,
        &format!("VIP {}: backend {backend}: weight would be 7 instead of 1", run.vip()),
    )?;
    logged(&steer, "interface clients: hook would be auto instead of tc")?;
    logged(&steer, "4 differences, none applied")?;

    fs::write(steer.config_path(), good.replace("[[vip]]", "[[vips]]"))?;
    hang_up(&steer)?;
    logged(&steer, "is refused; the agent goes on with what it has")?;
    fs::remove_file(steer.config_path())?;
    for _ in 0..20 {
        hang_up(&steer)?;
    }
    ensure!(steer.json("status")?["agent"]["running"] == true);
    ensure!(steer.backend(backend)?["weight"] == 1, "nothing was applied");
    run.visit(&run.new_client()?, &run.dial(0)).map(drop)
}

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
