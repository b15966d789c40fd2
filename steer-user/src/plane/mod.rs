//! The kernel side as one typed handle: every pinned map by name, key and value.
//!
//! The agent and the read verbs of the CLI open the same pins; only `load` and `attach` need the
//! programs.

mod attach;
mod bridge;
mod carry;
mod clsact;
mod cost;
mod directory;
mod entrances;
mod exempt;
mod fast;
mod gateways;
pub mod kernel;
mod load;
mod netlink;
mod others;
mod passed;
mod pin;
mod resize;
pub mod rights;
mod sys;
mod table;
mod undo;
mod wanted;

use std::{net::IpAddr, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use steer_common::{
    counters::Counter,
    maps::CONFIGURED,
    rotation,
    shared::{
        Answers, Backend, BackendPath, BackendStats, Configured, Endpoint, EndpointEntry, Entrance,
        Flow, FlowKey, Foreign, KeyName, Leg, Outcomes, Refusals, Rest, Rotation, SWITCH_LEAVE,
        SWITCH_RESIZING, Session, SessionKey, Settings, Source, SourceKey, Vip,
    },
};

pub use attach::{Attachment, Kind, LinkReport, LinkState, Reserved, Target, Xdp, ifindex, links};
pub(crate) use attach::{attaching_xdp, detach_unasked, state};
pub(crate) use carry::{NotCarried, Old};
pub use cost::{Memory, Room, room};
pub use directory::half;
use fast::Lent;
pub use gateways::{Gateway, gateways, shared};
pub use load::Programs;
pub(crate) use netlink::links as link_messages;
pub use others::{ForeignProgram, foreign_programs, foreign_programs_at};
pub use pin::{Lock, PinDir, WatchLock};
pub use table::{Slots, Table};
pub(crate) use undo::Before;
pub(crate) use wanted::least_lru_entries;

use crate::{address::socket, clock, service::Service};

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
    /// Established flows; of a settled one the moving numbers may be in the cache ([`Self::flow`]).
    pub flows: Table<FlowKey, Flow>,
    lent: Option<Lent>,
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
    refusals: Slots<Refusals>,
    // Nothing where the gateway's version has none, which a start makes.
    rests: Option<Slots<Rest>>,
    watch: Option<Slots<u32>>,
    journaling: Option<Slots<u32>>,
    /// When backends came to their newest ticket keys, by the VIP's number.
    pub rotations: Slots<Rotation>,
    pub(crate) backend_ids: Table<Endpoint, u32>,
    vips: Table<Endpoint, Vip>,
    directory: Slots<EndpointEntry>,
    entrances: entrances::Entrances,
    exempt: exempt::Exempt,
    bridged: bridge::Bridged,
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
    // As `rests`.
    answers: Option<PerCpuArray<MapData, Answers>>,
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
            lent: Lent::open(dir)?,
            splices: Table::open(dir, "splices")?,
            handshakes: Table::open(dir, "handshakes")?,
            foreign: Table::open(dir, "foreign")?,
            legs: Table::open(dir, "legs")?,
            backends: Slots::open(dir, "backends")?,
            backend_paths: Slots::open(dir, "backend_paths")?,
            refusals: Slots::open(dir, "refusals")?,
            rests: dir.map("rests").exists().then(|| Slots::open(dir, "rests")).transpose()?,
            watch: dir.map("watch").exists().then(|| Slots::open(dir, "watch")).transpose()?,
            journaling: dir
                .map("journaling")
                .exists()
                .then(|| Slots::open(dir, "journaling"))
                .transpose()?,
            rotations: Slots::open(dir, "rotations")?,
            backend_ids: Table::open(dir, "backend_ids")?,
            vips: Table::open(dir, "vips")?,
            directory: Slots::open(dir, "directory")?,
            entrances: entrances::Entrances::open(dir)?,
            exempt: exempt::Exempt::open(dir)?,
            bridged: bridge::Bridged::open(dir)?,
            lookup: Slots::open(dir, "lookup")?,
            settings: open(dir, "settings")?,
            switches: open(dir, "switches")?,
            interfaces: Table::open(dir, "interfaces")?,
            configured: Table::open(dir, CONFIGURED.name)?,
            counters: open(dir, "counters")?,
            backend_stats: open(dir, "backend_stats")?,
            answers: dir.map("answers").exists().then(|| open(dir, "answers")).transpose()?,
        })
    }

    /// The ring of events.
    pub fn events(dir: &PinDir) -> Result<RingBuf<MapData>> {
        open(dir, "events")
    }

    /// The ring of what watchers are told.
    pub fn watched(dir: &PinDir) -> Result<RingBuf<MapData>> {
        open(dir, "watched")
    }

    /// The ring of what changed, for other gateways.
    pub fn journal(dir: &PinDir) -> Result<RingBuf<MapData>> {
        open(dir, "journal")
    }

    /// Has the programs note what changes until then, seconds of CLOCK_MONOTONIC.
    pub fn set_journaling(&mut self, until: u32) -> Result<()> {
        let journaling = self.journaling.as_mut().context("these programs note no changes")?;
        journaling.set(0, &until)
    }

    /// Has the programs tell watchers until then, seconds of CLOCK_MONOTONIC; 0: no more.
    pub fn set_watch(&mut self, until: u32) -> Result<()> {
        let watch = self
            .watch
            .as_mut()
            .context("these programs tell no watcher: start this version's agent")?;
        watch.set(0, &until)
    }

    /// A counter, summed over all CPUs.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let per_cpu =
            self.counters.get(&u32::from(counter as u16), 0).context("read the map counters")?;
        Ok(per_cpu.iter().sum())
    }

    /// What a backend did, summed over all CPUs.
    pub fn backend_stats(&self, id: u32) -> Result<BackendStats> {
        let per_cpu = self.backend_stats.get(&id, 0).context("read the map backend_stats")?;
        Ok(per_cpu.iter().fold(BackendStats::default(), sum))
    }

    /// Whether a backend answers, summed over all CPUs; nothing where the gateway's version has no
    /// such map.
    pub fn answers(&self, id: u32) -> Result<Answers> {
        let Some(answers) = &self.answers else { return Ok(Answers::default()) };
        let per_cpu = answers.get(&id, 0).context("read the map answers")?;
        let sum = |Answers { answered, withdrawn }, next: &Answers| Answers {
            answered: answered + next.answered,
            withdrawn: withdrawn + next.withdrawn,
        };
        Ok(per_cpu.iter().fold(Answers::default(), sum))
    }

    /// Every slot of the map `backends` that holds or held a backend.
    pub fn backends(&self) -> Result<Vec<(u32, Backend)>> {
        let all = (0..).zip(self.backends.all()?);
        Ok(all.filter(|(_, backend)| backend.endpoint != Endpoint::default()).collect())
    }

    /// The backend in one slot of the map `backends`, if it holds or held one.
    pub fn backend(&self, id: u32) -> Result<Option<Backend>> {
        let backend = self.backends.read(id)?;
        Ok((backend.endpoint != Endpoint::default()).then_some(backend))
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

    /// What all backends made of the offers that they were held to own, by their numbers.
    pub fn refusals(&self) -> Result<Vec<Refusals>> {
        self.refusals.all()
    }

    /// Which backends moves rest from, by their numbers; nothing where the gateway's version has no
    /// such map.
    pub fn rests(&self) -> Result<Vec<Rest>> {
        self.rests.as_ref().map_or_else(|| Ok(Vec::new()), Slots::all)
    }

    /// Writes what is known of the way to a backend; the programs write it too.
    pub fn set_backend_path(&mut self, id: u32, path: &BackendPath) -> Result<()> {
        self.backend_paths.set(id, path)
    }

    /// Empties a slot of the map `backends`, and what its backend did and how it was reached.
    pub fn clear_backend(&mut self, id: u32) -> Result<()> {
        self.set_backend(id, &Backend::default())?;
        self.set_backend_path(id, &BackendPath::default())?;
        self.clear_bridge_path(id)?;
        self.refusals.set(id, &Refusals::default())?;
        self.rests.as_mut().map_or(Ok(()), |rests| rests.set(id, &Rest::default()))?;
        for (vip, mut rotation) in (0..).zip(self.rotations.all()?) {
            if rotation::forget(&mut rotation, id as u16) {
                self.rotations.set(vip, &rotation)?;
            }
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error).context("count the CPUs")?;
        if let Some(answers) = &mut self.answers {
            let zero = PerCpuValues::try_from(vec![Answers::default(); cpus])
                .context("make empty statistics")?;
            answers.set(id, zero, 0).context("write the map answers")?;
        }
        let zero = PerCpuValues::try_from(vec![BackendStats::default(); cpus])
            .context("make empty statistics")?;
        self.backend_stats.set(id, zero, 0).context("write the map backend_stats")
    }

    /// Whether a switch is on ([`steer_common::shared::SWITCH_BYPASS`] and its like).
    pub fn switch(&self, index: u32) -> Result<bool> {
        Ok(self.switches.get(&index, 0).context("read the map switches")? != 0)
    }

    /// Turns a switch on or off.
    pub fn set_switch(&mut self, index: u32, on: bool) -> Result<()> {
        self.set_switch_number(index, on.into())
    }

    /// Writes what is a number in `switches`.
    pub fn set_switch_number(&mut self, index: u32, number: u32) -> Result<()> {
        self.switches.set(index, number, 0).context("write the map switches")
    }

    /// Has packets without a settled flow dropped until then, seconds of CLOCK_MONOTONIC: tables
    /// are filled from others. 0 ends it.
    pub(crate) fn set_filling(&mut self, until: u32) -> Result<()> {
        self.switches.set(SWITCH_RESIZING, until, 0).context("write the map switches")?;
        passed::packets_at_hand();
        Ok(())
    }

    /// Ends [`SWITCH_LEAVE`]: notes for every VIP that older connections than now are not this
    /// gateway's, then takes new ones again.
    pub fn end_leave(&mut self) -> Result<()> {
        let since = clock::seconds();
        for (number, entrance) in self.entrances()? {
            self.set_entrance(number, &Entrance { since, ..entrance })?;
        }
        let vips = self.vips()?.into_iter().map(|(at, vip)| (at, Vip { since, ..vip }));
        self.set_vips(&vips.collect::<Vec<_>>())?;
        self.set_switch(SWITCH_LEAVE, false)
    }

    /// A flow's record, with what it lent to the cache of settled flows.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>> {
        let mut flow = self.flows.find(key)?;
        if let (Some(flow), Some(lent)) = (&mut flow, &self.lent) {
            lent.look(key, flow, self.settings()?.secret)?;
        }
        Ok(flow)
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

/// The addresses of the VIPs of every layout that is pinned here. Each has them as keys of its map
/// `vips`, and those that share a pool in `entrances`.
pub fn vip_addresses(dir: &PinDir) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for layout in dir.layouts() {
        let keys = MapData::from_pin(layout.map("vips")).ok().and_then(|map| {
            let key_size = map.info().ok()?.key_size() as usize;
            (key_size == size_of::<Endpoint>())
                .then(|| sys::keys::<Endpoint>(map.fd().as_fd()).ok())?
        });
        let vips = keys.unwrap_or_default().into_iter().map(|at| Service::of(&at));
        found.extend(vips.filter_map(|vip| vip.address()).map(|address| address.ip()));
        let entrances = entrances::Entrances::open(&layout).and_then(|map| map.all());
        let sharing = entrances.unwrap_or_default();
        found.extend(sharing.iter().map(|(_, entrance)| socket(&entrance.endpoint).ip()));
    }
    found
}

/// Every interface that carries a program, with its kind.
pub fn attachments(dir: &PinDir) -> Vec<(String, Kind)> {
    let links = dir.links().into_iter().map(|(interface, kind, _)| (interface, kind));
    links
        .chain(clsact::interfaces(dir).into_iter().map(|interface| (interface, Kind::Tc)))
        .collect()
}

fn open<M>(dir: &PinDir, name: &str) -> Result<M>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let opened =
        MapData::from_pin(dir.map(name)).and_then(Map::from_map_data).and_then(M::try_from);
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
