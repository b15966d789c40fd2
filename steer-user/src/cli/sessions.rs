//! `steer sessions`: works on the maps, no agent needed.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use clap::{ArgGroup, Args, Subcommand};

use super::Place;
use crate::{
    report::{self, Matcher},
    show,
};

#[derive(Subcommand, Debug)]
pub(super) enum Sessions {
    /// Show sessions, those used last first
    List {
        #[command(flatten)]
        which: Which,
        /// Show at most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show the sessions whose identifier starts with these digits
    Show {
        /// Hexadecimal digits
        prefix: String,
    },
    /// Forget sessions: their clients make a full handshake next time
    #[command(group = ArgGroup::new("what").required(true).multiple(true).args(["prefix", "owner", "vip", "all"]))]
    Remove {
        /// Those whose identifier starts with these hexadecimal digits
        prefix: Option<String>,
        #[command(flatten)]
        which: Which,
        /// All of them
        #[arg(long, conflicts_with_all = ["prefix", "owner", "vip"])]
        all: bool,
    },
}

#[derive(Args, Debug)]
pub(super) struct Which {
    /// Those of this backend
    #[arg(long, value_name = "ADDRESS:PORT")]
    owner: Option<SocketAddr>,
    /// Those of this VIP
    #[arg(long, value_name = "ADDRESS:PORT")]
    vip: Option<SocketAddr>,
}

impl Sessions {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        match self {
            Self::List { which, limit } => {
                let matcher = Matcher::new(None, which.owner, which.vip)?;
                show::sessions(place.format(), &report::Sessions::read(&place.plane()?, &matcher, limit)?)
            }
            Self::Show { prefix } => {
                let matcher = Matcher::new(Some(&prefix), None, None)?;
                let found = report::Sessions::read(&place.plane()?, &matcher, usize::MAX)?;
                if found.sessions.is_empty() {
                    bail!("no session starts with {prefix}");
                }
                show::session(place.format(), &found)
            }
            Self::Remove { prefix, which, all: _ } => {
                let matcher = Matcher::new(prefix.as_deref(), which.owner, which.vip)?;
                let removed = report::Sessions::remove(&mut place.plane()?, &matcher)?;
                show::outcome(place.format(), format!("removed {removed} sessions"))
            }
        }
    }
}
