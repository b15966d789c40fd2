//! How long a change of backends lasts, which is told, and what has it last longer: `--save` writes
//! it to the agent's configuration file.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{
    control,
    plane::PinDir,
    saving::{Change, Edit},
    show::note,
};

/// How long a change lasts.
#[derive(Clone, Copy)]
pub(super) enum Lasting {
    /// It stands in the file.
    Saved(Edit),
    /// Until the machine restarts, but it could stand in the file.
    Savable,
    /// Until the machine restarts.
    Shortly,
    /// It is what the file says.
    Always,
}

impl Lasting {
    pub(super) fn in_file(edit: Edit, save: bool) -> Self {
        if save { Self::Saved(edit) } else { Self::Savable }
    }

    /// Does what is to last, and says how long it does; returns what is told of the file. What
    /// cannot be saved is not done.
    pub(super) fn with(
        self,
        dir: &PinDir,
        socket: &Path,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<String> {
        let change = match self {
            Self::Saved(edit) => {
                let file = control::ask_config(dir, socket)?.files.own;
                Some(Change::of(dir, &file, edit).context("nothing was done")?)
            }
            Self::Savable | Self::Shortly | Self::Always => None,
        };
        work()?;
        let file = || match control::ask_config(dir, socket) {
            Ok(agent) => agent.files.own.display().to_string(),
            Err(_) => "the configuration file".to_owned(),
        };
        let until = "this lasts until the machine restarts";
        match self {
            Self::Savable => note(format_args!("{until}; --save writes it to {}", file())),
            Self::Shortly => note(format_args!("{until}: a file says nothing of it")),
            Self::Saved(_) | Self::Always => {}
        }
        let saved = change.map(Change::write).transpose();
        let saved = saved.context("it is done, and lasts until the machine restarts")?;
        Ok(saved.map_or(String::new(), |file| format!("; {} says so", file.display())))
    }
}
