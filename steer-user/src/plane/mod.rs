//! The kernel side as one typed handle: every pinned map by name, key and value.
//!
//! The agent and the read verbs of the CLI open the same pins; only `load` and `attach` need the programs.

mod attach;
mod clsact;
mod cost;
mod directory;
mod gateways;
pub mod kernel;
mod load;
mod netlink;
mod others;
mod pin;
mod resize;
pub mod rights;
mod sys;
mod table;
mod undo;

use std::{net::IpAddr, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use steer_common::{
    counters::Counter,
    rotation,
    shared::{
        Backend, BackendPath, BackendStats, Endpoint, Flow, FlowKey, Foreign, FragmentKey, FragmentRoute, Held,
        HeldKey, KeyName, LOOKUP_ENTRIES, Leg, Listed, MAX_BACKENDS, MAX_INTERFACES, MAX_VIPS, Outcomes, Pending,
        Refusals, Rotation, SWITCH_LEAVE, SWITCHES, Session, SessionKey, Settings, Source, SourceKey, TraceLine, Vip,
    },
    trace,
};

pub use attach::{Attachment, Kind, LinkReport, LinkState, Reserved, Target, Xdp, ifindex, links};
pub(crate) use attach::{attaching_xdp, detach_unasked, state};
pub use cost::{Memory, Room, room};
pub use directory::half;
pub use gateways::{Gateway, gateways, shared};
use kernel::Kernel;
pub use load::Programs;
pub use others::{ForeignProgram, foreign_programs};
pub use pin::{Lock, PinDir};
pub use table::{Slots, Table};
pub(crate) use undo::Before;

use crate::{address::socket, clock, config::Sizes};

/// One map of `docs/maps.md`.
struct Spec {
    name: &'static str,
    kind: aya::maps::MapType,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
}

impl Spec {
    fn of<K, V>(name: &'static str, kind: aya::maps::MapType, max_entries: u32) -> Self {
        Self { name, kind, key_size: size_of::<K>(), value_size: size_of::<V>(), max_entries }
    }
}

/// Entries of the `settings` map.
const ONE: u32 = 1;
/// Datagrams whose fragments are followed at a time.
const FRAGMENTS: u32 = 1024;
/// Fragments that overtook the first one of their datagram, at a time.
const HELD_FRAGMENTS: u32 = 512;
/// Names of ticket keys: a handful a backend, unless its tickets have none and each looks like another.
const KEY_NAMES: u32 = 16_384;
/// Sources of clients whose sessions are counted at a time.
const SOURCES: u32 = 16_384;
/// Unknown key names whose owner is searched at a time.
const KEY_NAME_TRIES: u32 = 1024;
/// Connections that are not steer's and known as such at a time.
const FOREIGN: u32 = 65_536;
/// Connections whose port is taken at their backend, at a time; two entries a connection at most.
const LEGS: u32 = 65_536;
/// Bytes of the `events` ring.
const EVENTS_BYTES: u32 = 262_144;

/// Every pinned map, with the sizes asked for, and as many entries of LRU maps as the running kernel needs.
fn specs(sizes: &Sizes) -> Result<Vec<Spec>> {
    let least = least_lru_entries()?;
    let mut specs = asked(sizes);
    for spec in specs.iter_mut().filter(|spec| matches!(spec.kind, aya::maps::MapType::LruHash)) {
        spec.max_entries = spec.max_entries.max(least);
    }
    Ok(specs)
}

/// See [`Kernel::least_lru_entries`]; the CPUs are those that are there.
pub(crate) fn least_lru_entries() -> Result<u32> {
    let cpus = aya::util::online_cpus().map_err(|(_, error)| error).context("count the CPUs")?;
    Kernel::running().least_lru_entries(cpus.len() as u32)
}

/// Every pinned map as the configuration asks for it.
fn asked(sizes: &Sizes) -> Vec<Spec> {
    use aya::maps::MapType::{Array, Hash, LruHash, PerCpuArray, RingBuf};
    vec![
        Spec::of::<SessionKey, Session>("sessions", LruHash, sizes.sessions),
        Spec::of::<SessionKey, KeyName>("key_names", LruHash, KEY_NAMES),
        Spec::of::<SessionKey, KeyName>("key_name_tries", LruHash, KEY_NAME_TRIES),
        Spec::of::<u32, Refusals>("refusals", Array, MAX_BACKENDS),
        Spec::of::<u32, Rotation>("rotations", Array, MAX_VIPS),
        Spec::of::<SourceKey, Source>("sources", LruHash, SOURCES),
        Spec::of::<FlowKey, Flow>("flows", LruHash, sizes.flows),
        Spec::of::<FlowKey, Flow>("splices", Hash, sizes.splices),
        Spec::of::<FlowKey, Flow>("handshakes", LruHash, sizes.handshakes),
        Spec::of::<FlowKey, Pending>("pending", LruHash, sizes.pending),
        Spec::of::<FragmentKey, FragmentRoute>("fragments", LruHash, FRAGMENTS),
        Spec::of::<HeldKey, Held>("held_fragments", LruHash, HELD_FRAGMENTS),
        Spec::of::<FlowKey, Foreign>("foreign", LruHash, FOREIGN),
        Spec::of::<FlowKey, Leg>("legs", Hash, LEGS),
        Spec::of::<u32, TraceLine>("traces", Array, trace::LINES),
        Spec::of::<u32, TraceLine>("syn_traces", Array, trace::SYN_LINES),
        Spec::of::<u32, Backend>("backends", Array, MAX_BACKENDS),
        Spec::of::<u32, BackendPath>("backend_paths", Array, MAX_BACKENDS),
        Spec::of::<Endpoint, u32>("backend_ids", Hash, MAX_BACKENDS),
        Spec::of::<u32, Listed>("directory", Array, directory::ENTRIES),
        Spec::of::<Endpoint, Vip>("vips", Hash, MAX_VIPS),
        Spec::of::<u32, u16>("lookup", Array, LOOKUP_ENTRIES),
        Spec::of::<u32, Settings>("settings", Array, ONE),
        Spec::of::<u32, u32>("switches", Array, SWITCHES),
        Spec::of::<u32, u32>("interfaces", Hash, MAX_INTERFACES),
        Spec::of::<u32, u64>("counters", PerCpuArray, Counter::COUNT as u32),
        Spec::of::<u32, BackendStats>("backend_stats", PerCpuArray, MAX_BACKENDS),
        Spec::of::<(), ()>("events", RingBuf, EVENTS_BYTES),
    ]
}

/// What the configuration last said about a backend, kept beside the maps so that a new agent can tell a change of the
/// file from a change by CLI.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Configured {
    /// The VIP it stood behind.
    pub vip: Endpoint,
    /// Its weight.
    pub weight: u32,
}

