//! `steer status`.

use anyhow::Result;

use super::Place;
use crate::{report::Status, show};

pub(super) fn run(place: &Place) -> Result<()> {
    show::status(place.format(), &Status::read(&place.gateway()?, &place.socket())?)
}
