//! The gateway's maps and switches as a source of metrics.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Unit,
};
use steer_common::{
    counters::Counter,
    shared::{LAYOUT_VERSION, SWITCH_BYPASS, SWITCH_LEAVE},
};

use super::kinds::Kind as Counted;
use crate::{
    agent::{
        Swept,
        checks::{Kind, Standing},
        not_made, not_written,
    },
    clock,
    plane::Plane,
    report::{
        BackendReport, BackendState, Backends, Keys, LayoutReport, NameOrigin, Resumptions, Stats,
    },
    supervisor,
};

/// The maps as a source of metrics.
pub(super) struct Maps {
    plane: Plane,
    gauges: Arc<Mutex<Swept>>,
    standing: Standing,
    /// When the agent started, seconds since 1970; a reload is no start.
    started: u64,
}

impl Maps {
    /// Of an agent that has just started.
    pub(super) fn new(plane: Plane, gauges: Arc<Mutex<Swept>>, standing: Standing) -> Self {
        Self { plane, gauges, standing, started: supervisor::started() }
    }
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maps")
    }
}

impl Collector for Maps {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let unreadable = |error| {
            log::warn!("read the maps for a scrape: {error:#}");
            fmt::Error
        };
        counted(&mut encoder, &Stats::read(&self.plane).map_err(unreadable)?)?;
        let swept = self.gauges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let report = Backends::read(&self.plane).map_err(unreadable)?;
        let counted = swept.held.began != 0;
        let report =
            if counted { report.counted(&swept.held, clock::nanoseconds()) } else { report };
        backends(&mut encoder, &report)?;
        resumptions(&mut encoder, &report)?;
        key_names(&mut encoder, &Keys::read(&self.plane, None).map_err(unreadable)?)?;
        tables(&mut encoder, &swept)?;
        capacities(&mut encoder, &room(&self.plane).map_err(unreadable)?)?;
        self.gateway(&mut encoder).map_err(unreadable)?;
        warnings(&mut encoder, &self.standing)
    }
}

impl Maps {
    /// The agent and the switches.
    fn gateway(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<()> {
        build_info(encoder)?;
        let started = ConstGauge::new(i64::try_from(self.started).unwrap_or(i64::MAX));
        let help = "When the agent started, since 1970";
        let unit = Some(&Unit::Seconds);
        let family =
            encoder.encode_descriptor("agent_start_time", help, unit, started.metric_type())?;
        started.encode(family)?;
        let help = "Whether steering is off: every new flow stays on its first backend";
        gauge(encoder, "bypass", help, self.plane.switch(SWITCH_BYPASS)?.into())?;
        let help = "Whether new connections to VIPs pass to the kernel's own rules";
        gauge(encoder, "leave", help, self.plane.switch(SWITCH_LEAVE)?.into())?;
        let help = "The most splices since the agent started, as its sweeps met them";
        gauge(encoder, "splices_high", help, self.standing.splices_high())?;
        let not_made = ConstCounter::new(not_made());
        let help = "Health checks that could not be made for a fault of the gateway's own: they count for nothing";
        let name = "health_checks_not_made";
        not_made.encode(encoder.encode_descriptor(name, help, None, not_made.metric_type())?)?;
        let not_written = ConstCounter::new(not_written());
        let help = "Times that the file of what outlasts a reboot could not be written";
        let name = "state_file_not_written";
        let kind = not_written.metric_type();
        not_written.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        Ok(())
    }
}

fn build_info(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let info = Info::new([
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("layout", LAYOUT_VERSION.to_string()),
    ]);
    let family = encoder.encode_descriptor(
        "build",
        "Version of the agent, and of the layout of its maps",
        None,
        info.metric_type(),
    )?;
    info.encode(family)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

/// Every kind, so that what never was wrong is 0 and not absent.
fn warnings(encoder: &mut DescriptorEncoder<'_>, standing: &Standing) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let help = "Whether something of a kind needs attention; the log and steer status say what";
    let mut family = encoder.encode_descriptor("warning", help, None, kind)?;
    let now = standing.all();
    for kind in Kind::ALL {
        let stands = now.iter().any(|warning| warning.kind == kind);
        ConstGauge::new(i64::from(stands))
            .encode(family.encode_family(&[("kind", kind.word())])?)?;
    }
    Ok(())
}

/// What the tables can hold.
fn room(plane: &Plane) -> Result<[(&'static str, u32); 9]> {
    Ok([
        ("sessions", plane.sessions.max_entries()?),
        ("key_names", plane.key_names.max_entries()?),
        ("key_name_tries", plane.key_name_tries.max_entries()?),
        ("sources", plane.sources.max_entries()?),
        ("flows", plane.flows.max_entries()?),
        ("splices", plane.splices.max_entries()?),
        ("handshakes", plane.handshakes.max_entries()?),
        ("foreign", plane.foreign.max_entries()?),
        ("legs", plane.legs.max_entries()?),
    ])
}

fn capacities(encoder: &mut DescriptorEncoder<'_>, room: &[(&'static str, u32)]) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor(
        "table_max_entries",
        "Entries that a table can hold",
        None,
        kind,
    )?;
    for (table, entries) in room {
        ConstGauge::new(i64::from(*entries)).encode(family.encode_family(&[("table", *table)])?)?;
    }
    Ok(())
}

