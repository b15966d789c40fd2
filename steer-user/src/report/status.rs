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
    BACKEND_BRIDGED, BACKEND_DISABLED, BACKEND_DRAINING, BACKEND_OFF, BACKEND_PRESENT, Backend,
    LAYOUT_VERSION, SWITCH_BYPASS, SWITCH_LEAVE, VIP_OBSERVE,
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
    /// How it is, for monitoring.
    pub health: Health,
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

/// How a gateway is, with the reasons.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// In one word.
    pub state: HealthState,
    /// What keeps it from being healthy, as sentences; of a gateway that is down also what else
    /// is wrong.
    pub because: Vec<String>,
}

/// How a gateway is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Nothing is wrong.
    Healthy,
    /// Something needs attention.
    Degraded,
    /// No agent runs, or a program is not attached where it should be.
    Down,
}

impl HealthState {
    /// The word in CLI and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }

    /// The exit code of `steer status`.
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}

impl Health {
    /// Judges what was found: interfaces that are there without their TC program, backends that do
    /// not answer, and how many warnings there are.
    fn new(
        agent: &AgentReport,
        detached: &[String],
        interfaces: &[InterfaceReport],
        backends: &Backends,
        n_warnings: usize,
    ) -> Self {
        let mut found = Vec::new();
        match agent {
            AgentReport { running: false, .. } => {
                found.push((HealthState::Down, "no agent runs".to_owned()));
            }
            AgentReport { starting: true, .. } => {
                found.push((HealthState::Degraded, "the agent is starting".to_owned()));
            }
            AgentReport { pid: None, .. } => {
                let why = "the agent does not answer at this --socket";
                found.push((HealthState::Degraded, why.to_owned()));
            }
            _ => {}
        }
        let detached = detached.iter().map(|name| format!("no program is attached at {name}"));
        found.extend(detached.map(|why| (HealthState::Down, why)));
        if !agent.starting && interfaces.iter().all(|interface| !interface.tc) {
            found.push((HealthState::Down, "no program is attached anywhere".to_owned()));
        }
        let down = backends.backends.iter().filter(|b| b.state == BackendState::Down);
        let down = down.map(|b| format!("backend {} of {} is down", b.address, b.vip.titled()));
        found.extend(down.map(|why| (HealthState::Degraded, why)));
        match n_warnings {
            0 => {}
            1 => found.push((HealthState::Degraded, "there is a warning".to_owned())),
            n => found.push((HealthState::Degraded, format!("there are {n} warnings"))),
        }
        Self {
            state: found.iter().map(|(state, _)| *state).max().unwrap_or(HealthState::Healthy),
            because: found.into_iter().map(|(_, why)| why).collect(),
        }
    }
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
    /// Connections that are open at its backends; absent: the agent did not tell.
    #[serde(default)]
    pub open_flows: Option<u64>,
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
        let backends = match control::ask_held(dir, socket) {
            Ok(Some(held)) => Backends::read(&plane)?.counted(&held, clock::nanoseconds()),
            Ok(None) | Err(_) => Backends::read(&plane)?,
        };
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
            health: Health::new(&agent, &detached(dir), &interfaces, &backends, all.len()),
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
        let agent = AgentReport { running: true, starting: true, pid: None, version: None };
        let nothing = Backends { counted_seconds: None, backends: Vec::new() };
        Self {
            pin_dir: dir.root().to_owned(),
            layout: LAYOUT_VERSION,
            health: Health::new(&agent, &[], &[], &nothing, 0),
            agent,
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

/// Interfaces that are there without the TC program that they should have.
fn detached(dir: &PinDir) -> Vec<String> {
    let links = plane::links(dir).into_iter();
    let without = links.filter(|link| {
        matches!(link.kind, plane::Kind::Tc) && matches!(link.state, LinkState::Detached)
    });
    without.map(|link| link.interface).collect()
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
    Backends { counted_seconds: None, backends: routed.cloned().collect() }
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
                open_flows: backends
                    .backends
                    .iter()
                    .filter(|b| b.vip == address)
                    .map(|b| b.open_flows)
                    .sum(),
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
        let state = match () {
            () if backend.flags & BACKEND_OFF != 0 => "is off",
            () if backend.flags & BACKEND_DISABLED != 0 => "is disabled",
            () if backend.flags & BACKEND_DRAINING != 0 => "drains",
            () => continue,
        };
        sentences.insert(format!("{address} {state}; the configuration says nothing of it"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::BackendReport;

    #[test]
    fn health_is_the_worst_of_what_is_wrong_and_names_all_of_it() {
        let agent = |running, pid| AgentReport { running, starting: false, pid, version: None };
        let at = |tc| InterfaceReport { name: "eth0".into(), tc, xdp: false, takes_xdp: false };
        let in_state = |state| Backends {
            counted_seconds: None,
            backends: vec![BackendReport { state, ..BackendReport::idle() }],
        };
        let judge = |agent: &AgentReport, detached: &[&str], tc, state, n_warnings| {
            let detached = detached.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let health = Health::new(agent, &detached, &[at(tc)], &in_state(state), n_warnings);
            (health.state.exit_code(), health.because.join("; "))
        };
        let (runs, silent, none) = (agent(true, Some(7)), agent(true, None), agent(false, None));
        let up = BackendState::Up;
        assert_eq!(judge(&runs, &[], true, up, 0), (0, String::new()));
        let on_purpose = [
            BackendState::Draining,
            BackendState::Disabled,
            BackendState::Off,
            BackendState::Removed,
        ];
        for unharmed in on_purpose {
            assert_eq!(judge(&runs, &[], true, unharmed, 0).0, 0);
        }
        let told = judge(&runs, &[], true, BackendState::Down, 2);
        let why = "backend 10.0.0.1:443 of VIP 198.51.100.10:443 is down; there are 2 warnings";
        assert_eq!(told, (1, why.to_owned()));
        assert_eq!(judge(&runs, &[], true, up, 1), (1, "there is a warning".to_owned()));
        assert_eq!(judge(&silent, &[], true, up, 0).0, 1);
        let told = judge(&none, &[], true, up, 1);
        assert_eq!(told, (2, "no agent runs; there is a warning".to_owned()));
        let told = judge(&runs, &["eth1"], true, up, 1);
        assert_eq!(told, (2, "no program is attached at eth1; there is a warning".to_owned()));
        assert_eq!(judge(&runs, &[], false, up, 0).0, 2);
        let starting = AgentReport { starting: true, ..agent(true, None) };
        assert_eq!(judge(&starting, &[], false, up, 0), (1, "the agent is starting".to_owned()));
    }
}
