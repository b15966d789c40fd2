//! Pools of a configuration: how clients come to one, its backends, and how their health is known.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;

use super::{KeyName, Prefix, TicketKeyName};
use crate::service::{PoolName, Service};

/// A pool, and how clients come to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// How clients come to it.
    pub shape: Shape,
    /// Whether flows are moved or only judged.
    pub mode: Mode,
    /// A session not used for so long is forgotten.
    pub session_timeout: Duration,
    /// A session is forgotten so long after it was learned; zero: no limit.
    pub session_limit: Duration,
    /// A flow without a packet for so long is forgotten.
    pub flow_timeout: Duration,
    /// Where the names of ticket keys stand.
    pub ticket_key_name: TicketKeyName,
    /// A learned key name of which no ticket was seen for so long is forgotten.
    pub key_name_timeout: Duration,
    /// Whether a session is learned of a client that was asked for a certificate and gave none.
    pub learn_without_certificate: bool,
    /// Sessions that are learned of one source of clients in `session_timeout`; 0: no limit.
    pub sessions_per_source: u32,
    /// SYNs tried at an owner before the first backend gets the hello.
    pub owner_tries: u16,
    /// Whether the client's first bare ACK is dropped, and asked for again where no hello follows.
    pub swallow: bool,
    /// How it is known whether backends answer.
    pub health: Health,
    /// The backends.
    pub backends: Vec<Backend>,
}

/// How clients come to a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shape {
    /// They dial a VIP.
    Vip(Vip),
    /// A balancer in front of the gateway dials the backends.
    Inline(Inline),
}

/// What only a pool behind a VIP has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vip {
    /// What clients dial, and what the pool is known by.
    pub address: SocketAddr,
    /// What clients dial as well: VIPs that share the pool.
    pub also: Vec<SocketAddr>,
    /// The name in the file of the pool that VIPs share.
    pub pool: Option<PoolName>,
    /// By what a backend is chosen when no session decides.
    pub fallback: Fallback,
    /// Whether the agent puts the address on an interface.
    pub assign: bool,
    /// How packets find the way back to clients.
    pub return_path: ReturnPath,
    /// What new connections get while no backend is up.
    pub on_all_down: OnAllDown,
}

/// What only a pool without a VIP has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inline {
    /// By what it is known.
    pub name: PoolName,
    /// Whether its packets pass a bridge of this machine, which is no router between its clients
    /// and its backends then.
    pub bridged: bool,
    /// Clients whose connections are left alone.
    pub exempt: Vec<Prefix>,
}

impl Vip {
    /// All that clients dial.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + Clone {
        std::iter::once(self.address).chain(self.also.iter().copied())
    }
}

impl Shape {
    /// What the pool is known by.
    pub fn service(&self) -> Service {
        match self {
            Self::Vip(vip) => Service::Vip(vip.address),
            Self::Inline(inline) => Service::Pool(inline.name),
        }
    }
}

impl Pool {
    /// What it is known by.
    pub fn service(&self) -> Service {
        self.shape.service()
    }

    /// What it has as a VIP's; `None` of an inline pool.
    pub fn vip(&self) -> Option<&Vip> {
        match &self.shape {
            Shape::Vip(vip) => Some(vip),
            Shape::Inline(_) => None,
        }
    }

    /// What it has as an inline or bridged pool; `None` of a VIP's.
    pub fn inline(&self) -> Option<&Inline> {
        match &self.shape {
            Shape::Vip(_) => None,
            Shape::Inline(inline) => Some(inline),
        }
    }

    /// Whether its packets pass a bridge of this machine.
    pub fn is_bridged(&self) -> bool {
        self.inline().is_some_and(|inline| inline.bridged)
    }
}

/// Whether flows are moved or only judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Flows are re-homed to the owner of their session.
    #[default]
    Steer,
    /// Sessions are learned and hits counted; no flow is moved.
    Observe,
}

/// By what a backend is chosen when no session decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// The client's address, until one address makes most flows: the flow's 4-tuple from then on.
    #[default]
    Auto,
    /// The client's address.
    Source,
    /// The flow's 4-tuple.
    Flow,
}

/// How packets find the way back to clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReturnPath {
    /// Through the hop the client's packets came from.
    #[default]
    Hop,
    /// Where the routing table says.
    Route,
}

/// What new connections get while no backend is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAllDown {
    /// Nothing: their SYNs are dropped.
    #[default]
    Drop,
    /// The backend that they would get if all were up.
    Send,
}

/// One server of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its address and port.
    pub address: SocketAddr,
    /// Its share of new flows; 0 takes none.
    pub weight: u16,
    /// Names of its ticket keys, each as long as the pool's layout says.
    pub key_names: Vec<KeyName>,
    /// The VLAN that it stands in, where a bridge has its address in several; 0: whichever.
    pub vlan: u16,
    /// It gets new flows only while no other one takes any.
    pub backup: bool,
}

/// How it is known whether the backends of a pool answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// It is not: every backend counts as up.
    Off,
    /// By the SYNs that pass to a backend and the answers that come back.
    Seen,
    /// By connections of the agent.
    Probes(Probes),
}

/// How backends are probed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probes {
    /// Time between two probes of one backend.
    pub interval: Duration,
    /// Time a probe may take.
    pub timeout: Duration,
    /// Probes that must succeed in a row before a backend counts as up again.
    pub rise: u32,
    /// Probes that must fail in a row before a backend counts as down.
    pub fall: u32,
    /// The handshake that a probe makes; `None`: a TCP connection is enough.
    pub tls: Option<Arc<Tls>>,
}

/// The TLS handshake of a probe.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tls {
    /// The server that is asked for; `None`: the backend's address, which is not sent.
    pub sni: Option<String>,
    /// The authorities that a certificate must be of, in PEM; `None`: any certificate will do.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown, in PEM, with what leads to its authority; there where `key` is.
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key: Option<PathBuf>,
    /// The lowest version that is offered.
    pub min_version: TlsVersion,
    /// The highest version that is offered.
    pub max_version: TlsVersion,
}

impl Default for Tls {
    fn default() -> Self {
        let (min_version, max_version) = (TlsVersion::V1_2, TlsVersion::V1_3);
        Self { sni: None, ca: None, certificate: None, key: None, min_version, max_version }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

impl Default for Probes {
    fn default() -> Self {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        Self { interval, timeout, rise: 2, fall: 3, tls: None }
    }
}
