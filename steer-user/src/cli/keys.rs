//! `steer keys`: listing reads the maps; making keys needs neither rights nor an agent.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Subcommand;

use super::Place;
use crate::{report, service::Service, show, ticket_keys};

#[derive(Subcommand, Debug)]
pub(super) enum Keys {
    /// Show the names of ticket keys, who has the key, and where they stand in tickets
    List {
        /// Those of this VIP or inline pool
        #[arg(long, value_name = "ADDRESS:PORT|NAME")]
        vip: Option<Service>,
    },
    /// Make a ticket key for each backend (nginx, 80 bytes), whose name the gateway is told; again:
    /// rotate
    ///
    /// Writes DIR/ADDRESS_PORT/current.key and previous.key, mode 0600, and prints the lines for
    /// each server and for the gateway. Run again, the current key becomes the previous one. The
    /// keys themselves are never printed.
    Generate {
        /// The backends
        #[arg(long, required = true, value_delimiter = ',', value_name = "ADDRESS:PORT,..", value_parser = backend)]
        backends: Vec<SocketAddr>,
        /// Where the keys are kept; made if it is not there
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

impl Keys {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        match self {
            Self::List { vip } => {
                show::keys(place.format(), &report::Keys::read(&place.plane()?, vip)?)
            }
            Self::Generate { backends, out } => {
                show::generated(place.format(), &ticket_keys::generate(&backends, &out)?)
            }
        }
    }
}

fn backend(text: &str) -> Result<SocketAddr, String> {
    let form = "expected ADDRESS:PORT such as 10.0.0.11:443 or [2001:db8::11]:443";
    text.trim()
        .parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| form.to_owned())
}
