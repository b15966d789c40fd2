//! What only bridges need of the maps: which VLANs are looked at, and what frames showed of the
//! ways to backends.

use anyhow::{Context as _, Result};
use steer_common::shared::BridgePath;

use super::{PinDir, Plane, Slots};

/// The maps `bridge_paths` and `vlans`; nothing where the gateway's version has none, which a start
/// makes.
pub(super) struct Bridged {
    paths: Option<Slots<BridgePath>>,
    vlans: Option<Slots<u32>>,
}

impl Bridged {
    pub(super) fn open(dir: &PinDir) -> Result<Self> {
        let is_there = |name: &str| dir.map(name).exists();
        Ok(Self {
            paths: is_there("bridge_paths")
                .then(|| Slots::open(dir, "bridge_paths"))
                .transpose()?,
            vlans: is_there("vlans").then(|| Slots::open(dir, "vlans")).transpose()?,
        })
    }
}

impl Plane {
    /// What frames at the ports of bridges showed of the ways to all backends, by their numbers;
    /// nothing where the gateway's version has no such map.
    pub fn bridge_paths(&self) -> Result<Vec<BridgePath>> {
        self.bridged.paths.as_ref().map_or_else(|| Ok(Vec::new()), Slots::all)
    }

    /// Forgets what frames showed of the way to a backend; else the programs alone write it.
    pub fn clear_bridge_path(&mut self, id: u32) -> Result<()> {
        let Some(paths) = &mut self.bridged.paths else { return Ok(()) };
        paths.set(id, &BridgePath::default())
    }

    /// The bits of the VLANs that are looked at, bridge by bridge; nothing where the gateway's
    /// version has no such map.
    pub fn vlans(&self) -> Result<Vec<u32>> {
        self.bridged.vlans.as_ref().map_or_else(|| Ok(Vec::new()), Slots::all)
    }

    /// Writes the bits of the VLANs that are looked at, of all bridges.
    pub fn set_vlans(&mut self, words: &[u32]) -> Result<()> {
        let vlans = self.bridged.vlans.as_mut();
        vlans.context("there is no map vlans: the gateway's version has none")?.write(0, words)
    }
}
