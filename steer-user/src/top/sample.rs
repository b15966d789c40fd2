//! One look at what changes all the time.

use std::time::Instant;

use anyhow::Result;

use super::Source;
use crate::{
    plane::Plane,
    report::{Backends, Stats},
};

/// Counters and backends.
pub type Sampled = (Stats, Backends);

/// Counters and backends at a moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) stats: Stats,
    pub(super) backends: Backends,
}

impl Sample {
    pub(super) fn read(source: &impl Source) -> Result<Self> {
        let (stats, backends) = source.sample()?;
        Ok(Self { at: Instant::now(), stats, backends })
    }
}

/// Reads the maps.
pub(crate) fn read(plane: &Plane) -> Result<Sampled> {
    Ok((Stats::read(plane)?, Backends::read(plane)?))
}
