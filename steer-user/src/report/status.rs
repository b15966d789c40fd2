//! `steer status`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::link::LinkMessage;
use serde::{Deserialize, Serialize};
use steer_common::shared::{
    BACKEND_BRIDGED, BACKEND_PRESENT, Backend, LAYOUT_VERSION, SWITCH_BYPASS, SWITCH_LEAVE,
    VIP_OBSERVE,
};

use super::{BackendState, Backends, Keys};
use crate::{
    address::socket,
    agent::{
        Port,
        checks::{self, Kind, Machine, Warning},
        takes_xdp,
    },
    clock,
    config::{Bridge, Side},
    control,
    plane::{self, LinkReport, LinkState, PinDir, Plane},
    service::Service,
};

/// The gateway at a glance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Where its state is pinned.
    pub pin_dir: PathBuf,
    /// Version of the map layouts.
    pub layout: u32,
    /// Its agent.
    pub agent: AgentReport,
    /// Whether steering is off.
    pub bypass: bool,
    /// New connections pass to the kernel's own rules.
    pub leave: bool,
    /// Where its programs are attached.
    pub interfaces: Vec<InterfaceReport>,
    /// The bridges whose ports it looks at.
    pub bridges: Vec<BridgeReport>,
    /// Its VIPs.
    pub vips: Vec<VipReport>,
    /// How full its tables are.
    pub tables: Vec<TableReport>,
    /// Where the CLI changed what the configuration says, as sentences.
    pub drift: Vec<String>,
    /// Backends at bridges to which nothing can be moved, for no frames showed the way lately, as
    /// sentences.
    pub unseen: Vec<String>,
    /// What needs attention, as sentences.
    pub warnings: Vec<String>,
}

/// The agent, if one runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AgentReport {
    /// Whether one runs.
    pub running: bool,
    /// Whether it has not finished its start yet.
    pub starting: bool,
    /// Its process; absent when it does not answer at the socket.
    pub pid: Option<u32>,
    /// Its version; absent when it does not answer at the socket.
    pub version: Option<String>,
}

/// The programs on one interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// Whether the TC program is attached.
    pub tc: bool,
    /// Whether the XDP program is attached.
    pub xdp: bool,
    /// Whether XDP programs send to it; else packets to it leave by TC.
    pub takes_xdp: bool,
}

/// A bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BridgeReport {
    /// Its name.
    pub name: String,
    /// Its ports, those outside first.
    pub ports: Vec<PortReport>,
}

/// A port of a bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// The side that the configuration has it on.
    pub side: Side,
    /// What the bridge does with it, or `gone`, `no-port` of this bridge, `unfit` where the whole
    /// bridge is not one to look at, `unknown` in another network namespace.
    pub state: String,
    /// Whether frames that come in by it are looked at.
    pub looked_at: bool,
}

/// One VIP, or one inline pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VipReport {
    /// Its `VipId`.
    pub id: u16,
    /// What clients dial; of an inline pool its name.
    pub address: Service,
    /// Other VIPs that share its pool.
    #[serde(default)]
    pub also: Vec<SocketAddr>,
    /// `steer` or `observe`.
    pub mode: String,
    /// Backends in its pool.
    pub backends: u32,
    /// Those of them that take new flows.
    pub backends_up: u32,
    /// Seconds after which an unused session is forgotten.
    pub session_timeout_seconds: u32,
}

/// One table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableReport {
    /// Its name.
    pub name: String,
    /// Entries it holds.
    pub entries: u64,
    /// Entries it can hold.
    pub max_entries: u32,
}

