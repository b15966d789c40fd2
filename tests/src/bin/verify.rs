//! `cargo xtask verify`: loads both programs into the running kernel and tells what its verifier
//! counted.

use std::process::ExitCode;

use anyhow::Result;
use steer_tests::programs::Loaded;
use steer_user::{config::Sizes, plane::kernel::Kernel};

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

/// `program TAB kernel TAB instructions`, a line a program; the kernel by its whole number:
/// `6.1.176`.
fn verify() -> Result<String> {
    let kernel = Kernel::running();
    kernel.require()?;
    let number = kernel.number()?.map(|number| number.to_string()).join(".");
    // With the cache of settled flows: without one the verifier walks less.
    let counts =
        Loaded::load(&Sizes { fast: 1024, ..Sizes::default() })?.verified_instructions()?;
    Ok(counts.map(|(program, count)| format!("{program}\t{number}\t{count}")).join("\n"))
}

fn tail(text: &str) -> String {
    let lines = text.lines().collect::<Vec<_>>();
    let from = lines.len().saturating_sub(LOG_TAIL);
    lines[from..].join("\n")
}
