//! The configuration file: what it may say, what it means when it says nothing.
//!
//! `raw` is the file's shape with the places of its values, `check` turns it into these types or
//! refuses it by name.

mod check;
mod difference;
mod effective;
mod error;
mod ha;
mod key_name;
mod prefix;
mod raw;
mod read;
mod whole;
mod words;

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
pub use difference::differences;
pub use effective::Effective;
pub use error::{ConfigError, ConfigErrors};
pub use ha::{Ha, Server};
pub use key_name::{KeyName, LayoutWord, TicketKeyName};
pub use prefix::Prefix;
use serde::{Deserialize, Serialize};
use steer_common::{
    maps::{Map, entries},
    shared::VLAN_WORDS,
};
use whole::whole;

use crate::service::{PoolName, Service};

/// Where maps and links are pinned unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/steer";
/// Where what a gateway knows outlasts a reboot unless told otherwise: that of [`PIN_DIR`] alone, for
/// two gateways cannot share it.
pub const STATE_FILE: &str = "/var/lib/steer/state";
/// Where the agent listens unless told otherwise.
pub const SOCKET: &str = "/run/steer/steer.sock";
/// Most entries that the kernel takes for a hash map: 2^32 bytes of buckets (`htab_map_alloc` in
/// kernel/bpf/hashtab.c).
const SIZE_MAX: i64 = 1 << 27;
/// Largest count that the maps can hold.
const COUNT_MAX: i64 = u32::MAX as i64;
/// Longest file, bytes: room for all VIPs, backends and key names that there can be, and for
/// comments.
pub const FILE_MAX: usize = 1 << 20;

/// A checked configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Where it was read.
    pub file: PathBuf,
    /// Directory of the pins, on a BPF file system.
    pub pin_dir: PathBuf,
    /// The agent's control socket.
    pub socket: PathBuf,
    /// Where what it knows outlasts a reboot; `None`: nowhere.
    pub state_file: Option<PathBuf>,
    /// Where OpenMetrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Entries of the tables.
    pub sizes: Sizes,
    /// How long after its first start flows of another gateway are taken over; `None`: not at all.
    pub takeover: Option<Duration>,
    /// How other gateways know what this one learned; `None`: they do not.
    pub ha: Option<Ha>,
    /// Managed interfaces, but for the ports of bridges.
    pub interfaces: Vec<Interface>,
    /// Bridges whose ports are managed, in the order of their numbers.
    pub bridges: Vec<Bridge>,
    /// What is served: VIPs with their pools, then the other pools.
    pub pools: Vec<Pool>,
}

/// Entries of the tables whose size is a matter of taste and memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sizes {
    /// Sessions remembered.
    #[serde(deserialize_with = "whole::<_, _, 1, SIZE_MAX>")]
    pub sessions: u32,
    /// Established flows remembered.
    #[serde(deserialize_with = "whole::<_, _, 1, SIZE_MAX>")]
    pub flows: u32,
    /// Places in the cache of settled flows, one line of memory each; 1: no cache.
    #[serde(deserialize_with = "whole::<_, _, 1, SIZE_MAX>")]
    pub fast: u32,
    /// Re-homed flows at once; never evicted.
    #[serde(deserialize_with = "whole::<_, _, 1, SIZE_MAX>")]
    pub splices: u32,
    /// Ports that are taken at backends: two entries a connection that has another port there than
    /// its client's own, one a flow of an inline pool that was moved.
    #[serde(deserialize_with = "whole::<_, _, 1, SIZE_MAX>")]
    pub legs: u32,
    /// Handshakes remembered.
    #[serde(deserialize_with = "whole::<_, _, 1, SIZE_MAX>")]
    pub handshakes: u32,
    /// Flows whose first bytes are buffered at once.
    #[serde(deserialize_with = "whole::<_, _, 1, SIZE_MAX>")]
    pub pending: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        const {
            Self {
                sessions: entries("sessions"),
                flows: entries("flows"),
                fast: entries("fast"),
                splices: entries("splices"),
                legs: entries("legs"),
                handshakes: entries("handshakes"),
                pending: entries("pending"),
            }
        }
    }
}

impl Sizes {
    /// Every size with its key.
    pub fn named(&self) -> [(&'static str, u32); 7] {
        let Self { sessions, flows, fast, splices, legs, handshakes, pending } = *self;
        [
            ("sessions", sessions),
            ("flows", flows),
            ("fast", fast),
            ("splices", splices),
            ("handshakes", handshakes),
            ("pending", pending),
            ("legs", legs),
        ]
    }

    /// The entries that a map is to have.
    pub fn of(&self, map: &Map) -> u32 {
        let asked = self.named().into_iter().find(|(name, _)| *name == map.name);
        asked.map_or(map.entries, |(_, entries)| entries)
    }
}

/// An interface whose packets are looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Which programs it gets.
    pub hook: Hook,
}

/// A bridge of this machine that balancer and servers are at either side of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its ports towards the balancer.
    pub outside: Vec<String>,
    /// Its ports towards the servers.
    pub inside: Vec<String>,
    /// Which frames are looked at.
    pub vlans: Vlans,
    /// Whether the bridge may block ports.
    pub stp: Stp,
}

impl Bridge {
    /// Its ports, those outside first.
    pub fn ports(&self) -> impl Iterator<Item = (&str, Side)> + Clone {
        let outside = self.outside.iter().map(|port| (port.as_str(), Side::Outside));
        outside.chain(self.inside.iter().map(|port| (port.as_str(), Side::Inside)))
    }
}

