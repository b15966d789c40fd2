//! `steer status`.

use anyhow::{Result, bail};

use super::Place;
use crate::{report::Status, show};

/// Says how the gateway stands.
///
/// # Errors
/// Also where its agent is not through with its start: whoever waits for it waits on.
pub(super) fn run(place: &Place) -> Result<()> {
    let status = Status::read(&place.gateway()?, &place.socket())?;
    show::status(place.format(), &status)?;
    if status.agent.starting {
        bail!("the agent is starting");
    }
    Ok(())
}
