//! `cargo xtask verify`: loads the programs into the running kernel and into 6.1, and holds the verifier's count to what
//! is recorded; in 6.1 also one re-home with real servers.
//!
//! Programs of the tests package do the work: `verify` loads and prints `program TAB kernel TAB instructions`, `live`
//! re-homes.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::{
    budget::Counts,
    build::{self, Profile},
    command, rights,
    setup::{self, Job, unpacked::Kernel},
    tree::Tree,
    vm::Guest,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to load them; both if not given.
    #[arg(long, value_enum)]
    kernel: Option<Target>,
    /// Record the counts as the new budget.
    #[arg(long)]
    record: bool,
    /// Run this shell command line in the 6.1 kernel instead, where `verify`, `live` and `steer` lie in /steer.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["kernel", "record"])]
    shell: Option<String>,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
    /// Options for the program `verify`.
    #[arg(last = true, value_name = "VERIFY ARGUMENTS")]
    forwarded: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    Running,
    #[value(name = "6.1")]
    Debian61,
}

/// The 6.1 kernel boots in seconds and loads in tens of them, emulated.
const TIMEOUT: Duration = Duration::from_secs(300);

/// What links, hooks and disturbances in the guest need.
const MODULES: [&str; 15] = [
    "veth",
    "dummy",
    "8021q",
    "bridge",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "sch_netem",
    "tcp_diag",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_ct",
    "nft_hash",
    "nft_numgen",
];

/// Tools in the guest beside busybox.
const PROGRAMS: [&str; 8] = ["ip", "tc", "ethtool", "nft", "bpftool", "setpriv", "openssl", "nginx"];

/// Configuration that openssl does not start without.
const FILES: [&str; 1] = ["/usr/lib/ssl/openssl.cnf"];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let running = arguments.shell.is_none() && arguments.kernel != Some(Target::Debian61);
    if running {
        rights::require("verify")?;
    }
    let tree = Tree::find()?;
    let job = if arguments.kernel == Some(Target::Running) { Job::Build } else { Job::Verify };
    setup::ensure(&tree, job, arguments.no_install)?;
    if let Some(shell) = &arguments.shell {
        return in_guest(&tree, shell).map(drop);
    }
    let mut counts = Counts::default();
    if running {
        counts.extend(in_running_kernel(&tree, &arguments.forwarded)?);
    }
    if arguments.kernel != Some(Target::Running) {
        counts.extend(in_guest(&tree, &format!("/steer/verify {} && /steer/live", quoted(&arguments.forwarded)))?);
    }
    ensure!(!counts.is_empty(), "no program was loaded");
    counts.judge(&if arguments.record { Counts::default() } else { Counts::recorded(&tree)? })?;
    if arguments.record { counts.record(&tree) } else { Ok(()) }
}

/// Loads in both kernels and compares, as CI does.
pub(crate) fn all_defaults() -> Result<()> {
    run(&Arguments { kernel: None, record: false, shell: None, no_install: false, forwarded: Vec::new() })
}

fn in_running_kernel(tree: &Tree, forwarded: &[String]) -> Result<Counts> {
    let mut verify = tree.cargo(&["run", "--package", "steer-tests", "--bin", "verify", "--"]);
    let text = command::stdout_of(verify.args(forwarded)).context("load the programs into the running kernel")?;
    let mut counts = Counts::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if !counts.take(line) {
            eprintln!("{line}");
        }
    }
    Ok(counts)
}

fn in_guest(tree: &Tree, command: &str) -> Result<Counts> {
    let kernel = Kernel::find(tree)?;
    let verify = build::program(tree, Profile::Debug, "steer-tests", "verify")?;
    let live = build::program(tree, Profile::Debug, "steer-tests", "live")?;
    let steer = build::steer(tree, Profile::Debug)?;
    let mut guest = Guest {
        name: "verify".to_owned(),
        programs: vec![
            (verify, PathBuf::from("/steer/verify")),
            (live, PathBuf::from("/steer/live")),
            (steer, PathBuf::from("/steer/steer")),
        ],
        files: FILES.iter().map(|file| (PathBuf::from(file), PathBuf::from(file))).collect(),
        modules: MODULES.to_vec(),
        command: command.to_owned(),
        timeout: TIMEOUT,
    };
    for program in PROGRAMS {
        guest.add_program(program)?;
    }
    let outcome = guest.run(tree, &kernel)?;
    ensure!(outcome.code == 0, "the command failed in the 6.1 kernel (exit code {}), see above", outcome.code);
    let mut counts = Counts::default();
    for line in &outcome.lines {
        counts.take(line);
    }
    Ok(counts)
}

/// Writes arguments so that a shell reads them back unchanged.
fn quoted(arguments: &[String]) -> String {
    let quoted = arguments.iter().map(|argument| format!("'{}'", argument.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}
