//! `steer backends`: listing reads the maps, changing asks the agent.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use clap::Subcommand;

use super::Place;
use crate::{
    clock::parse_seconds,
    control::{self, Request},
    report,
    service::Service,
    show,
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
    },
    /// Take a backend out of its pool; its flows go on
    Remove {
        /// The backend, as ADDRESS:PORT
        address: SocketAddr,
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
        let (request, done) = match self {
            Self::List => {
                return show::backends(place.format(), &report::Backends::read(&place.plane()?)?);
            }
            Self::Add { vip, address, weight } => (
                Request::AddBackend { vip, address, weight },
                format!("{address} is in the pool of {vip}"),
            ),
            Self::Remove { address } => {
                (Request::RemoveBackend { address }, format!("{address} is out of its pool"))
            }
            Self::Drain { address, limit } => (
                Request::DrainBackend { address, seconds: limit.map(|limit| limit.as_secs()) },
                drained(address, limit),
            ),
            Self::Undrain { address } => {
                (Request::UndrainBackend { address }, format!("{address} takes new sessions again"))
            }
        };
        control::ask(&place.gateway()?, &place.socket(), &request)?;
        show::outcome(place.format(), done)
    }
}

fn drained(address: SocketAddr, limit: Option<Duration>) -> String {
    let until =
        limit.map_or(String::new(), |limit| format!(" for {}", humantime::format_duration(limit)));
    format!("{address} gets no new sessions; those it owns persist{until}")
}
