//! `steer agent`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Place;
use crate::{
    agent::{self, Ended, Task, reload::Files},
    logging::LogFormat,
    supervisor::{Link, Start, listen, supervise},
};

/// Where the configuration is unless told otherwise.
pub(super) const CONFIG: &str = "/etc/steer/steer.toml";
/// Exit code of an agent that `steer detach` ended: nobody is to start it again
/// (`RestartPreventExitStatus` of the unit).
const DETACHED: u8 = 3;

#[derive(Args, Debug)]
pub(super) struct Agent {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Start even where that destroys what tables hold: smaller sizes, numbers that sessions still
    /// name
    #[arg(long)]
    force: bool,
    /// How lines of the log look; under systemd text goes to the journal with its levels
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
}

impl Agent {
    /// Runs until SIGTERM or SIGINT. What the command line says about the place wins over the file.
    pub(super) fn run(self, place: &Place) -> Result<ExitCode> {
        supervise(|link, start| self.work(place, link, start))
    }

    fn work(&self, place: &Place, link: Link, start: Start) -> Result<ExitCode> {
        // One thread: capabilities are given up for all of the process. What takes long has threads
        // of its own.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        let ended = runtime.block_on(async {
            let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
            let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
            let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
            listen()?;
            let shutdown = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            let files = Files {
                own: self.config.clone(),
                pin_dir: place.pin_dir.clone(),
                socket: place.socket.clone(),
            };
            agent::run(Task { files, force: self.force, start, link, hangup }, shutdown).await
        })?;
        Ok(match ended {
            Ended::Asked => ExitCode::from(DETACHED),
            Ended::Shutdown | Ended::Reload => ExitCode::SUCCESS,
        })
    }
}
