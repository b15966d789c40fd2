//! `steer doctor`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::Place;
use crate::{config, doctor, plane::PinDir, show};

/// Where a package's unit file has it.
pub(super) const CONFIG: &str = "/etc/steer/steer.toml";

#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// The configuration that the gateway has or is to have
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

impl Doctor {
    /// Tells what was found; the exit code is as that of `steer status`.
    pub(super) fn run(self, place: &Place) -> Result<ExitCode> {
        let dir = match &place.pin_dir {
            Some(_) => place.dir(),
            // A file that cannot be read is a finding.
            None => config::Config::load(&self.config)
                .map_or_else(|_| place.dir(), |config| PinDir::new(config.pin_dir)),
        };
        let socket = place.socket.clone().or_else(|| dir.socket());
        let socket = socket.unwrap_or_else(|| config::SOCKET.into());
        let diagnosis = doctor::examine(&self.config, &dir, &socket)?;
        show::diagnosis(place.format(), &diagnosis)?;
        Ok(diagnosis.state.exit_code().into())
    }
}