impl Status {
    /// Reads the maps and the machine, and asks the agent who it is and what it sees.
    ///
    /// # Errors
    /// When the maps cannot be read and no agent is just making them.
    pub fn read(dir: &PinDir, socket: &Path) -> Result<Self> {
        let plane = match Plane::open(dir) {
            Ok(plane) => plane,
            Err(_) if dir.agent_runs() => return Ok(Self::starting(dir)),
            Err(error) => return Err(error).with_context(|| not_whole(dir)),
        };
        let backends = Backends::read(&plane)?;
        let vips = VipReport::read(&plane, &backends)?;
        let interfaces = interfaces(dir, &plane)?;
        let agent = agent(dir, socket, !vips.is_empty());
        let bridges = dir.bridges();
        let links = match bridges.is_empty() || !dir.is_in_this_netns() {
            true => None,
            false => Some(plane::link_messages()?),
        };
        let members = plane.backends()?;
        let (paths, seconds) = (plane.bridge_paths()?, clock::seconds());
        let seen = if agent.pid.is_some() { control::ask_warnings(socket) } else { Vec::new() };
        let mut now = around(dir, &interfaces, &vips, &routed(&backends, &members));
        now.extend(checks::traffic(&vips, &backends, &Keys::read(&plane, None)?));
        now.extend(checks::ambiguous(&members, &paths, seconds));
        if let Some(links) = &links {
            now.extend(checks::bridges(&bridges, links, &bridged(&members)));
        }
        // The agent, which may not look at every program, has no names for those of others.
        let seen = seen.into_iter().filter(|warning| warning.kind != Kind::OtherProgram);
        let all = now.into_iter().chain(seen).collect::<BTreeSet<_>>();
        Ok(Self {
            pin_dir: dir.root().to_owned(),
            layout: LAYOUT_VERSION,
            agent,
            bypass: plane.switch(SWITCH_BYPASS)?,
            leave: plane.switch(SWITCH_LEAVE)?,
            warnings: all.into_iter().map(|warning| warning.text).collect(),
            bridges: BridgeReport::read(&plane, &bridges, links.as_deref())?,
            unseen: checks::unseen(&members, &paths, seconds),
            tables: tables(&plane)?,
            drift: drift(&plane, &backends)?,
            interfaces,
            vips,
        })
    }

