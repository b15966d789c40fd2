//! What a start is about to change, kept in the pin directory until it is through.
//!
//! An agent that dies in the middle leaves pools that are neither those of before nor those of its
//! file. The next one puts back what was there, whatever file it has, and begins from that. The
//! records are written aside and get their place by one rename: they are there whole, or not at
//! all.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{HashMap, MapData},
};
use steer_common::shared::{Backend, Configured, Endpoint, Entrance, ExemptKey, Vip};

use super::{PinDir, Plane, Table};

impl PinDir {
    /// Whether a start is changing what is there, or was broken off while it did.
    pub(crate) fn is_changing(&self) -> bool {
        self.map(UNDO).exists()
    }
}

/// The directory of the records, below that of the state.
pub(super) const UNDO: &str = "undo";
/// The same while it is written, and while it is removed.
const UNFINISHED: &str = "undo_new";

/// Everything that a start may change of pools, as it stood before.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Before {
    pub(crate) vips: Vec<(Endpoint, Vip)>,
    pub(crate) backends: Vec<(u32, Backend)>,
    pub(crate) configured: Vec<(Endpoint, Configured)>,
    pub(crate) exempt: Vec<ExemptKey>,
    pub(crate) entrances: Vec<(u32, Entrance)>,
}

impl Before {
    /// Reads the maps.
    pub(crate) fn read(plane: &Plane) -> Result<Self> {
        Ok(Self {
            vips: plane.vips()?,
            backends: plane.backends()?,
            configured: plane.configured.entries()?,
            exempt: plane.exempt()?,
            entrances: plane.entrances()?,
        })
    }

    /// Keeps it in the pin directory.
    pub(crate) fn keep(&self, dir: &PinDir) -> Result<()> {
        let (unfinished, kept) = (dir.map(UNFINISHED), dir.map(UNDO));
        remove(&unfinished)?;
        let made = DirBuilder::new().mode(0o700).create(&unfinished);
        made.with_context(|| format!("create {}", unfinished.display()))?;
        write(&unfinished.join("vips"), &self.vips)?;
        write(&unfinished.join("backends"), &self.backends)?;
        write(&unfinished.join("configured"), &self.configured)?;
        let exempt = self.exempt.iter().map(|key| (*key, 1_u32)).collect::<Vec<_>>();
        write(&unfinished.join("exempt"), &exempt)?;
        write(&unfinished.join("entrances"), &self.entrances)?;
        fs::rename(&unfinished, &kept).with_context(|| format!("keep {}", kept.display()))
    }

    /// What a start that did not get through kept.
    pub(crate) fn kept(dir: &PinDir) -> Result<Option<Self>> {
        let kept = dir.map(UNDO);
        if !kept.exists() {
            return Ok(None);
        }
        let exempt = Table::<ExemptKey, u32>::open_pin(&kept.join("exempt"))?.entries()?;
        // A start of an older version kept none.
        let entrances = kept.join("entrances");
        let entrances = match entrances.exists() {
            true => Table::open_pin(&entrances)?.entries()?,
            false => Vec::new(),
        };
        Ok(Some(Self {
            entrances,
            vips: Table::open_pin(&kept.join("vips"))?.entries()?,
            backends: Table::open_pin(&kept.join("backends"))?.entries()?,
            configured: Table::open_pin(&kept.join("configured"))?.entries()?,
            exempt: exempt.into_iter().map(|(key, _)| key).collect(),
        }))
    }

    /// Forgets it: the start is through, or what it changed is put back.
    pub(crate) fn forget(dir: &PinDir) -> Result<()> {
        let (unfinished, kept) = (dir.map(UNFINISHED), dir.map(UNDO));
        remove(&unfinished)?;
        if kept.exists() {
            fs::rename(&kept, &unfinished).with_context(|| format!("remove {}", kept.display()))?;
        }
        remove(&unfinished)
    }
}

fn write<K: Pod, V: Pod>(pin: &PathBuf, entries: &[(K, V)]) -> Result<()> {
    let size = u32::try_from(entries.len()).unwrap_or(u32::MAX).max(1);
    let mut map: HashMap<MapData, K, V> =
        HashMap::create(size, 0).context("make a map of what was before")?;
    for (key, value) in entries {
        map.insert(key, value, 0).context("note what was before")?;
    }
    map.pin(pin).with_context(|| format!("pin {}", pin.display()))
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}
