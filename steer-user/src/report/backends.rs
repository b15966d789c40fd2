//! `steer backends list`.

use std::net::SocketAddr;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use steer_common::shared::{
    BACKEND_BACKUP, BACKEND_DISABLED, BACKEND_DRAINING, BACKEND_OFF, BACKEND_PRESENT, BACKEND_UP,
    Backend, Outcomes, PATH_RETURN_SEEN,
};

use crate::{
    address::socket,
    agent::{Held, Holding},
    clock,
    plane::Plane,
    service::Service,
};

/// Every backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backends {
    /// How old `open_flows` and what else is counted by sweeps may be, seconds; absent: the agent
    /// did not tell.
    pub counted_seconds: Option<u32>,
    /// In the order of their numbers.
    pub backends: Vec<BackendReport>,
}

/// One backend and what it did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendReport {
    /// Its `BackendId`.
    pub id: u32,
    /// Its address and port.
    pub address: SocketAddr,
    /// The VIP it stands behind, or its pool.
    pub vip: Service,
    /// What it may get.
    pub state: BackendState,
    /// Its share of new flows.
    pub weight: u16,
    /// Whether it gets new flows only while no other one takes any.
    pub backup: bool,
    /// Seconds until the sessions of a draining one go elsewhere; absent: no deadline.
    pub drain_seconds: Option<u32>,
    /// Connections that are open there; absent: the agent did not tell.
    pub open_flows: Option<u64>,
    /// Sessions that lead to it; absent: the agent did not tell.
    pub sessions: Option<u64>,
    /// Names of ticket keys that lead to it; absent: the agent did not tell.
    pub key_names: Option<u64>,
    /// Whether a packet of a steered flow came back from it.
    pub return_path_seen: bool,
    /// SYNs of new flows sent to it, repeated ones among them.
    pub syns: u64,
    /// SYN-ACKs of it that came back through here.
    pub syn_acks: u64,
    /// Flows whose first backend it was.
    pub flows: u64,
    /// Flows re-homed to it.
    pub rehomed: u64,
    /// Sessions learned from it.
    pub learned: u64,
    /// Hellos whose session it owned.
    pub hits: u64,
    /// Resumptions it accepted, of all versions.
    pub resumed: u64,
    /// What became of hellos to it, TLS 1.2 and below.
    pub tls12: Resumptions,
    /// What became of hellos to it, TLS 1.3.
    pub tls13: Resumptions,
    /// Packets to it and from it.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// What became of hellos that were read, by what their backend answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resumptions {
    /// Sessions that it resumed.
    pub accepted: u64,
    /// Sessions that were offered and not resumed.
    pub rejected: u64,
    /// Full handshakes whose client offered none.
    pub not_offered: u64,
}

impl Resumptions {
    /// Of a hundred sessions offered, how many were resumed; `None` where none was offered.
    pub fn rate(self) -> Option<f64> {
        let offered = self.accepted + self.rejected;
        (offered > 0).then(|| self.accepted as f64 * 100.0 / offered as f64)
    }
}

impl From<Outcomes> for Resumptions {
    fn from(Outcomes { accepted, rejected, not_offered }: Outcomes) -> Self {
        Self { accepted, rejected, not_offered }
    }
}

/// What a backend may get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// New flows.
    Up,
    /// No new flow: it does not answer.
    Down,
    /// Only flows of the sessions it owns.
    Draining,
    /// No new flow and none of its sessions, as an operator said; what runs goes on.
    Disabled,
    /// As one that is down, as an operator said.
    Off,
    /// Nothing but the rest of its flows.
    Removed,
}

impl BackendState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Up, Self::Down, Self::Draining, Self::Disabled, Self::Off, Self::Removed];

    /// The word in CLI and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::Off => "off",
            Self::Removed => "removed",
        }
    }

    pub(super) fn of(backend: &Backend) -> Self {
        let has = |flag| backend.flags & flag != 0;
        match () {
            () if !has(BACKEND_PRESENT) => Self::Removed,
            // An operator's own doing is no news.
            () if has(BACKEND_OFF) => Self::Off,
            () if has(BACKEND_DISABLED) => Self::Disabled,
            () if !has(BACKEND_UP) => Self::Down,
            () if has(BACKEND_DRAINING) => Self::Draining,
            () => Self::Up,
        }
    }
}

impl Backends {
    /// Reads the maps.
    pub fn read(plane: &Plane) -> Result<Self> {
        let report = |(id, backend)| BackendReport::read(plane, id, &backend);
        let backends = plane.backends()?.into_iter().map(report).collect::<Result<_>>()?;
        Ok(Self { counted_seconds: None, backends })
    }

    /// With what a sweep of the agent counted.
    pub fn counted(mut self, held: &Held, now: u64) -> Self {
        self.counted_seconds = Some(held.age_seconds(now));
        for backend in &mut self.backends {
            let Holding { flows, sessions, key_names, .. } = held.of(backend.id);
            (backend.open_flows, backend.sessions, backend.key_names) =
                (Some(flows), Some(sessions), Some(key_names));
        }
        self
    }
}

impl BackendReport {
    fn read(plane: &Plane, id: u32, backend: &Backend) -> Result<Self> {
        let stats = plane.backend_stats(id)?;
        let deadline = Some(backend.drain_until)
            .filter(|until| *until != 0 && BackendState::of(backend) == BackendState::Draining);
        Ok(Self {
            id,
            address: socket(&backend.endpoint),
            vip: Service::of(&backend.vip),
            state: BackendState::of(backend),
            weight: backend.weight,
            backup: backend.flags & BACKEND_BACKUP != 0,
            drain_seconds: deadline.map(|until| until.saturating_sub(clock::seconds())),
            open_flows: None,
            sessions: None,
            key_names: None,
            return_path_seen: plane.backend_path(id)?.flags & PATH_RETURN_SEEN != 0,
            syns: stats.syns,
            syn_acks: stats.syn_acks,
            flows: stats.flows,
            rehomed: stats.rehomed,
            learned: stats.learned,
            hits: stats.hits,
            resumed: stats.tls12.accepted + stats.tls13.accepted,
            tls12: stats.tls12.into(),
            tls13: stats.tls13.into(),
            packets: stats.packets,
            bytes: stats.bytes,
        })
    }

    /// One that is up and has done nothing yet.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        let nothing = Resumptions { accepted: 0, rejected: 0, not_offered: 0 };
        Self {
            id: 0,
            address: SocketAddr::from(([10, 0, 0, 1], 443)),
            vip: Service::Vip(SocketAddr::from(([198, 51, 100, 10], 443))),
            state: BackendState::Up,
            weight: 1,
            backup: false,
            drain_seconds: None,
            open_flows: None,
            sessions: None,
            key_names: None,
            return_path_seen: false,
            syns: 0,
            syn_acks: 0,
            flows: 0,
            rehomed: 0,
            learned: 0,
            hits: 0,
            resumed: 0,
            tls12: nothing,
            tls13: nothing,
            packets: 0,
            bytes: 0,
        }
    }
}
