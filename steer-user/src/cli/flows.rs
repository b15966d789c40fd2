//! `steer flows`: reads the maps, no agent needed.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Subcommand;
use steer_common::flow::State;

use super::Place;
use crate::{
    report::{self, Clients, Filter, state_of_word},
    service::Service,
    show,
};

#[derive(Subcommand, Debug)]
pub(super) enum Flows {
    /// Show the live flows: who holds each, and why, as far as its record tells
    List {
        /// Those of these clients: an address, with or without a port, or a prefix
        #[arg(long, value_name = "ADDRESS[:PORT]|PREFIX")]
        client: Option<Clients>,
        /// Those to this VIP, or to backends of this inline pool
        #[arg(long, visible_alias = "pool", value_name = "ADDRESS:PORT|NAME")]
        vip: Option<Service>,
        /// Those that this backend holds
        #[arg(long, value_name = "ADDRESS:PORT")]
        backend: Option<SocketAddr>,
        /// Those in this state: syn, syn-ack, established, gather, wait, spliced, first, adopted
        #[arg(long, value_parser = state_of_word)]
        state: Option<State>,
        /// Those that ended and are not forgotten yet, too
        #[arg(long)]
        ended: bool,
        /// Show at most so many; 0: all
        #[arg(long, default_value_t = 1000)]
        limit: u64,
    },
}

impl Flows {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let Self::List { client, vip, backend, state, ended, limit } = self;
        let plane = place.plane()?;
        let filter = Filter { clients: client, vip, backend, state, ended };
        show::flows(place.format(), &report::Flows::new(&plane, filter)?, limit)
    }
}