/// A family for each kind of thing that is counted, so that a sum over one means something.
fn counted(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    for counted in Counted::ALL {
        let mut family = encoder.encode_descriptor(counted.word(), counted.help(), None, kind)?;
        for word in Counter::ALL.iter().filter(|word| Counted::of(**word) == counted) {
            let labels = [("event", word.word())];
            ConstCounter::new(stats.value(*word)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Name, explanation, unit and value of one family per backend.
type BackendFamily = (&'static str, &'static str, Option<Unit>, fn(&BackendReport) -> u64);

const BACKEND_FAMILIES: [BackendFamily; 9] = [
    ("backend_syns", "SYNs of new flows sent to it, repeated ones among them", None, |backend| {
        backend.syns
    }),
    ("backend_syn_acks", "SYN-ACKs of it that came back through the gateway", None, |backend| {
        backend.syn_acks
    }),
    ("backend_flows", "Flows whose first backend it was", None, |backend| backend.flows),
    ("backend_rehomed_flows", "Flows re-homed to it", None, |backend| backend.rehomed),
    ("backend_sessions_learned", "Sessions learned from it", None, |backend| backend.learned),
    ("backend_session_hits", "Hellos whose session it owned", None, |backend| backend.hits),
    ("backend_resumptions", "Resumptions it accepted", None, |backend| backend.resumed),
    ("backend_packets", "Packets to it and from it", None, |backend| backend.packets),
    ("backend", "Bytes to it and from it, from the IP header on", Some(Unit::Bytes), |backend| {
        backend.bytes
    }),
];

/// As [`BackendFamily`], counted by sweeps.
type BackendGauge = (&'static str, &'static str, fn(&BackendReport) -> Option<u64>);

const BACKEND_GAUGES: [BackendGauge; 3] = [
    ("backend_open_flows", "Connections open there at the last sweep", |backend| {
        backend.open_flows
    }),
    ("backend_sessions", "Sessions that led to it at the last sweep", |backend| backend.sessions),
    ("backend_key_names", "Names of ticket keys that led to it at the last sweep", |backend| {
        backend.key_names
    }),
];

fn backends(encoder: &mut DescriptorEncoder<'_>, report: &Backends) -> fmt::Result {
    for (name, help, unit, value) in BACKEND_FAMILIES {
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for backend in &report.backends {
            ConstCounter::new(value(backend)).encode(family.encode_family(&labels(backend))?)?;
        }
    }
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut family =
        encoder.encode_descriptor("backend_up", "Whether it takes new flows", None, kind)?;
    for backend in &report.backends {
        let up = ConstGauge::new(i64::from(backend.state == BackendState::Up));
        up.encode(family.encode_family(&labels(backend))?)?;
    }
    for (name, help, value) in BACKEND_GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for backend in &report.backends {
            if let Some(value) = value(backend) {
                let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                value.encode(family.encode_family(&labels(backend))?)?;
            }
        }
    }
    let help = "1 for the state that a backend is in";
    let mut family = encoder.encode_descriptor("backend_state", help, None, kind)?;
    for backend in &report.backends {
        for state in BackendState::ALL {
            let is = ConstGauge::new(i64::from(backend.state == state));
            let [address, vip] = labels(backend);
            let labels = [address, vip, ("state", state.word().to_owned())];
            is.encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Its share of new flows";
    let mut family = encoder.encode_descriptor("backend_weight", help, None, kind)?;
    for backend in &report.backends {
        let weight = ConstGauge::new(i64::from(backend.weight));
        weight.encode(family.encode_family(&labels(backend))?)?;
    }
    Ok(())
}

fn resumptions(encoder: &mut DescriptorEncoder<'_>, report: &Backends) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    let help = "Hellos by what their backend answered; version 1.2 is 1.2 and below";
    let mut family = encoder.encode_descriptor("resumptions", help, None, kind)?;
    for backend in &report.backends {
        for (version, outcomes) in [("1.2", backend.tls12), ("1.3", backend.tls13)] {
            let Resumptions { accepted, rejected, not_offered } = outcomes;
            for (outcome, n) in
                [("accepted", accepted), ("rejected", rejected), ("not-offered", not_offered)]
            {
                let [address, vip] = labels(backend);
                let labels = [
                    address,
                    vip,
                    ("version", version.to_owned()),
                    ("outcome", outcome.to_owned()),
                ];
                ConstCounter::new(n).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

/// A shared name counts as shared only, however its owner is known.
fn key_names(encoder: &mut DescriptorEncoder<'_>, keys: &Keys) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let help = "Names of ticket keys; those that are shared do not steer";
    let mut family = encoder.encode_descriptor("key_names", help, None, kind)?;
    for LayoutReport { vip, .. } in &keys.layouts {
        let own = keys.names.iter().filter(|name| name.vip == Some(*vip));
        let of = |origin| own.clone().filter(|name| !name.shared && name.origin == origin).count();
        let states = NameOrigin::ALL.map(|origin| (origin.word(), of(origin)));
        let shared = own.clone().filter(|name| name.shared).count();
        for (state, n) in states.into_iter().chain([("shared", shared)]) {
            let n = ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX));
            n.encode(
                family.encode_family(&[("vip", vip.to_string()), ("state", state.to_owned())])?,
            )?;
        }
    }
    Ok(())
}

fn labels(backend: &BackendReport) -> [(&'static str, String); 2] {
    [("backend", backend.address.to_string()), ("vip", backend.vip.to_string())]
}

fn tables(encoder: &mut DescriptorEncoder<'_>, swept: &Swept) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let help = "Entries of a table at the last sweep";
    let mut family = encoder.encode_descriptor("table_entries", help, None, kind)?;
    let tables = [
        ("sessions", swept.sessions),
        ("key_names", swept.key_names),
        ("flows", swept.flows),
        ("splices", swept.splices),
    ];
    for (table, entries) in tables {
        let entries = ConstGauge::new(i64::try_from(entries).unwrap_or(i64::MAX));
        entries.encode(family.encode_family(&[("table", table)])?)?;
    }
    Ok(())
}
