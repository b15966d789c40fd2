//! `cargo xtask soak`: mixed traffic for minutes, chaos every few seconds, and what is left of it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use steer_tests::{
    agent::Hook,
    soak::{self, Options},
    topology::Family,
};

/// Exit code 0 only if no byte was wrong, no session was lost, no connection failed without a
/// reason, and tables and memory are as they were.
#[derive(Parser)]
#[command(name = "soak")]
struct Arguments {
    /// How long traffic and chaos go on; the account takes up to four minutes more.
    #[arg(long, value_name = "N", default_value_t = 20.0)]
    minutes: f64,
    /// Hook of the gateway's interfaces.
    #[arg(long, value_enum, default_value = "tc")]
    hook: Hook,
    /// Dial the IPv6 VIP.
    #[arg(long)]
    ipv6: bool,
    /// Write the page `soak_HOOK_FAMILY.md` and its plot into this directory.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

fn main() -> ExitCode {
    match soak::run(&options(Arguments::parse())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("soak: a goal was missed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: Arguments) -> Options {
    let Arguments { minutes, hook, ipv6, record } = arguments;
    let ipv6_word = if ipv6 { " --ipv6" } else { "" };
    let command = format!(
        "cargo xtask soak --minutes {minutes} --hook {}{ipv6_word} --record docs/bench",
        hook.word()
    );
    let family = if ipv6 { Family::V6 } else { Family::V4 };
    Options { time: Duration::from_secs_f64(minutes * 60.0), hook, family, record, command }
}
