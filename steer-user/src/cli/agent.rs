//! `steer agent`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Place;
use crate::{agent, config::Config};

/// Where the configuration is unless told otherwise.
const CONFIG: &str = "/etc/steer/steer.toml";

#[derive(Args, Debug)]
pub(super) struct Agent {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Start even where that destroys what tables hold: smaller sizes, numbers that sessions still name
    #[arg(long)]
    force: bool,
}

impl Agent {
    /// Runs until SIGTERM or SIGINT. What the command line says about the place wins over the file.
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let mut config = Config::load(&self.config)?;
        config.pin_dir = place.pin_dir.clone().unwrap_or(config.pin_dir);
        config.socket = place.socket.clone().unwrap_or(config.socket);
        config.socket = std::path::absolute(&config.socket).context("find the directory of the socket")?;
        // One thread: capabilities are given up for all of the process. What takes long has threads of its own.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
            let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
            let shutdown = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            agent::run(config, self.force, shutdown).await
        })
    }
}
