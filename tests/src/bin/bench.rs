//! `cargo xtask bench`: figures, printed and never asserted on.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use steer_tests::{
    agent::{Hook, Shape},
    bench,
    topology::Family,
};

/// Measures steer. Figures are medians of one run; on a shared machine only their ratios and
/// differences tell.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What a re-home costs: resumptions that move against resumptions that stay, interleaved,
    /// beside the time of one SYN and SYN-ACK between gateway and backend.
    Rehome {
        /// Hook of the gateway's interfaces.
        #[arg(long, value_enum, default_value = "tc")]
        hook: Hook,
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
    /// Packets a second on one core, on live frames: steer's XDP program beside bare XDP and kernel
    /// forwarding.
    Live {
        /// The programs built with the feature `bench`.
        #[arg(long, value_name = "FILE", env = "STEER_BENCH_OBJECT")]
        object: PathBuf,
        /// Frames of IPv6.
        #[arg(long)]
        ipv6: bool,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
        /// Write the page `live.md` and its plots there.
        #[arg(long, value_name = "DIR")]
        record: Option<PathBuf>,
    },
    /// Memory of tables, and how agent, command line, look-ups and learning fare as they grow to
    /// eight million sessions.
    Scale {
        /// The programs built with the feature `bench`.
        #[arg(long, value_name = "FILE", env = "STEER_BENCH_OBJECT")]
        object: PathBuf,
        /// Tables of a quarter of a million at most: whether all of it works, in less than a
        /// minute.
        #[arg(long)]
        quick: bool,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
        /// Write the page `scale.md` and its plots there.
        #[arg(long, value_name = "DIR")]
        record: Option<PathBuf>,
    },
    /// What each kind of packet costs in both programs and families, above an empty program: one
    /// client's over and over, and random clients' with a million entries in each table.
    Packet {
        /// Leave the filled tables out.
        #[arg(long)]
        quick: bool,
        /// Whose packets: of VIPs, of inline pools, or at the ports of a bridge.
        #[arg(long, value_enum, default_value = "gateway")]
        shape: Shape,
        /// The programs built with the feature `bench`.
        #[arg(long, value_name = "FILE", env = "STEER_BENCH_OBJECT")]
        object: PathBuf,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
        /// Write the page `packet.md` and its plots there.
        #[arg(long, value_name = "DIR")]
        record: Option<PathBuf>,
    },
    /// What clients see through each way to the servers: direct, nft DNAT, HAProxy, steer; takes
    /// four minutes.
    E2e {
        /// A minute only: too short for figures to be trusted.
        #[arg(long)]
        quick: bool,
        /// Write the page and its plots to this directory: docs/bench.
        #[arg(long, value_name = "DIR")]
        record: Option<std::path::PathBuf>,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
    },
    /// What it costs to read a hello in the kernel and to look up in vain what it offers, above an
    /// empty program.
    Parse {
        /// The programs built with the feature `bench`.
        #[arg(long, value_name = "FILE", env = "STEER_BENCH_OBJECT")]
        object: PathBuf,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let measured = match Arguments::parse().what {
        What::Rehome { hook, ipv6, pairs, json } => bench::rehome(hook, family(ipv6), pairs, json),
        What::E2e { quick, record, json } => bench::e2e(&bench::EndToEnd { json, record, quick }),
        What::Live { object, ipv6, json, record } => {
            bench::live(&object, family(ipv6), json, record.as_deref())
        }
        What::Scale { object, quick, json, record } => {
            bench::scale(&object, quick, json, record.as_deref())
        }
        What::Packet { quick, shape, object, json, record } => {
            bench::packet(&object, quick, shape, json, record.as_deref())
        }
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

fn family(ipv6: bool) -> Family {
    if ipv6 { Family::V6 } else { Family::V4 }
}
