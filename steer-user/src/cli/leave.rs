//! `steer leave`: a value in a map; taking connections again needs the agent where one runs.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use steer_common::shared::SWITCH_LEAVE;

use super::Place;
use crate::{
    control::{self, Request},
    show,
};

#[derive(Args, Debug)]
pub(super) struct Leave {
    /// `on`: new connections to VIPs go to the kernel's own rules, open ones stay; `off`: new ones
    /// are taken again
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum State {
    On,
    Off,
}

impl Leave {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let mut plane = place.plane()?;
        let done = match self.state {
            State::On => {
                plane.set_switch(SWITCH_LEAVE, true)?;
                "leaving: new connections to VIPs go to the kernel's own rules, open ones stay until they end"
            }
            State::Off => {
                off(place)?;
                "new connections to VIPs are taken again; those that the kernel took meanwhile stay its own"
            }
        };
        show::outcome(place.format(), done)
    }
}

/// The agent writes the records of VIPs; where none runs none may start meanwhile.
fn off(place: &Place) -> Result<()> {
    let dir = place.dir();
    match dir.lock()? {
        Some(_lock) => place.plane_unwatched()?.end_leave(),
        None if dir.agent_runs() => control::ask(&dir, &place.socket(), &Request::EndLeave {}),
        None => bail!("somebody looks at {} this moment: try again", dir.root().display()),
    }
}
