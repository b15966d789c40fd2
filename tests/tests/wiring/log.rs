//! What an auditor finds in the log.

use std::fs;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
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
