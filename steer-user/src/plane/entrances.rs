//! VIPs that share the pool of another one: their numbers, addresses and pools.

use anyhow::{Context as _, Result};
use steer_common::shared::{Endpoint, Entrance};

use super::{PinDir, Plane, Slots};

/// The map `entrances`; nothing where the gateway's version has none, which a start makes.
pub(super) struct Entrances(Option<Slots<Entrance>>);

impl Entrances {
    pub(super) fn open(dir: &PinDir) -> Result<Self> {
        let there = dir.map("entrances").exists();
        Ok(Self(there.then(|| Slots::open(dir, "entrances")).transpose()?))
    }

    /// Every one that a number was given to, with its number.
    pub(super) fn all(&self) -> Result<Vec<(u32, Entrance)>> {
        let Some(map) = &self.0 else { return Ok(Vec::new()) };
        let all = (0..).zip(map.all()?);
        Ok(all.filter(|(_, entrance)| entrance.endpoint != Endpoint::default()).collect())
    }

    pub(super) fn set(&mut self, number: u32, entrance: &Entrance) -> Result<()> {
        let map = self.0.as_mut();
        map.context("there is no map entrances: the gateway's version has none")?
            .set(number, entrance)
    }
}

impl Plane {
    /// Every VIP that shares the pool of another one, with its number.
    pub fn entrances(&self) -> Result<Vec<(u32, Entrance)>> {
        self.entrances.all()
    }

    /// Gives a number to a VIP that shares a pool; the default frees it. It is listed when a VIP is
    /// written next.
    pub fn set_entrance(&mut self, number: u32, entrance: &Entrance) -> Result<()> {
        self.entrances.set(number, entrance)
    }

    /// What the pool of a VIP is known by: the VIP itself, or the one whose pool it shares.
    pub fn known_by(&self, at: &Endpoint) -> Result<Endpoint> {
        let entrances = self.entrances()?;
        let entrance = entrances.iter().find(|(_, entrance)| entrance.endpoint == *at);
        let Some((_, Entrance { pool, .. })) = entrance else { return Ok(*at) };
        let vips = self.vips()?;
        let its = vips.iter().find(|(_, vip)| vip.id == *pool);
        Ok(its.map_or(*at, |(known, _)| *known))
    }
}