    /// All that can be said while an agent makes its maps.
    fn starting(dir: &PinDir) -> Self {
        Self {
            pin_dir: dir.root().to_owned(),
            layout: LAYOUT_VERSION,
            agent: AgentReport { running: true, starting: true, pid: None, version: None },
            bypass: false,
            leave: false,
            interfaces: Vec::new(),
            bridges: Vec::new(),
            vips: Vec::new(),
            tables: Vec::new(),
            drift: Vec::new(),
            unseen: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// What an agent leaves that was killed in its start.
fn not_whole(dir: &PinDir) -> String {
    format!(
        "the state at {} is not whole: a start was broken off; start the agent again, or remove it with `steer detach`",
        dir.root().display()
    )
}

/// An agent that answers has started; one that does not, and has not written its VIPs or is just
/// changing what is there, has not.
fn agent(dir: &PinDir, socket: &Path, has_vips: bool) -> AgentReport {
    let running = dir.agent_runs();
    let (pid, version) = control::ask_about(dir, socket).filter(|_| running).unzip();
    AgentReport {
        running,
        starting: running && pid.is_none() && (!has_vips || dir.is_changing()),
        pid,
        version,
    }
}

/// A program counts where it is attached, whatever is pinned.
fn interfaces(dir: &PinDir, plane: &Plane) -> Result<Vec<InterfaceReport>> {
    let mut found = BTreeMap::new();
    for LinkReport { interface: name, kind, state } in plane::links(dir) {
        let takes_xdp = takes_xdp(plane, &name)?;
        let report = found.entry(name.clone()).or_insert(InterfaceReport {
            name,
            tc: false,
            xdp: false,
            takes_xdp,
        });
        let attached = matches!(state, LinkState::Attached | LinkState::Renamed(_));
        match kind {
            plane::Kind::Tc => report.tc = attached,
            plane::Kind::Xdp => report.xdp = attached,
        }
    }
    Ok(found.into_values().collect())
}

impl BridgeReport {
    /// The bridges of a gateway, as the interfaces of its network namespace tell.
    fn read(plane: &Plane, bridges: &[Bridge], links: Option<&[LinkMessage]>) -> Result<Vec<Self>> {
        let ports = Port::all(bridges, links.unwrap_or_default());
        let report = |port: &Port| {
            let (name, side) = (port.name.clone(), port.side);
            let state = links.map_or("unknown", |_| port.word()).to_owned();
            Ok(PortReport { name, side, state, looked_at: port.is_looked_at(plane)? })
        };
        let of = |bridge: &Bridge| {
            let ports = ports.iter().filter(|port| port.bridge == bridge.name);
            Ok(Self { name: bridge.name.clone(), ports: ports.map(report).collect::<Result<_>>()? })
        };
        bridges.iter().map(of).collect()
    }
}

/// The backends whose packets are routed here.
fn routed(backends: &Backends, members: &[(u32, Backend)]) -> Backends {
    let is_routed = |id: u32| {
        members.iter().any(|(of, backend)| *of == id && backend.flags & BACKEND_BRIDGED == 0)
    };
    let routed = backends.backends.iter().filter(|backend| is_routed(backend.id));
    Backends { backends: routed.cloned().collect() }
}

/// The addresses of those that are not.
fn bridged(members: &[(u32, Backend)]) -> Vec<IpAddr> {
    let bridged = members.iter().filter(|(_, backend)| backend.flags & BACKEND_BRIDGED != 0);
    bridged.map(|(_, backend)| socket(&backend.endpoint).ip()).collect()
}

impl VipReport {
    /// Every VIP, by number.
    pub fn read(plane: &Plane, backends: &Backends) -> Result<Vec<Self>> {
        let entrances = plane.entrances()?;
        let report = |(key, vip): (_, steer_common::shared::Vip)| {
            let address = Service::of(&key);
            let pool = backends
                .backends
                .iter()
                .filter(|b| b.vip == address && b.state != BackendState::Removed);
            Self {
                id: vip.id,
                address,
                also: entrances
                    .iter()
                    .filter(|(_, entrance)| entrance.pool == vip.id)
                    .map(|(_, entrance)| socket(&entrance.endpoint))
                    .collect(),
                mode: if vip.flags & VIP_OBSERVE == 0 { "steer" } else { "observe" }.to_owned(),
                backends: pool.clone().count() as u32,
                backends_up: pool.filter(|b| b.state == BackendState::Up && b.weight > 0).count()
                    as u32,
                session_timeout_seconds: vip.session_timeout,
            }
        };
        Ok(plane.vips()?.into_iter().map(report).collect())
    }
}

fn tables(plane: &Plane) -> Result<Vec<TableReport>> {
    let table = |name: &str, entries, max_entries| TableReport {
        name: name.to_owned(),
        entries,
        max_entries,
    };
    Ok(vec![
        table("sessions", plane.sessions.count()?, plane.sessions.max_entries()?),
        table("key_names", plane.key_names.count()?, plane.key_names.max_entries()?),
        table("flows", plane.flows.count()?, plane.flows.max_entries()?),
        table("splices", plane.splices.count()?, plane.splices.max_entries()?),
        table("handshakes", plane.handshakes.count()?, plane.handshakes.max_entries()?),
        table("foreign", plane.foreign.count()?, plane.foreign.max_entries()?),
        table("legs", plane.legs.count()?, plane.legs.max_entries()?),
    ])
}

/// Compares the pools with what the configuration said when it was applied last.
fn drift(plane: &Plane, backends: &Backends) -> Result<Vec<String>> {
    let mut sentences = BTreeSet::new();
    let configured = plane.configured.entries()?;
    for (key, says) in &configured {
        let address = socket(key);
        let found = backends
            .backends
            .iter()
            .find(|b| b.address == address && b.state != BackendState::Removed);
        sentences.extend(match found {
            None => Some(format!("{address} is removed; the configuration has it")),
            Some(now) if u32::from(now.weight) != says.weight => Some(format!(
                "{address} has weight {}; the configuration says {}",
                now.weight, says.weight
            )),
            Some(_) => None,
        });
    }
    for (_, backend) in plane.backends()? {
        let address = socket(&backend.endpoint);
        if backend.flags & BACKEND_PRESENT != 0
            && !configured.iter().any(|(key, _)| *key == backend.endpoint)
        {
            sentences.insert(format!("{address} is added; the configuration does not have it"));
        }
        if backend.flags & steer_common::shared::BACKEND_DRAINING != 0 {
            sentences.insert(format!("{address} drains; the configuration says nothing of it"));
        }
    }
    Ok(sentences.into_iter().collect())
}

/// What is wrong with the machine at this moment, `backends` being those that it routes to; the
/// agent sees what takes longer to see.
fn around(
    dir: &PinDir,
    interfaces: &[InterfaceReport],
    vips: &[VipReport],
    backends: &Backends,
) -> Vec<Warning> {
    let bridges = dir.bridges();
    let is_port = |name: &str| bridges.iter().flat_map(Bridge::ports).any(|(port, _)| port == name);
    let names = interfaces.iter().map(|interface| interface.name.clone());
    let names = names.filter(|name| !is_port(name)).collect::<Vec<_>>();
    let both_sides = if names.len() == 1 { names.clone() } else { Vec::new() };
    let vips_of_ours = vips
        .iter()
        .flat_map(|vip| vip.address.address().into_iter().chain(vip.also.iter().copied()))
        .collect::<Vec<_>>();
    let backends_at = backends.backends.iter().map(|backend| backend.address);
    let addresses = vips_of_ours.iter().copied().chain(backends_at).map(|at| at.ip()).collect();
    let mut warnings = checks::programs(dir, &vips_of_ours);
    warnings.extend(checks::machine(&Machine { interfaces: names, both_sides, addresses }));
    warnings
}
