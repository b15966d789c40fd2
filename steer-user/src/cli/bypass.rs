//! `steer bypass`: one value in a map, no agent needed.

use anyhow::Result;
use clap::{Args, ValueEnum};
use steer_common::shared::SWITCH_BYPASS;

use super::Place;
use crate::show;

#[derive(Args, Debug)]
pub(super) struct Bypass {
    /// `on`: every new flow stays on its first backend; `off`: flows are steered again
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum State {
    On,
    Off,
}

impl Bypass {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let mut plane = place.plane()?;
        plane.set_switch(SWITCH_BYPASS, self.state == State::On)?;
        let done = match self.state {
            State::On => {
                "steering is off: every new flow stays on its first backend, re-homed flows go on"
            }
            State::Off => "steering is on",
        };
        show::outcome(place.format(), done)
    }
}
