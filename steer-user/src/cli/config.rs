//! `steer config`: needs rights only to see a gateway that is pinned already.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use super::{Place, note};
use crate::{
    agent::{
        self,
        checks::{self, Kind, Machine},
        plan,
    },
    config,
    plane::{self, PinDir},
    show,
};

#[derive(Subcommand, Debug)]
pub(super) enum Config {
    /// Check a file and what a start with it would do here: an error names line, key and what was
    /// expected
    Check {
        /// The file
        file: PathBuf,
    },
}

impl Config {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let Config::Check { file } = self;
        let config = config::Config::load(&file)?;
        let judged = plan::judge(&config, &PinDir::new(&config.pin_dir));
        let judged =
            judged.with_context(|| format!("{}: a start would be refused", file.display()))?;
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