// SAFETY: repr(C); 20 bytes and 4 bytes leave no padding; every bit pattern is valid.
unsafe impl aya::Pod for Configured {}

/// Name of the agent's own map of [`Configured`] backends.
const CONFIGURED: &str = "configured";

/// Every pinned map.
pub struct Plane {
    /// Who holds which session.
    pub sessions: Table<SessionKey, Session>,
    /// Who holds which ticket key.
    pub key_names: Table<SessionKey, KeyName>,
    /// Key names whose owner is searched.
    pub key_name_tries: Table<SessionKey, KeyName>,
    /// Sessions learned of each source.
    pub sources: Table<SourceKey, Source>,
    /// Established flows.
    pub flows: Table<FlowKey, Flow>,
    /// Re-homed flows.
    pub splices: Table<FlowKey, Flow>,
    /// Handshakes.
    pub handshakes: Table<FlowKey, Flow>,
    /// Connections that are not steer's.
    pub foreign: Table<FlowKey, Foreign>,
    /// Connections that have another port at their backend.
    pub legs: Table<FlowKey, Leg>,
    backends: Slots<Backend>,
    backend_paths: Slots<BackendPath>,
    /// `None` where the programs are an older version's, which has no such map.
    refusals: Option<Slots<Refusals>>,
    rotations: Option<Slots<Rotation>>,
    pub(crate) backend_ids: Table<Endpoint, u32>,
    vips: Table<Endpoint, Vip>,
    directory: Slots<Listed>,
    /// Lookup tables.
    pub lookup: Slots<u16>,
    settings: Array<MapData, Settings>,
    switches: Array<MapData, u32>,
    /// What each interface takes, by its index: any of `INTERFACE_*`.
    pub interfaces: Table<u32, u32>,
    /// What the configuration last said.
    pub configured: Table<Endpoint, Configured>,
    counters: PerCpuArray<MapData, u64>,
    backend_stats: PerCpuArray<MapData, BackendStats>,
}

