//! `cargo xtask bench`: figures, printed and never asserted on.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use steer_tests::{agent::Hook, bench, topology::Family};

/// Measures steer. Figures are medians of one run; on a shared machine only their ratios and differences tell.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What a re-home costs: resumptions that move against resumptions that stay, interleaved, beside the time of one
    /// SYN and SYN-ACK between gateway and backend.
    Rehome {
        /// Hook of the gateway's interfaces.
        #[arg(long, value_enum, default_value = "tc")]
        hook: HookName,
        /// Dial the IPv6 VIP.
        #[arg(long)]
        ipv6: bool,
        /// Pairs of resumptions.
        #[arg(long, value_name = "N", default_value_t = 500)]
        pairs: usize,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
    },
    /// What each kind of packet costs in both programs and families, above an empty program: one client's over and over,
    /// and random clients' with a million entries in each table.
    Packet {
        /// Leave the filled tables out.
        #[arg(long)]
        quick: bool,
        /// The programs built with the feature `bench`.
        #[arg(long, value_name = "FILE", env = "STEER_BENCH_OBJECT")]
        object: std::path::PathBuf,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
    },
    /// What it costs to read a hello in the kernel and to look up in vain what it offers, above an empty program.
    Parse {
        /// The programs built with the feature `bench`.
        #[arg(long, value_name = "FILE", env = "STEER_BENCH_OBJECT")]
        object: std::path::PathBuf,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum HookName {
    Tc,
    Xdp,
}

fn main() -> ExitCode {
    let measured = match Arguments::parse().what {
        What::Rehome { hook, ipv6, pairs, json } => {
            let hook = match hook {
                HookName::Tc => Hook::Tc,
                HookName::Xdp => Hook::Xdp,
            };
            bench::rehome(hook, if ipv6 { Family::V6 } else { Family::V4 }, pairs, json)
        }
        What::Packet { quick, object, json } => bench::packet(&object, quick, json),
        What::Parse { object, json } => bench::parse(&object, json),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
