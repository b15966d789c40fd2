//! `cargo xtask verify`: loads the programs into the running kernel and into others, and holds the
//! verifier's count to what is recorded; in the others the agent also works, with real servers.
//!
//! Programs of the tests package do the work: `verify` loads and prints `program TAB kernel TAB
//! instructions`, `live` does the rest.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{ValueEnum, builder::PossibleValue};

use crate::{
    budget::Counts,
    build::{self, Profile},
    command, rights,
    setup::{
        self, Job,
        kernels::{Kernel, Series},
    },
    tree::Tree,
    vm::{Guest, Outcome},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to load them, as often as wanted; the running kernel, 6.1 and 6.12 if not given.
    #[arg(long, value_enum)]
    kernel: Vec<Target>,
    /// Record the counts as the new budget.
    #[arg(long)]
    record: bool,
    /// Run this shell command line in the kernel instead (6.1 unless another is named), where
    /// `verify`, `live` and `steer` lie in /steer.
    #[arg(long, value_name = "COMMAND", conflicts_with = "record")]
    shell: Option<String>,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
    /// Options for the program `verify`.
    #[arg(last = true, value_name = "VERIFY ARGUMENTS")]
    forwarded: Vec<String>,
}

/// A kernel to load the programs into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Running,
    Booted(Series),
}

impl Target {
    /// What CI runs. The newest kernel changes by the week, so that it is tried by hand.
    const DEFAULT: [Self; 3] =
        [Self::Running, Self::Booted(Series::Debian12), Self::Booted(Series::Debian13)];

    fn series(self) -> Option<Series> {
        match self {
            Self::Running => None,
            Self::Booted(series) => Some(series),
        }
    }
}

impl ValueEnum for Target {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Running,
            Self::Booted(Series::Debian12),
            Self::Booted(Series::Debian13),
            Self::Booted(Series::Newest),
            Self::Booted(Series::TooOld),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Running => Some(PossibleValue::new("running").help("The one that runs this")),
            Self::Booted(series) => series.to_possible_value(),
        }
    }
}

/// A kernel boots in seconds and does the rest in minutes, emulated.
const TIMEOUT: Duration = Duration::from_secs(900);

/// What links, hooks and disturbances in the guest need.
const MODULES: [&str; 19] = [
    "veth",
    "dummy",
    "8021q",
    "bridge",
    "bonding",
    "macvlan",
    "virtio_pci",
    "virtio_net",
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

/// Pairs of NICs: one towards the clients, one to each of two backends.
const WIRES: u8 = 3;

/// Tools in the guest beside busybox.
const PROGRAMS: [&str; 8] =
    ["ip", "tc", "ethtool", "nft", "bpftool", "setpriv", "openssl", "nginx"];

/// Configuration that openssl does not start without.
const FILES: [&str; 1] = ["/usr/lib/ssl/openssl.cnf"];

/// What a kernel that is too old must be told, by `verify` and by the agent.
const REFUSAL: &str = "Linux 5.10 is too old: steer needs 6.1 or newer";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let targets = chosen(arguments)?;
    if targets.contains(&Target::Running) {
        rights::require("verify")?;
    }
    let booted: Vec<Series> = targets.iter().filter_map(|target| target.series()).collect();
    let tree = Tree::find()?;
    let job = if booted.is_empty() { Job::Build } else { Job::Verify };
    setup::ensure_with_kernels(&tree, job, &booted, arguments.no_install)?;
    if let Some(shell) = &arguments.shell {
        return booted.iter().try_for_each(|series| in_guest(&tree, *series, shell).map(drop));
    }
    let mut counts = Counts::default();
    for target in targets {
        let counted = match target {
            Target::Running => in_running_kernel(&tree, &arguments.forwarded)?,
            Target::Booted(Series::TooOld) => refused(&tree)?,
            Target::Booted(series) => in_guest(
                &tree,
                series,
                &format!("/steer/verify {} && /steer/live", quoted(&arguments.forwarded)),
            )?,
        };
        ensure!(
            target == Target::Booted(Series::TooOld) || !counted.is_empty(),
            "no program was loaded"
        );
        counts.extend(counted);
    }
    counts.judge(&if arguments.record { Counts::default() } else { Counts::recorded(&tree)? })?;
    if arguments.record { counts.record(&tree) } else { Ok(()) }
}

