//! `cargo xtask verify`: loads both programs into the running kernel and tells what its verifier counted.

use std::process::ExitCode;

use anyhow::{Context, Result};
use steer_tests::programs::Loaded;
use steer_user::config::Sizes;

/// Lines of the verifier's log that are shown: the last ones say why.
const LOG_TAIL: usize = 60;

fn main() -> ExitCode {
    match verify() {
        Ok(lines) => {
            println!("{lines}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("verify: {}", tail(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// `program TAB kernel TAB instructions`, a line a program.
fn verify() -> Result<String> {
    let kernel = kernel()?;
    let counts = Loaded::load(&Sizes::default())?.verified_instructions()?;
    Ok(counts.map(|(program, count)| format!("{program}\t{kernel}\t{count}")).join("\n"))
}

/// The running kernel's version without its patch level: `6.1`.
fn kernel() -> Result<String> {
    let release = nix::sys::utsname::uname().context("ask for the kernel's version")?;
    let release = release.release().to_string_lossy().into_owned();
    Ok(release.splitn(3, '.').take(2).collect::<Vec<_>>().join("."))
}

fn tail(text: &str) -> String {
    let lines = text.lines().collect::<Vec<_>>();
    let from = lines.len().saturating_sub(LOG_TAIL);
    lines[from..].join("\n")
}