impl Plane {
    /// Opens the pins of a gateway.
    pub fn open(dir: &PinDir) -> Result<Self> {
        dir.require()?;
        Ok(Self {
            sessions: Table::open(dir, "sessions")?,
            key_names: Table::open(dir, "key_names")?,
            key_name_tries: Table::open(dir, "key_name_tries")?,
            sources: Table::open(dir, "sources")?,
            flows: Table::open(dir, "flows")?,
            splices: Table::open(dir, "splices")?,
            handshakes: Table::open(dir, "handshakes")?,
            foreign: Table::open(dir, "foreign")?,
            legs: Table::open(dir, "legs")?,
            backends: Slots::open(dir, "backends")?,
            backend_paths: Slots::open(dir, "backend_paths")?,
            refusals: Slots::open(dir, "refusals").ok(),
            rotations: Slots::open(dir, "rotations").ok(),
            backend_ids: Table::open(dir, "backend_ids")?,
            vips: Table::open(dir, "vips")?,
            directory: Slots::open(dir, "directory")?,
            lookup: Slots::open(dir, "lookup")?,
            settings: open(dir, "settings")?,
            switches: open(dir, "switches")?,
            interfaces: Table::open(dir, "interfaces")?,
            configured: Table::open(dir, CONFIGURED)?,
            counters: open(dir, "counters")?,
            backend_stats: open(dir, "backend_stats")?,
        })
    }

    /// The ring of events.
    pub fn events(dir: &PinDir) -> Result<RingBuf<MapData>> {
        open(dir, "events")
    }

    /// A counter, summed over all CPUs.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let per_cpu = self.counters.get(&u32::from(counter as u16), 0).context("read the map counters")?;
        Ok(per_cpu.iter().sum())
    }

    /// What a backend did, summed over all CPUs.
    pub fn backend_stats(&self, id: u32) -> Result<BackendStats> {
        let per_cpu = self.backend_stats.get(&id, 0).context("read the map backend_stats")?;
        Ok(per_cpu.iter().fold(BackendStats::default(), sum))
    }

    /// Every slot of the map `backends` that holds or held a backend.
    pub fn backends(&self) -> Result<Vec<(u32, Backend)>> {
        let all = (0..).zip(self.backends.all()?);
        Ok(all.filter(|(_, backend)| backend.endpoint != Endpoint::default()).collect())
    }

    /// Writes one slot of `backends`.
    pub fn set_backend(&mut self, id: u32, backend: &Backend) -> Result<()> {
        self.backends.set(id, backend)
    }

    /// What the programs know of the way to a backend.
    pub fn backend_path(&self, id: u32) -> Result<BackendPath> {
        self.backend_paths.read(id)
    }

    /// What the programs know of the ways to all backends, by their numbers.
    pub fn backend_paths(&self) -> Result<Vec<BackendPath>> {
        self.backend_paths.all()
    }

    /// Writes what is known of the way to a backend; the programs write it too.
    pub fn set_backend_path(&mut self, id: u32, path: &BackendPath) -> Result<()> {
        self.backend_paths.set(id, path)
    }

    /// Empties a slot of the map `backends`, and what its backend did and how it was reached.
    pub fn clear_backend(&mut self, id: u32) -> Result<()> {
        self.set_backend(id, &Backend::default())?;
        self.set_backend_path(id, &BackendPath::default())?;
        if let Some(refusals) = &mut self.refusals {
            refusals.set(id, &Refusals::default())?;
        }
        if let Some(rotations) = &mut self.rotations {
            for (vip, mut rotation) in (0..).zip(rotations.all()?) {
                if rotation::forget(&mut rotation, id as u16) {
                    rotations.set(vip, &rotation)?;
                }
            }
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error).context("count the CPUs")?;
        let zero = PerCpuValues::try_from(vec![BackendStats::default(); cpus]).context("make empty statistics")?;
        self.backend_stats.set(id, zero, 0).context("write the map backend_stats")
    }

    /// Whether a switch is on ([`steer_common::shared::SWITCH_BYPASS`] and its like).
    pub fn switch(&self, index: u32) -> Result<bool> {
        Ok(self.switches.get(&index, 0).context("read the map switches")? != 0)
    }

    /// Turns a switch on or off.
    pub fn set_switch(&mut self, index: u32, on: bool) -> Result<()> {
        self.switches.set(index, u32::from(on), 0).context("write the map switches")
    }

    /// Ends [`SWITCH_LEAVE`]: notes for every VIP that older connections than now are not this gateway's, then takes new
    /// ones again.
    pub fn end_leave(&mut self) -> Result<()> {
        let since = clock::seconds();
        let vips = self.vips()?.into_iter().map(|(at, vip)| (at, Vip { since, ..vip }));
        self.set_vips(&vips.collect::<Vec<_>>())?;
        self.set_switch(SWITCH_LEAVE, false)
    }

    /// The settings of the gateway.
    pub fn settings(&self) -> Result<Settings> {
        self.settings.get(&0, 0).context("read the map settings")
    }

    /// Writes the settings of the gateway.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<()> {
        self.settings.set(0, settings, 0).context("write the map settings")
    }
}

