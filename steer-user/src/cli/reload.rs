//! `steer reload`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Place;
use crate::{config, control, show};

#[derive(Args, Debug)]
pub(super) struct Reload {
    /// The file [default: the one that the agent was started with]
    file: Option<PathBuf>,
    /// Even where that destroys what tables hold: smaller sizes, numbers that sessions still name
    #[arg(long)]
    force: bool,
}

impl Reload {
    /// Returns when the configuration is in force.
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let dir = place.gateway()?;
        let file = self.file.map(|file| {
            let text = config::read_file(&file)?;
            anyhow::Ok((file, text))
        });
        let (file, changes) =
            control::ask_reload(&dir, &place.socket(), file.transpose()?, self.force)?;
        show::reloaded(place.format(), &file, &changes)
    }
}
