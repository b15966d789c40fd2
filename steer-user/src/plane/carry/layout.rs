//! What is done with a layout, whichever it is: how its tables are walked, and what becomes of what
//! stands in them.

use std::{os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{MapData, PerCpuArray, PerCpuValues},
};
use steer_common::{
    counters::Counter,
    maps::CONFIGURED,
    shared::{
        Backend, BackendPath, BackendStats, Configured, Endpoint, Flow, FlowKey, Foreign, KeyName,
        Leg, Pending, Session, SessionKey, Settings, Source, SourceKey, Vip,
    },
};

use super::v4;
use crate::plane::{
    self, Before, PinDir, Plane, Slots, Table,
    resize::{Becomes, merge, mirror},
    sys,
};

/// Fails to compile when the sum of a type's fields is not its size.
macro_rules! no_padding {
    ($t:ty, $($size:expr),+) => { const _: () = assert!(size_of::<$t>() == 0 $(+ $size)+); };
}
pub(super) use no_padding;

// As it has been since v3.
no_padding!(Pending, 16_432);

/// A layout: its types, and what is not a table of entries.
pub(super) trait Version {
    type Session: Pod + Becomes<Session>;
    type KeyName: Pod + Becomes<KeyName>;
    type Source: Pod + Becomes<Source>;
    type Flow: Pod + Becomes<Flow>;
    type Vip: Pod + Becomes<Vip>;
    type Backend: Pod + Becomes<Backend>;
    type Configured: Pod + Becomes<Configured>;
    type BackendStats: Pod + Becomes<BackendStats>;

    /// The words of its counters in the order of their indices, with spaces between.
    const COUNTERS: &str;

    /// Its settings and switches.
    fn settings(dir: &PinDir) -> Result<(Settings, Vec<u32>)>;

    /// The ways to its backends, by number.
    fn backend_paths(dir: &PinDir) -> Result<Vec<BackendPath>>;
}

/// How one table of entries is copied.
pub(super) struct Copied {
    pub(super) name: &'static str,
    pub(super) mirror: fn(&Path, &Path) -> Result<u64>,
    pub(super) merge: fn(&Path, &Path, Option<u32>) -> Result<u64>,
}

/// What is done with a layout, whichever it is.
pub(super) trait Carrier: Sync {
    /// The tables of entries; those that carry transfers first.
    fn copied(&self) -> Vec<Copied>;
    fn pools(&self, dir: &PinDir) -> Result<Before>;
    fn sessions(&self, dir: &PinDir, each: &mut dyn FnMut(SessionKey, Session)) -> Result<u64>;
    fn key_names(&self, dir: &PinDir, each: &mut dyn FnMut(SessionKey, KeyName)) -> Result<u64>;
    fn sources(&self, dir: &PinDir, each: &mut dyn FnMut(SourceKey, Source)) -> Result<u64>;
    fn flows(&self, dir: &PinDir, name: &str, each: &mut dyn FnMut(FlowKey, Flow)) -> Result<u64>;
    fn settings(&self, dir: &PinDir) -> Result<(Settings, Vec<u32>)>;
    fn backend_paths(&self, dir: &PinDir) -> Result<Vec<BackendPath>>;
    /// What backends did and what was counted.
    fn count(&self, dir: &PinDir, plane: &mut Plane) -> Result<()>;
}

impl<V: Version + Sync> Carrier for V {
    fn copied(&self) -> Vec<Copied> {
        macro_rules! copied {
            ($($name:literal: $key:ty, $old:ty, $new:ty;)+) => {
                vec![$(Copied { name: $name, mirror: mirror::<$key, $old, $new>, merge: merge::<$key, $old, $new, true> }),+]
            };
        }
        copied! {
            "splices": FlowKey, V::Flow, Flow;
            "flows": FlowKey, V::Flow, Flow;
            "handshakes": FlowKey, V::Flow, Flow;
            "pending": FlowKey, Pending, Pending;
            "legs": FlowKey, v4::Leg, Leg;
            "foreign": FlowKey, v4::Foreign, Foreign;
            "sessions": SessionKey, V::Session, Session;
            "key_names": SessionKey, V::KeyName, KeyName;
            "sources": SourceKey, V::Source, Source;
        }
    }

    fn pools(&self, dir: &PinDir) -> Result<Before> {
        let backends = (0..).zip(slots::<V::Backend, Backend>(dir, "backends")?);
        Ok(Before {
            vips: entries::<_, V::Vip, _>(dir, "vips")?,
            backends: backends
                .filter(|(_, backend)| backend.endpoint != Endpoint::default())
                .collect(),
            configured: entries::<_, V::Configured, _>(dir, CONFIGURED.name)?,
            // Pools that leave anybody alone, or that VIPs share, are newer.
            exempt: Vec::new(),
            entrances: Vec::new(),
        })
    }

