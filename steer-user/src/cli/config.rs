//! `steer config`: needs rights only to see a gateway that is pinned already.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Subcommand;

use super::{Place, note};
use crate::{
    agent::{
        self,
        checks::{self, Kind, Machine},
        plan,
        reload::Given,
    },
    config::{self, Effective},
    control::{self, InForce},
    plane::{self, PinDir},
    show,
};

/// Exit code of `config diff` where something differs, as of diff(1).
const DIFFERENT: u8 = 1;
/// Exit code of `config diff` where that cannot be told.
const TROUBLE: u8 = 2;

#[derive(Subcommand, Debug)]
pub(super) enum Config {
    /// Check a file and what a start with it would do here: every error names line, key and what
    /// was expected
    Check {
        /// The file
        file: PathBuf,
    },
    /// Show a configuration with every default filled in
    Show {
        /// The file [default: what the agent has in force]
        file: Option<PathBuf>,
    },
    /// Show what a reload of a file would change
    ///
    /// Exit code 0: nothing; 1: something; 2: it cannot be told (no agent, or the file is wrong).
    Diff {
        /// The file [default: the one that the agent was started with]
        file: Option<PathBuf>,
    },
}

impl Config {
    pub(super) fn run(self, place: &Place) -> Result<ExitCode> {
        let done = match self {
            Config::Check { file } => check(&file, place),
            Config::Show { file } => show(file, place),
            Config::Diff { file } => {
                return Ok(diff(file, place).unwrap_or_else(|error| {
                    show::error(&error);
                    TROUBLE.into()
                }));
            }
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

fn show(file: Option<PathBuf>, place: &Place) -> Result<()> {
    let config = match file {
        Some(file) => config::Config::load(&file)?,
        None => {
            let InForce { given, files } = in_force(place)?;
            files.config(&given)?
        }
    };
    show::configuration(place.format(), &Effective::of(&config))
}

fn diff(file: Option<PathBuf>, place: &Place) -> Result<ExitCode> {
    let InForce { given, files } = in_force(place)?;
    let file = file.unwrap_or_else(|| files.own.clone());
    let new = Given { text: config::read_file(&file)?, file };
    let differences = config::differences(&files.config(&given)?, &files.config(&new)?);
    let code = if differences.is_empty() { 0 } else { DIFFERENT };
    show::differences(place.format(), &new.file, &differences)?;
    Ok(code.into())
}

fn in_force(place: &Place) -> Result<InForce> {
    control::ask_config(&place.gateway()?, &place.socket())
}

fn check(file: &Path, place: &Place) -> Result<()> {
    let config = config::Config::load(file)?;
    let judged = plan::judge(&config, &PinDir::new(&config.pin_dir));
    let judged = judged.with_context(|| format!("{}: a start would be refused", file.display()))?;
    for change in &judged.changes {
        note(format_args!("a start would change: {change}"));
    }
    for need in &judged.needs {
        note(need);
    }
    let here = not_forwarding(&config).chain(refused_interfaces(&config)?);
    let here = here.chain(netfilter(&config)?);
    for warning in judged.warnings.into_iter().chain(here) {
        note(format_args!("warning: {warning}"));
    }
    for lost in &judged.destroys {
        note(format_args!("warning: a start needs --force, for it would destroy {lost}"));
    }
    let (interfaces, counts) = (config.interfaces.len(), config.counts());
    let bridges = match config.bridges.len() {
        0 => String::new(),
        n => format!("bridges {n}, "),
    };
    let file = file.display();
    let done = format!("{file}: good (interfaces {interfaces}, {bridges}{counts})");
    show::outcome(place.format(), done)
}

/// Settings of this machine without which nothing reaches the backends of inline pools, as warnings:
/// the kernel forwards for them what steer does not.
fn not_forwarding(config: &config::Config) -> impl Iterator<Item = String> + use<> {
    let routed = |pool: &&config::Pool| pool.inline().is_some_and(|inline| !inline.bridged);
    let inline = config.pools.iter().filter(routed);
    let backends = inline.flat_map(|pool| &pool.backends);
    let machine = Machine {
        interfaces: config.interfaces.iter().map(|interface| interface.name.clone()).collect(),
        both_sides: Vec::new(),
        addresses: backends.map(|backend| backend.address.ip()).collect(),
    };
    let warnings = checks::machine(&machine).into_iter();
    warnings.filter(|warning| warning.kind == Kind::Forwarding).map(|warning| warning.text)
}

/// What of the packet filter of this machine meets what passes its bridges, as warnings.
fn netfilter(config: &config::Config) -> Result<Vec<String>> {
    if config.bridges.is_empty() {
        return Ok(Vec::new());
    }
    let members = config.bridged().flat_map(|pool| &pool.backends);
    let members = members.map(|backend| backend.address.ip()).collect::<Vec<_>>();
    let found = checks::netfilter(&config.bridges, &plane::link_messages()?, &members);
    Ok(found.into_iter().map(|warning| warning.text).collect())
}

/// Interfaces of this machine that would have it refuse a start, as warnings.
fn refused_interfaces(config: &config::Config) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    Ok(match runtime.block_on(agent::refusals(config)) {
        Ok(refusals) => {
            refusals.iter().map(|why| plan::refused_here(format_args!("{why}"))).collect()
        }
        Err(error) => vec![plan::refused_here(format_args!("{error:#}"))],
    })
}
