//! The configuration file: what it may say, what it means when it says nothing.
//!
//! `raw` is the file's shape with the places of its values, `check` turns it into these types or
//! refuses it by name.

mod check;
mod difference;
mod error;
mod key_name;
mod raw;
mod whole;
mod words;

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
pub use difference::differences;
pub use error::ConfigError;
pub use key_name::{KeyName, LayoutWord, TicketKeyName};
use serde::Deserialize;
use steer_common::maps::{Map, entries};
use whole::whole;

/// Where maps and links are pinned unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/steer";
/// Where the agent listens unless told otherwise.
pub const SOCKET: &str = "/run/steer/steer.sock";
/// Most entries that the kernel takes for a hash map: 2^32 bytes of buckets (`htab_map_alloc` in
/// kernel/bpf/hashtab.c).
const SIZE_MAX: i64 = 1 << 27;
/// Largest count that the maps can hold.
const COUNT_MAX: i64 = u32::MAX as i64;
/// Longest file, bytes: room for all VIPs, backends and key names that there can be, and for
/// comments.
const FILE_MAX: usize = 1 << 20;

/// A checked configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Where it was read.
    pub file: PathBuf,
    /// Directory of the pins, on a BPF file system.
    pub pin_dir: PathBuf,
    /// The agent's control socket.
    pub socket: PathBuf,
    /// Where OpenMetrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Entries of the tables.
    pub sizes: Sizes,
    /// How long after its first start flows of another gateway are taken over; `None`: not at all.
    pub takeover: Option<Duration>,
    /// Managed interfaces.
    pub interfaces: Vec<Interface>,
    /// VIPs with their pools.
    pub vips: Vec<Vip>,
}

/// Entries of the tables whose size is a matter of taste and memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
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
                handshakes: entries("handshakes"),
                pending: entries("pending"),
            }
        }
    }
}

impl Sizes {
    /// Every size with its key.
    pub fn named(&self) -> [(&'static str, u32); 6] {
        let Self { sessions, flows, fast, splices, handshakes, pending } = *self;
        [
            ("sessions", sessions),
            ("flows", flows),
            ("fast", fast),
            ("splices", splices),
            ("handshakes", handshakes),
            ("pending", pending),
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

/// A VIP and its pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vip {
    /// What clients dial.
    pub address: SocketAddr,
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
    /// By what a backend is chosen when no session decides.
    pub fallback: Fallback,
    /// SYNs tried at an owner before the first backend gets the hello.
    pub owner_tries: u16,
    /// Whether the client's first bare ACK is dropped, and asked for again where no hello follows.
    pub swallow: bool,
    /// Whether the agent puts the address on an interface.
    pub assign: bool,
    /// How packets find the way back to clients.
    pub return_path: ReturnPath,
    /// How backends are probed.
    pub health: Health,
    /// The pool.
    pub backends: Vec<Backend>,
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

/// One server of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its address and port.
    pub address: SocketAddr,
    /// Its share of new flows; 0 takes none.
    pub weight: u16,
    /// Names of its ticket keys, each as long as the VIP's layout says.
    pub key_names: Vec<KeyName>,
}

/// How the backends of a pool are probed: by TCP connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Off: every backend counts as up.
    pub enabled: bool,
    /// Time between two probes of one backend.
    #[serde(deserialize_with = "crate::clock::deserialize_duration")]
    pub interval: Duration,
    /// Time a probe may take.
    #[serde(deserialize_with = "crate::clock::deserialize_duration")]
    pub timeout: Duration,
    /// Probes that must succeed in a row before a backend counts as up again.
    #[serde(deserialize_with = "whole::<_, _, 1, COUNT_MAX>")]
    pub rise: u32,
    /// Probes that must fail in a row before a backend counts as down.
    #[serde(deserialize_with = "whole::<_, _, 1, COUNT_MAX>")]
    pub fall: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let bytes = read(file).with_context(|| format!("read {}", file.display()))?;
        Ok(Self::parse_bytes(file, &bytes)?)
    }

    /// Checks the bytes of a file; `file` only names it in errors.
    pub fn parse_bytes(file: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() > FILE_MAX {
            let source = error::Source { file, text: "" };
            return Err(
                source.whole(format!("longer than {FILE_MAX} bytes; expected a configuration"))
            );
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(file, text),
            Err(error) => {
                let text = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let source = error::Source { file, text: &text };
                Err(source
                    .error(&(text.len()..text.len()), "this line is not UTF-8; expected TOML"))
            }
        }
    }

    /// Checks the text of a file; `file` only names it in errors.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = error::Source { file, text };
        let raw = toml::from_str(text).map_err(|error| source.toml_error(&error))?;
        check::check(raw, &source)
    }
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
