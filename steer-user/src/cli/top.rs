//! `steer top`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::Place;
use crate::{
    plane::{PinDir, Plane},
    report::Status,
    show::{self, Format},
    top::{self, Sampled, Source},
};

#[derive(Args, Debug)]
pub(super) struct Top {
    /// Print one frame and end, as is done anyhow where the output is no terminal, and with --json
    #[arg(long)]
    once: bool,
    /// Time between two looks, over which rates are told: "2s", "500ms"; 100ms at least
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = interval)]
    every: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(every) if every >= Duration::from_millis(100) => Ok(every),
        Ok(_) => Err("at least 100ms".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Top {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        drop(place.plane()?);
        let gateway = Gateway { dir: place.gateway()?, socket: place.socket() };
        if self.once || place.format() == Format::Json || !top::is_interactive() {
            return show::top(place.format(), &top::once(&gateway, self.every)?);
        }
        top::watch(&gateway, self.every)
    }
}

/// A pinned gateway, opened anew at each look: its agent may have made other maps meanwhile.
#[derive(Clone)]
struct Gateway {
    dir: PinDir,
    socket: std::path::PathBuf,
}

impl Source for Gateway {
    fn sample(&self) -> Result<Sampled> {
        top::read(&Plane::open(&self.dir)?)
    }

    fn status(&self) -> Result<Status> {
        Status::read(&self.dir, &self.socket)
    }
}
