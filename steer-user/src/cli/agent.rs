//! `steer agent`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Place;
use crate::{
    agent::{self, Ended},
    config::{Config, differences},
};

/// Where the configuration is unless told otherwise.
const CONFIG: &str = "/etc/steer/steer.toml";
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
}

impl Agent {
    /// Runs until SIGTERM or SIGINT. What the command line says about the place wins over the file.
    pub(super) fn run(self, place: &Place) -> Result<ExitCode> {
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
            let config = self.load(place)?;
            let shutdown = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            tokio::select! {
                ended = agent::run(config.clone(), self.force, shutdown) => ended,
                never = self.hear(hangup, &config, place) => match never {},
            }
        })?;
        Ok(match ended {
            Ended::Asked => ExitCode::from(DETACHED),
            Ended::Shutdown => ExitCode::SUCCESS,
        })
    }

    fn load(&self, place: &Place) -> Result<Config> {
        let mut config = Config::load(&self.config)?;
        config.pin_dir = place.pin_dir.clone().unwrap_or(config.pin_dir);
        config.socket = place.socket.clone().unwrap_or(config.socket);
        config.socket =
            std::path::absolute(&config.socket).context("find the directory of the socket")?;
        Ok(config)
    }

    /// At each SIGHUP says what the file would change, for ever; nothing is applied.
    async fn hear(
        &self,
        mut hangup: Signal,
        applied: &Config,
        place: &Place,
    ) -> std::convert::Infallible {
        loop {
            if hangup.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            self.tell(applied, place);
        }
    }

    fn tell(&self, applied: &Config, place: &Place) {
        let file = self.config.display();
        let new = match self.load(place) {
            Ok(new) => new,
            Err(error) => {
                for line in format!("{error:#}").lines() {
                    log::error!("SIGHUP: {line}");
                }
                log::error!("SIGHUP: {file} is refused; the agent goes on with what it has");
                return;
            }
        };
        let differences = differences(applied, &new);
        for difference in &differences {
            log::warn!("SIGHUP: {difference}");
        }
        match differences.len() {
            0 => log::info!("SIGHUP: {file} is good and changes nothing"),
            n => log::warn!(
                "SIGHUP: {file} is good; {n} differences, none applied: restart the agent to apply them"
            ),
        }
    }
}
