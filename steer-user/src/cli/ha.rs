//! `steer ha`: what gateways tell each other.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::Subcommand;

use super::Place;
use crate::{
    control,
    ha::{self, Report},
    show,
};

#[derive(Subcommand, Debug)]
pub(super) enum Ha {
    /// Make a key for a cluster, in a file that is not there yet, mode 0600
    ///
    /// Every gateway of the cluster needs the same: copy the file by a way that nobody listens to.
    Key {
        /// The file
        file: PathBuf,
    },
    /// Print the rule of the user that gateways are at a store, for its ACL file
    ///
    /// Put a password in the place of PASSWORD.
    Acl {
        /// The cluster
        #[arg(long, default_value = "steer")]
        cluster: String,
        /// The user
        #[arg(long, default_value = "steer")]
        user: String,
    },
    /// Show the stores and the other gateways
    Status,
    /// Whether this gateway knows what the others do: exit code 0; else 1
    ///
    /// For `track_script` of keepalived (without `weight`) and the like. A gateway that was ready
    /// stays so, whatever becomes of the stores. Without [ha] it is ready.
    Ready,
}

impl Ha {
    pub(super) fn run(self, place: &Place) -> Result<ExitCode> {
        match self {
            Self::Key { file } => {
                ha::seal::make_key(&file)?;
                show::outcome(place.format(), format!("made {}", file.display()))?;
            }
            Self::Acl { cluster, user } => show::acl(place.format(), &ha::acl(&cluster, &user))?,
            Self::Status => {
                let Some(report) = control::ask_ha(&place.dir(), &place.socket())? else {
                    bail!("this gateway has no [ha]: it tells no others what it learns")
                };
                show::replication(place.format(), &report)?;
            }
            Self::Ready => {
                let report = control::ask_ha(&place.dir(), &place.socket())?;
                let ready = report.as_ref().is_none_or(|report| report.ready);
                let why = report.map_or("no [ha]".to_owned(), |Report { why, .. }| why);
                show::ready(place.format(), ready, &why)?;
                return Ok(ExitCode::from(u8::from(!ready)));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