/// What a detached gateway had.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Detached {
    /// Interfaces with the kind of program that was there.
    pub programs: Vec<(String, Kind)>,
    /// Interfaces that still have a clsact qdisc of ours.
    pub qdiscs: Vec<String>,
}

/// Detaches every program and removes every pin, those of other layouts too.
pub fn detach(dir: &PinDir) -> Result<Detached> {
    let mut detached = Detached::default();
    for layout in dir.layouts() {
        detached.programs.extend(attachments(&layout));
        detached.qdiscs.extend(clsact::own_qdiscs(&layout));
        attach::detach_all(&layout)?;
    }
    dir.remove()?;
    Ok(detached)
}

/// The addresses of the VIPs of every layout that is pinned here. Each has them as keys of its map `vips`.
pub fn vip_addresses(dir: &PinDir) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for layout in dir.layouts() {
        let keys = MapData::from_pin(layout.map("vips")).ok().and_then(|map| {
            let key_size = map.info().ok()?.key_size() as usize;
            (key_size == size_of::<Endpoint>()).then(|| sys::keys::<Endpoint>(map.fd().as_fd()).ok())?
        });
        found.extend(keys.unwrap_or_default().iter().map(|at| socket(at).ip()));
    }
    found
}

/// Every interface that carries a program, with its kind.
pub fn attachments(dir: &PinDir) -> Vec<(String, Kind)> {
    let links = dir.links().into_iter().map(|(interface, kind, _)| (interface, kind));
    links.chain(clsact::interfaces(dir).into_iter().map(|interface| (interface, Kind::Tc))).collect()
}

fn open<M>(dir: &PinDir, name: &str) -> Result<M>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let opened = MapData::from_pin(dir.map(name)).and_then(Map::from_map_data).and_then(M::try_from);
    opened.with_context(|| format!("open the pinned map {}", dir.map(name).display()))
}

fn outcomes(a: Outcomes, b: Outcomes) -> Outcomes {
    Outcomes {
        accepted: a.accepted + b.accepted,
        rejected: a.rejected + b.rejected,
        not_offered: a.not_offered + b.not_offered,
    }
}

fn sum(a: BackendStats, b: &BackendStats) -> BackendStats {
    BackendStats {
        flows: a.flows + b.flows,
        rehomed: a.rehomed + b.rehomed,
        learned: a.learned + b.learned,
        hits: a.hits + b.hits,
        tls12: outcomes(a.tls12, b.tls12),
        tls13: outcomes(a.tls13, b.tls13),
        packets: a.packets + b.packets,
        bytes: a.bytes + b.bytes,
        syns: a.syns + b.syns,
        syn_acks: a.syn_acks + b.syn_acks,
    }
}