/// The side of a bridge that a port is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Towards the balancer.
    Outside,
    /// Towards the servers.
    Inside,
}

impl Side {
    /// The word in the file, in CLI and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Inside => "inside",
        }
    }
}

/// VLANs of a bridge whose frames are looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Vlans {
    /// All, and frames without a tag.
    #[default]
    Any,
    /// These, in order; 0 stands for frames without a tag.
    These(Vec<u16>),
}

impl Vlans {
    /// A bit for each VLAN, as the map `vlans` has them.
    pub fn words(&self) -> [u32; VLAN_WORDS as usize] {
        let Self::These(vlans) = self else { return [u32::MAX; VLAN_WORDS as usize] };
        let mut words = [0; VLAN_WORDS as usize];
        for vlan in vlans {
            if let Some(word) = words.get_mut(usize::from(vlan / 32)) {
                *word |= 1 << (vlan % 32);
            }
        }
        words
    }

    fn has(&self, vlan: u16) -> bool {
        match self {
            Self::Any => true,
            Self::These(vlans) => vlans.contains(&vlan),
        }
    }
}

/// What is to be done about a bridge that blocks ports by the spanning tree protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stp {
    /// Its frames are not looked at.
    #[default]
    Refused,
    /// The state of each port is followed.
    Watched,
}

/// Which programs an interface gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// XDP and TC on a NIC whose driver has XDP, TC otherwise.
    #[default]
    Auto,
    /// XDP and TC.
    Xdp,
    /// TC only.
    Tc,
}

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

impl Config {
    /// It with other pins. The default file is of the default gateway: another one does without.
    #[must_use]
    pub fn pinned_at(self, pin_dir: PathBuf) -> Self {
        let is_ours =
            |file: &PathBuf| pin_dir == Path::new(PIN_DIR) || file != Path::new(STATE_FILE);
        Self { state_file: self.state_file.filter(is_ours), pin_dir, ..self }
    }

    /// Every interface that gets programs, with those that it gets: the ports of bridges have TC
    /// alone. In front of XDP a driver may have taken a frame's tag off, and put frames together.
    pub fn attached(&self) -> Vec<Interface> {
        let ports = self.bridges.iter().flat_map(Bridge::ports);
        let ports = ports.map(|(port, _)| Interface { name: port.to_owned(), hook: Hook::Tc });
        self.interfaces.iter().cloned().chain(ports).collect()
    }

    /// Its pools whose packets pass a bridge.
    pub fn bridged(&self) -> impl Iterator<Item = &Pool> + Clone {
        self.pools.iter().filter(|pool| pool.is_bridged())
    }

    /// Its VIPs.
    pub fn vips(&self) -> impl Iterator<Item = &Vip> + Clone {
        self.pools.iter().filter_map(Pool::vip)
    }

    /// The addresses of all of its VIPs.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + Clone {
        self.vips().flat_map(Vip::addresses)
    }

    /// How much it has, for the log and for `steer config check`.
    pub fn counts(&self) -> String {
        let (vips, backends) = (self.addresses().count(), self.backends().count());
        match self.pools.len() - self.vips().count() {
            0 => format!("VIPs {vips}, backends {backends}"),
            pools => format!("VIPs {vips}, pools {pools}, backends {backends}"),
        }
    }

    /// Every backend of every pool.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> + Clone {
        self.pools.iter().flat_map(|pool| &pool.backends)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// Where it cannot be read, and [`ConfigErrors`].
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        Ok(Self::parse_all(file, &read_file(file)?)?)
    }

    /// Checks the bytes of a file; `file` only names it in errors.
    ///
    /// # Errors
    /// The first one.
    pub fn parse_bytes(file: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::parse(file, text(file, bytes)?)
    }

    /// Checks the text of a file; `file` only names it in errors.
    ///
    /// # Errors
    /// The first one.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        judge(file, text).map_err(|(first, _)| first)
    }

    /// As [`Config::parse`], for who wants to know everything that is wrong.
    ///
    /// # Errors
    /// All that do not follow from another one.
    pub fn parse_all(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        judge(file, text).map_err(|(first, others)| {
            let mut errors = [vec![first], others].concat();
            errors.sort_by_key(|error| error.line);
            ConfigErrors(errors)
        })
    }
}

/// The configuration, or what is wrong: the first error that was found, and the others.
fn judge(file: &Path, text: &str) -> Result<Config, (ConfigError, Vec<ConfigError>)> {
    let source = error::Source::new(file, text);
    let config = read::read(&source).and_then(|raw| check::check(raw, &source));
    let mut errors = source.errors().into_iter();
    match (errors.next(), config) {
        (None, Some(config)) => Ok(config),
        (Some(first), _) => Err((first, errors.collect())),
        (None, None) => Err((error::Source::new(file, text).whole("no configuration"), Vec::new())),
    }
}

/// The text of a file that may be a configuration.
///
/// # Errors
/// Where it cannot be read, is too long for one, or is no text.
pub fn read_file(file: &Path) -> anyhow::Result<String> {
    let bytes = read(file).with_context(|| format!("read {}", file.display()))?;
    Ok(text(file, &bytes)?.to_owned())
}

fn text<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, ConfigError> {
    if bytes.len() > FILE_MAX {
        let message = format!("longer than {FILE_MAX} bytes; expected a configuration");
        return Err(error::Source::new(file, "").whole(message));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let text = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let end = text.len()..text.len();
        error::Source::new(file, &text).error(&end, "this line is not UTF-8; expected TOML")
    })
}

/// As much of a file as can be a configuration, and a byte more where there is more.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod damaged;
#[cfg(test)]
mod tests;
