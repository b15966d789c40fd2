//! `steer backends`: listing reads the maps, changing asks the agent.

mod lasting;
mod wait;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use self::lasting::Lasting;
use super::Place;
use crate::{
    clock::{self, parse_seconds},
    control::{self, Request},
    plane::Plane,
    report::{self, BackendState},
    saving::Edit,
    service::Service,
    show,
};

#[derive(Subcommand, Debug)]
pub(super) enum Backends {
    /// Show every backend, what it holds and what it did
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
        /// restarts, or for as long as `state_file` keeps it
        #[arg(long)]
        save: bool,
    },
    /// Take a backend out of its pool; its flows go on
    Remove {
        /// The backend, as ADDRESS:PORT
        address: SocketAddr,
        /// Write it to the agent's configuration file, too; without it it lasts until the machine
        /// restarts, or for as long as `state_file` keeps it
        #[arg(long)]
        save: bool,
    },
    /// Give backends no new sessions; those they own persist
    ///
    /// With --wait it ends when the backends may be stopped: no connection is open at them. Exit code
    /// 0: they may be stopped; 3: connections are still open after --timeout, and the drain goes on;
    /// 1: something else went wrong.
    Drain(Drain),
    /// End a drain
    Undrain {
        /// The backend, as ADDRESS:PORT
        address: SocketAddr,
    },
    /// Give backends neither new sessions nor those they own; what runs there goes on
    Disable(Several),
    /// Treat backends as down, whatever their checks say: their sessions go to the fallback
    Off(Several),
    /// End drain, disable and off: a backend is what its checks say
    Enable(Several),
}

#[derive(Args, Debug)]
pub(super) struct Several {
    /// The backends, as ADDRESS:PORT
    #[arg(required = true, value_name = "BACKEND")]
    addresses: Vec<SocketAddr>,
}

#[derive(Args, Debug)]
pub(super) struct Drain {
    /// The backends, as ADDRESS:PORT
    #[arg(required = true, value_name = "BACKEND")]
    addresses: Vec<SocketAddr>,
    /// After so long their sessions go elsewhere too, e.g. 10m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_seconds)]
    limit: Option<Duration>,
    /// End when the backends may be stopped: no connection is open at them any more
    #[arg(long)]
    wait: bool,
    /// Wait at most so long, e.g. 10m; else without end
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds, requires = "wait")]
    timeout: Option<Duration>,
}

impl Backends {
    pub(super) fn run(self, place: &Place) -> Result<ExitCode> {
        let (requests, done, lasting) = match self {
            Self::List => {
                show::backends(place.format(), &list(place)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            Self::Drain(drain) => return drain.run(place),
            Self::Add { vip, address, weight, save } => (
                vec![Request::AddBackend { vip, address, weight }],
                format!("{address} is in the pool of {vip}"),
                Lasting::in_file(Edit::Add { vip, address, weight }, save),
            ),
            Self::Remove { address, save } => (
                vec![Request::RemoveBackend { address }],
                format!("{address} is out of its pool"),
                Lasting::in_file(Edit::Remove { address }, save),
            ),
            Self::Undrain { address } => (
                vec![Request::UndrainBackend { address }],
                format!("{address} takes new sessions again"),
                Lasting::Always,
            ),
            Self::Disable(several) => several.requests(
                place,
                |address| Request::DisableBackend { address },
                "no new sessions, and not those that it owns; what runs there goes on",
                Lasting::Shortly,
            )?,
            Self::Off(several) => several.requests(
                place,
                |address| Request::OffBackend { address },
                "counts as down until it is enabled",
                Lasting::Shortly,
            )?,
            Self::Enable(several) => several.requests(
                place,
                |address| Request::EnableBackend { address },
                "is what its checks say",
                Lasting::Always,
            )?,
        };
        let saved = ask(place, &requests, lasting)?;
        show::outcome(place.format(), done + &saved)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Several {
    /// What to ask for each of them, and what is done then.
    fn requests(
        self,
        place: &Place,
        request: impl Fn(SocketAddr) -> Request,
        done: &str,
        lasting: Lasting,
    ) -> Result<(Vec<Request>, String, Lasting)> {
        refuse_unknown(&place.plane()?, &self.addresses)?;
        let requests = self.addresses.iter().map(|address| request(*address)).collect();
        Ok((requests, format!("{}: {done}", names(&self.addresses)), lasting))
    }
}

impl Drain {
    fn run(self, place: &Place) -> Result<ExitCode> {
        refuse_unknown(&place.plane()?, &self.addresses)?;
        let seconds = self.limit.map(|limit| limit.as_secs());
        let request = |address: &SocketAddr| Request::DrainBackend { address: *address, seconds };
        let requests = self.addresses.iter().map(request).collect::<Vec<_>>();
        ask(place, &requests, Lasting::Shortly)?;
        if self.wait {
            // Nothing that began before this moment is news.
            return wait::wait(place, &self.addresses, self.timeout, clock::nanoseconds());
        }
        let until = self
            .limit
            .map_or(String::new(), |limit| format!(" for {}", humantime::format_duration(limit)));
        let who = names(&self.addresses);
        let done = match self.addresses.len() {
            1 => format!("{who} gets no new sessions; those it owns persist{until}"),
            _ => format!("{who} get no new sessions; those they own persist{until}"),
        };
        show::outcome(place.format(), done)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks the agent for each of these; returns what is to be told of its file.
fn ask(place: &Place, requests: &[Request], lasting: Lasting) -> Result<String> {
    let (dir, socket) = (place.gateway()?, place.socket());
    lasting.with(&dir, &socket, || {
        requests.iter().try_for_each(|request| control::ask(&dir, &socket, request))
    })
}

/// Every backend, with what the agent counted, where one tells.
fn list(place: &Place) -> Result<report::Backends> {
    let backends = report::Backends::read(&place.plane()?)?;
    Ok(match control::ask_held(&place.gateway()?, &place.socket()) {
        Ok(Some(held)) => backends.counted(&held, clock::nanoseconds()),
        Ok(None) | Err(_) => backends,
    })
}

/// Refuses all of a command of which a part makes no sense.
fn refuse_unknown(plane: &Plane, addresses: &[SocketAddr]) -> Result<()> {
    let all = report::Backends::read(plane)?;
    for address in addresses {
        let found = all.backends.iter().find(|backend| backend.address == *address);
        let found = found.with_context(|| format!("there is no backend {address}"))?;
        if found.state == BackendState::Removed {
            bail!("the backend {address} is removed");
        }
    }
    Ok(())
}

fn names(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
