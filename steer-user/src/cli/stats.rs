//! `steer stats`.

use anyhow::Result;
use clap::Args;

use super::Place;
use crate::{report, show};

#[derive(Args, Debug)]
pub(super) struct Stats {
    /// Show counters that are zero too (JSON always has all)
    #[arg(long)]
    all: bool,
}

impl Stats {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        show::stats(place.format(), &report::Stats::read(&place.plane()?)?, self.all)
    }
}
