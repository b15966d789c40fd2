//! `steer why`: reads the maps, no agent needed.

use anyhow::{Result, bail};
use clap::Args;

use super::Place;
use crate::{
    report::{self, What},
    show,
};

#[derive(Args, Debug)]
pub(super) struct Why {
    /// A client's address, with or without a port; or hexadecimal digits, eight at least, that an
    /// identifier starts with, as `sessions list` shows it
    what: What,
    /// Tell of at most so many flows, open ones first, then those of which a packet came last
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

impl Why {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let Self { what, limit } = self;
        let plane = place.plane()?;
        let why = report::Why::read(&plane, &what, limit as usize)?;
        if why.is_empty() {
            bail!("{}", unknown(&what));
        }
        show::why(place.format(), &why)
    }
}

fn unknown(what: &What) -> String {
    match what {
        What::Client(_) => format!(
            "nothing is known of {what}: no flow, handshake or other connection of it stands in the tables (it sent nothing \
             here, or its entries are forgotten)"
        ),
        What::Identifier(_) => format!(
            "nothing is known of {what}: no session and no key name starts with that, so a hello that offers it stays with its \
             first backend"
        ),
    }
}