/// The kernels that are asked for, each once.
fn chosen(arguments: &Arguments) -> Result<Vec<Target>> {
    let asked: &[Target] = match (&arguments.shell, &arguments.kernel[..]) {
        (None, []) => &Target::DEFAULT,
        (Some(_), []) => &[Target::Booted(Series::Debian12)],
        (_, asked) => asked,
    };
    ensure!(
        arguments.shell.is_none() || !asked.contains(&Target::Running),
        "--shell runs a command line in a kernel that is booted for it, not in the running one"
    );
    let mut targets = Vec::new();
    for target in asked {
        if !targets.contains(target) {
            targets.push(*target);
        }
    }
    Ok(targets)
}

/// Loads in the kernels that CI asks for, and compares.
pub(crate) fn all_defaults() -> Result<()> {
    run(&Arguments {
        kernel: Vec::new(),
        record: false,
        shell: None,
        no_install: false,
        forwarded: Vec::new(),
    })
}

fn in_running_kernel(tree: &Tree, forwarded: &[String]) -> Result<Counts> {
    let mut verify = tree.cargo(&["run", "--package", "steer-tests", "--bin", "verify", "--"]);
    let text = command::stdout_of(verify.args(forwarded))
        .context("load the programs into the running kernel")?;
    let mut counts = Counts::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if !counts.take(line) {
            eprintln!("{line}");
        }
    }
    Ok(counts)
}

/// Boots a kernel that is too old: `verify` and the agent must both say so, and what steer needs.
fn refused(tree: &Tree) -> Result<Counts> {
    let command =
        "/steer/verify; /steer/steer agent --config /steer/steer.toml; ls /sys/fs/bpf; true";
    let outcome = boot(tree, Series::TooOld, command)?;
    let told = outcome.lines.iter().filter(|line| line.ends_with(REFUSAL)).count();
    ensure!(
        told == 2 && outcome.lines.len() == 2,
        "in a kernel that is too old `verify` and the agent must say \"{REFUSAL}\" and nothing else, see above"
    );
    Ok(Counts::default())
}

/// Runs a command in a kernel, which must succeed, and returns what it counted.
fn in_guest(tree: &Tree, series: Series, command: &str) -> Result<Counts> {
    let outcome = boot(tree, series, command)?;
    let word = series.word();
    ensure!(
        outcome.code == 0,
        "the command failed in the kernel {word} (exit code {}), see above",
        outcome.code
    );
    let mut counts = Counts::default();
    for line in &outcome.lines {
        counts.take(line);
    }
    Ok(counts)
}

fn boot(tree: &Tree, series: Series, command: &str) -> Result<Outcome> {
    let kernel = Kernel::find(tree, series)?;
    let verify = build::program(tree, Profile::Debug, "steer-tests", "verify")?;
    let live = build::program(tree, Profile::Debug, "steer-tests", "live")?;
    let steer = build::steer(tree, Profile::Debug)?;
    let mut files: Vec<_> =
        FILES.iter().map(|file| (PathBuf::from(file), PathBuf::from(file))).collect();
    files.push((tree.root().join("deploy/steer.toml"), PathBuf::from("/steer/steer.toml")));
    let mut guest = Guest {
        name: format!("verify-{}", series.word()),
        programs: vec![
            (verify, PathBuf::from("/steer/verify")),
            (live, PathBuf::from("/steer/live")),
            (steer, PathBuf::from("/steer/steer")),
        ],
        files,
        modules: MODULES.to_vec(),
        wires: WIRES,
        command: command.to_owned(),
        timeout: TIMEOUT,
    };
    for program in PROGRAMS {
        guest.add_program(program)?;
    }
    let start = Instant::now();
    let outcome = guest.run(tree, &kernel);
    eprintln!("verify: the kernel {} took {} s", series.word(), start.elapsed().as_secs());
    outcome
}

/// Writes arguments so that a shell reads them back unchanged.
fn quoted(arguments: &[String]) -> String {
    let quoted = arguments.iter().map(|argument| format!("'{}'", argument.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}
