//! `steer config`: needs no rights.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::Place;
use crate::{config, show};

#[derive(Subcommand, Debug)]
pub(super) enum Config {
    /// Check a file: an error names line, key and what was expected
    Check {
        /// The file
        file: PathBuf,
    },
}

impl Config {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let Config::Check { file } = self;
        let config = config::Config::load(&file)?;
        let backends = config.vips.iter().map(|vip| vip.backends.len()).sum::<usize>();
        let (interfaces, vips) = (config.interfaces.len(), config.vips.len());
        let done = format!("{}: good (interfaces {interfaces}, VIPs {vips}, backends {backends})", file.display());
        show::outcome(place.format(), done)
    }
}
