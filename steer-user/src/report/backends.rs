//! `steer backends list`.

use std::net::SocketAddr;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use steer_common::shared::{
    BACKEND_DRAINING, BACKEND_PRESENT, BACKEND_UP, Backend, Outcomes, PATH_RETURN_SEEN,
};

use crate::{address::socket, clock, plane::Plane, service::Service};

/// Every backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backends {
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
    /// Seconds until the sessions of a draining one go elsewhere; absent: no deadline.
    pub drain_seconds: Option<u32>,
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
    /// Nothing but the rest of its flows.
    Removed,
}

impl BackendState {
    /// The word in CLI and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Removed => "removed",
        }
    }

    pub(super) fn of(backend: &Backend) -> Self {
        let has = |flag| backend.flags & flag != 0;
        match () {
            () if !has(BACKEND_PRESENT) => Self::Removed,
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
        Ok(Self { backends: plane.backends()?.into_iter().map(report).collect::<Result<_>>()? })
    }
}

impl BackendReport {
    fn read(plane: &Plane, id: u32, backend: &Backend) -> Result<Self> {
        let stats = plane.backend_stats(id)?;
        let deadline = Some(backend.drain_until)
            .filter(|until| *until != 0 && backend.flags & BACKEND_DRAINING != 0);
        Ok(Self {
            id,
            address: socket(&backend.endpoint),
            vip: Service::of(&backend.vip),
            state: BackendState::of(backend),
            weight: backend.weight,
            drain_seconds: deadline.map(|until| until.saturating_sub(clock::seconds())),
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
            drain_seconds: None,
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
