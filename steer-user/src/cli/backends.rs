//! `steer backends`: listing reads the maps, changing asks the agent.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use clap::Subcommand;

use super::Place;
use crate::{
    clock::parse_seconds,
    control::{self, Request},
    report,
    saving::{Change, Edit},
    service::Service,
    show::{self, note},
};

#[derive(Subcommand, Debug)]
pub(super) enum Backends {
    /// Show every backend and what it did
    List,
    /// Put a backend into a pool, or give it another weight
    Add {
        /// The VIP, as ADDRESS:PORT, or the name of an inline pool
        #[arg(long)]
        vip: Service,
        /// The backend, as ADDRESS:PORT
        address: SocketAddr,
        /// Its share of new flows; 0 takes none. An inline pool has no shares
        #[arg(long, default_value_t = 1)]
        weight: u16,
        /// Write it to the agent's configuration file, too; without it it lasts until the machine
        /// restarts
        #[arg(long)]
        save: bool,
    },
    /// Take a backend out of its pool; its flows go on
    Remove {
        /// The backend, as ADDRESS:PORT
        address: SocketAddr,
        /// Write it to the agent's configuration file, too; without it it lasts until the machine
        /// restarts
        #[arg(long)]
        save: bool,
    },
    /// Give a backend no new sessions; those it owns persist
    Drain {
        /// The backend, as ADDRESS:PORT
        address: SocketAddr,
        /// After so long its sessions go elsewhere too, e.g. 10m
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_seconds)]
        limit: Option<Duration>,
    },
    /// End a drain
    Undrain {
        /// The backend, as ADDRESS:PORT
        address: SocketAddr,
    },
}

impl Backends {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let (request, done, lasting) = match self {
            Self::List => {
                return show::backends(place.format(), &report::Backends::read(&place.plane()?)?);
            }
            Self::Add { vip, address, weight, save } => (
                Request::AddBackend { vip, address, weight },
                format!("{address} is in the pool of {vip}"),
                Lasting::in_file(Edit::Add { vip, address, weight }, save),
            ),
            Self::Remove { address, save } => (
                Request::RemoveBackend { address },
                format!("{address} is out of its pool"),
                Lasting::in_file(Edit::Remove { address }, save),
            ),
            Self::Drain { address, limit } => (
                Request::DrainBackend { address, seconds: limit.map(|limit| limit.as_secs()) },
                drained(address, limit),
                Lasting::Shortly,
            ),
            Self::Undrain { address } => (
                Request::UndrainBackend { address },
                format!("{address} takes new sessions again"),
                Lasting::Always,
            ),
        };
        let (dir, socket) = (place.gateway()?, place.socket());
        // What cannot be saved is not done.
        let change = match lasting {
            Lasting::Saved(edit) => {
                let file = control::ask_config(&dir, &socket)?.files.own;
                Some(Change::of(&file, edit).context("nothing was done")?)
            }
            Lasting::Savable | Lasting::Shortly | Lasting::Always => None,
        };
        control::ask(&dir, &socket, &request)?;
        let file = || match control::ask_config(&dir, &socket) {
            Ok(agent) => agent.files.own.display().to_string(),
            Err(_) => "the configuration file".to_owned(),
        };
        let until = "this lasts until the machine restarts";
        match lasting {
            Lasting::Saved(_) => {}
            Lasting::Savable => note(format_args!("{until}; --save writes it to {}", file())),
            Lasting::Shortly => note(format_args!("{until}: a file says nothing of drains")),
            Lasting::Always => {}
        }
        let saved = change.map(Change::write).transpose()?;
        let saved = saved.map_or(String::new(), |file| format!("; {} says so", file.display()));
        show::outcome(place.format(), done + &saved)
    }
}

/// How long a change lasts.
#[derive(Clone, Copy)]
enum Lasting {
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
    fn in_file(edit: Edit, save: bool) -> Self {
        if save { Self::Saved(edit) } else { Self::Savable }
    }
}

fn drained(address: SocketAddr, limit: Option<Duration>) -> String {
    let until =
        limit.map_or(String::new(), |limit| format!(" for {}", humantime::format_duration(limit)));
    format!("{address} gets no new sessions; those it owns persist{until}")
}
