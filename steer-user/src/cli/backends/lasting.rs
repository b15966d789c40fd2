//! How long a change of backends lasts, which is told, and what has it last longer: `--save` writes
//! it to the agent's configuration file.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{
    control::{self, InForce},
    plane::PinDir,
    saving::{Change, Edit},
    show::note,
};

/// How long a change lasts.
#[derive(Clone, Copy)]
pub(super) enum Lasting {
    /// It stands in the file.
    Saved(Edit),
    /// Until the machine restarts, or longer by `state_file`, but it could stand in the file.
    Savable,
    /// Until the machine restarts, or longer by `state_file`.
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
        match self {
            Self::Savable | Self::Shortly => {
                note(self.how_long(control::ask_config(dir, socket).ok()))
            }
            Self::Saved(_) | Self::Always => {}
        }
        let saved = change.map(Change::write).transpose();
        let saved = saved.context("it is done, but not saved")?;
        Ok(saved.map_or(String::new(), |file| format!("; {} says so", file.display())))
    }

    fn how_long(self, agent: Option<InForce>) -> String {
        let state = agent
            .as_ref()
            .and_then(|InForce { given, files }| files.config(given).ok()?.state_file);
        let until = match state {
            Some(state) => format!("{} has this outlast a restart of the machine", state.display()),
            None => "this lasts until the machine restarts".to_owned(),
        };
        let Self::Savable = self else {
            return format!("{until}: the configuration says nothing of it");
        };
        let own = agent.map(|agent| agent.files.own.display().to_string());
        let own = own.unwrap_or_else(|| "the configuration file".to_owned());
        format!("{until}; --save writes it to {own}")
    }
}