    fn sessions(&self, dir: &PinDir, each: &mut dyn FnMut(SessionKey, Session)) -> Result<u64> {
        walk::<_, V::Session, _>(dir, "sessions", each)
    }

    fn key_names(&self, dir: &PinDir, each: &mut dyn FnMut(SessionKey, KeyName)) -> Result<u64> {
        walk::<_, V::KeyName, _>(dir, "key_names", each)
    }

    fn sources(&self, dir: &PinDir, each: &mut dyn FnMut(SourceKey, Source)) -> Result<u64> {
        walk::<_, V::Source, _>(dir, "sources", each)
    }

    fn flows(&self, dir: &PinDir, name: &str, each: &mut dyn FnMut(FlowKey, Flow)) -> Result<u64> {
        walk::<_, V::Flow, _>(dir, name, each)
    }

    fn settings(&self, dir: &PinDir) -> Result<(Settings, Vec<u32>)> {
        V::settings(dir)
    }

    fn backend_paths(&self, dir: &PinDir) -> Result<Vec<BackendPath>> {
        V::backend_paths(dir)
    }

    fn count(&self, dir: &PinDir, plane: &mut Plane) -> Result<()> {
        let stats: PerCpuArray<MapData, V::BackendStats> = plane::open(dir, "backend_stats")?;
        for (id, _) in plane.backends()? {
            let did = stats.get(&id, 0).context("read the old map backend_stats")?;
            let did = did.iter().filter_map(Becomes::becomes).collect::<Vec<BackendStats>>();
            let did = PerCpuValues::try_from(did).context("take over the map backend_stats")?;
            plane.backend_stats.set(id, did, 0).context("write the map backend_stats")?;
        }
        let counters: PerCpuArray<MapData, u64> = plane::open(dir, "counters")?;
        let words = V::COUNTERS.split_whitespace().collect::<Vec<_>>();
        if counters.len() as usize != words.len() {
            // One of another version of the same layout: nobody knows what it counted.
            log::info!("counters start at zero");
            return Ok(());
        }
        for (index, word) in (0..).zip(words) {
            let Some(counter) = Counter::from_word(word) else { continue };
            let counted = counters.get(&index, 0).context("read the old map counters")?;
            plane
                .counters
                .set(u32::from(counter as u16), counted, 0)
                .context("write the map counters")?;
        }
        Ok(())
    }
}

/// Calls `each` with what becomes of every entry of a table, if it is there; returns of how many
/// nothing becomes.
pub(super) fn walk<K: Pod, O: Pod + Becomes<N>, N>(
    dir: &PinDir,
    name: &str,
    each: &mut dyn FnMut(K, N),
) -> Result<u64> {
    if !dir.map(name).exists() {
        return Ok(0);
    }
    let mut nothing = 0;
    Table::<K, O>::open(dir, name)?.for_each(|key, value| match value.becomes() {
        Some(value) => each(key, value),
        None => nothing += 1,
    })?;
    Ok(nothing)
}

pub(super) fn entries<K: Pod, O: Pod + Becomes<N>, N>(
    dir: &PinDir,
    name: &str,
) -> Result<Vec<(K, N)>> {
    let mut entries = Vec::new();
    walk::<K, O, N>(dir, name, &mut |key, value| entries.push((key, value)))?;
    Ok(entries)
}

/// What becomes of every slot of an array.
pub(super) fn slots<O: Pod + Becomes<N>, N>(dir: &PinDir, name: &str) -> Result<Vec<N>> {
    let slots = Slots::<O>::open(dir, name)?.all()?;
    slots
        .iter()
        .map(|slot| slot.becomes().with_context(|| format!("read the old map {name}")))
        .collect()
}

/// Every slot of an array, if it is there.
pub(super) fn slots_or_none<O: Pod>(dir: &PinDir, name: &str) -> Result<Vec<O>> {
    if dir.map(name).exists() { Slots::open(dir, name)?.all() } else { Ok(Vec::new()) }
}

pub(super) fn n_keys<K: Pod>(dir: &PinDir, name: &str) -> Result<u64> {
    if !dir.map(name).exists() {
        return Ok(0);
    }
    let map =
        MapData::from_pin(dir.map(name)).with_context(|| format!("open the old map {name}"))?;
    anyhow::ensure!(
        map.info()?.key_size() as usize == size_of::<K>(),
        "the old map {name} has other keys"
    );
    Ok(sys::keys::<K>(map.fd().as_fd()).with_context(|| format!("walk the old map {name}"))?.len()
        as u64)
}
