//! `steer status`.

use std::process::ExitCode;

use anyhow::Result;

use super::Place;
use crate::{
    report::{HealthState, Status},
    show,
};

/// Says how the gateway stands, by the exit code, too: that of its health. While its agent is not
/// through with its start that is 1: whoever waits for it waits on.
///
/// # Errors
/// Where nobody can tell: without the rights, or where its state cannot be read. (One that is not
/// there is down.)
pub(super) fn run(place: &Place) -> Result<ExitCode> {
    let dir = place.dir();
    let is_there = || !dir.layouts().is_empty();
    let status = match place.gateway().and_then(|dir| Status::read(&dir, &place.socket())) {
        Err(error) if place.may_look() && (!is_there() || dir.exists() && !dir.agent_runs()) => {
            show::note(format_args!("{error:#}"));
            return Ok(HealthState::Down.exit_code().into());
        }
        read => read?,
    };
    show::status(place.format(), &status)?;
    if status.agent.starting {
        show::note("the agent is starting");
    }
    Ok(status.health.state.exit_code().into())
}
