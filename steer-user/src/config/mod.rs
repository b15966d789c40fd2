//! The configuration file: what it may say, what it means when it says nothing.
//!
//! `raw` is the file's shape with the places of its values, `check` turns it into these types or
//! refuses it by name.

mod check;
mod difference;
mod effective;
mod error;
mod ha;
mod interfaces;
mod key_name;
mod pools;
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
    time::Duration,
};

use anyhow::Context as _;
pub use difference::differences;
pub use effective::Effective;
pub use error::{ConfigError, ConfigErrors};
pub use ha::{Ha, Server};
pub use interfaces::{Bridge, Hook, Interface, Side, Stp, Vlans};
pub use key_name::{KeyName, LayoutWord, TicketKeyName};
pub use pools::{
    Backend, Fallback, Health, Inline, Mode, OnAllDown, Pool, Probes, ReturnPath, Shape, Tls,
    TlsVersion, Vip,
};
pub use prefix::Prefix;
use serde::{Deserialize, Serialize};
use steer_common::maps::{Map, entries};
use whole::whole;

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
