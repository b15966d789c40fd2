//! The file's shape, with the place of every value that `check` may have to point at.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{
        self, Error as _, MapAccess, SeqAccess, Unexpected, Visitor, value::MapAccessDeserializer,
    },
};
use toml::Spanned;

use super::{
    COUNT_MAX, Fallback, Hook, Mode, OnAllDown, Prefix, Probes, ReturnPath, Sizes, Stp,
    TicketKeyName, Tls, TlsVersion, Vlans, whole::whole,
};
use crate::clock::deserialize_duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) pin_dir: Option<Spanned<PathBuf>>,
    pub(super) socket: Option<Spanned<PathBuf>>,
    pub(super) state_file: Option<Spanned<PathBuf>>,
    pub(super) metrics: Option<Spanned<Socket>>,
    #[serde(default)]
    pub(super) sizes: Sizes,
    pub(super) takeover: Option<Takeover>,
    pub(super) ha: Option<super::ha::Raw>,
    #[serde(default)]
    pub(super) interface: Vec<Interface>,
    #[serde(default)]
    pub(super) bridge: Vec<Bridge>,
    #[serde(default)]
    pub(super) vip: Vec<Spanned<Pool>>,
    #[serde(default)]
    pub(super) pool: Vec<Spanned<Pool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Takeover {
    #[serde(rename = "for")]
    pub(super) time: Spanned<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) hook: Hook,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bridge {
    pub(super) name: Spanned<String>,
    pub(super) outside: Spanned<Vec<Spanned<String>>>,
    pub(super) inside: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) vlans: Vlans,
    #[serde(default)]
    pub(super) stp: Stp,
}

impl<'de> Deserialize<'de> for Vlans {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(VlansVisitor)
    }
}

struct VlansVisitor;

impl<'de> Visitor<'de> for VlansVisitor {
    type Value = Vlans;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"any\" or a list of VLANs")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Vlans, E> {
        match word {
            "any" => Ok(Vlans::Any),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vlans, A::Error> {
        let mut vlans = Vec::new();
        while let Some(OrNone(vlan)) = list.next_element()? {
            vlans.push(vlan);
        }
        if vlans.is_empty() {
            return Err(A::Error::invalid_length(0, &self));
        }
        vlans.sort_unstable();
        vlans.dedup();
        Ok(Vlans::These(vlans))
    }
}

/// The number of a VLAN (IEEE 802.1Q 9.6), or 0 for frames without a tag.
#[derive(Deserialize)]
#[serde(transparent)]
struct OrNone(#[serde(deserialize_with = "whole::<_, _, 0, 4094>")] u16);

/// The number of a VLAN.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Vlan(#[serde(deserialize_with = "whole::<_, _, 1, 4094>")] pub(super) u16);

/// `[[vip]]` and `[[pool]]`: the keys of both, so that one in the wrong table is told why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub(super) address: Option<Spanned<Socket>>,
    pub(super) pool: Option<Spanned<String>>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) shape: Option<Spanned<Shape>>,
    pub(super) mode: Option<Mode>,
    pub(super) session_timeout: Option<Spanned<Time>>,
    pub(super) session_limit: Option<Spanned<Time>>,
    pub(super) flow_timeout: Option<Spanned<Time>>,
    #[serde(default)]
    pub(super) ticket_key_name: TicketKeyName,
    pub(super) key_name_timeout: Option<Spanned<Time>>,
    #[serde(default)]
    pub(super) learn_without_certificate: bool,
    #[serde(default, deserialize_with = "whole::<_, _, 0, COUNT_MAX>")]
    pub(super) sessions_per_source: u32,
    pub(super) fallback: Option<Spanned<Fallback>>,
    #[serde(default = "owner_tries", deserialize_with = "whole::<_, _, 1, 255>")]
    pub(super) owner_tries: u16,
    pub(super) swallow: Option<Spanned<bool>>,
    pub(super) assign: Option<Spanned<bool>>,
    pub(super) return_path: Option<Spanned<ReturnPath>>,
    pub(super) on_all_down: Option<Spanned<OnAllDown>>,
    pub(super) exempt: Option<Spanned<Vec<Spanned<Prefix>>>>,
    pub(super) health: Option<Spanned<Health>>,
    #[serde(default)]
    pub(super) backend: Vec<Backend>,
}

impl Pool {
    /// Whether it says anything but its address and its pool, of what has a default.
    pub(super) fn says_more(&self) -> bool {
        self.mode.is_some()
            || self.ticket_key_name != TicketKeyName::default()
            || self.learn_without_certificate
            || self.sessions_per_source != 0
            || self.owner_tries != owner_tries()
            || !self.backend.is_empty()
    }
}

/// How clients come to a pool: by VIPs that name it, or to its backends themselves.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shape {
    Gateway,
    Inline,
    Bridge,
}

/// A word, or a table of probes.
#[derive(Clone)]
pub(super) enum Health {
    Off,
    Seen,
    Probes(Probes),
    /// Keys that do not go together; why.
    Wrong(String),
}

impl<'de> Deserialize<'de> for Health {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(HealthVisitor)
    }
}

struct HealthVisitor;

impl<'de> Visitor<'de> for HealthVisitor {
    type Value = Health;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"seen\", \"off\" or a table of probes")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Health, E> {
        match word {
            "off" => Ok(Health::Off),
            "seen" => Ok(Health::Seen),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Health, A::Error> {
        let table = HealthTable::deserialize(MapAccessDeserializer::new(table))?;
        let tls = match table.tls() {
            Ok(tls) => tls.map(Arc::new),
            Err(why) => return Ok(Health::Wrong(why)),
        };
        let HealthTable { enabled, interval, timeout, rise, fall, .. } = table;
        let probes = Probes { interval, timeout, rise, fall, tls };
        Ok(if enabled { Health::Probes(probes) } else { Health::Off })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HealthTable {
    enabled: bool,
    #[serde(deserialize_with = "deserialize_duration")]
    interval: Duration,
    #[serde(deserialize_with = "deserialize_duration")]
    timeout: Duration,
    #[serde(deserialize_with = "whole::<_, _, 1, COUNT_MAX>")]
    rise: u32,
    #[serde(deserialize_with = "whole::<_, _, 1, COUNT_MAX>")]
    fall: u32,
    r#type: Type,
    sni: Option<String>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    min_version: Option<TlsVersion>,
    max_version: Option<TlsVersion>,
}

/// What a probe asks for.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Type {
    Tcp,
    Tls,
}

impl HealthTable {
    /// The handshake of its probes, if they make one; an error is why there is none.
    fn tls(&self) -> Result<Option<Tls>, String> {
        let keys = [
            ("sni", self.sni.is_some()),
            ("ca", self.ca.is_some()),
            ("certificate", self.certificate.is_some()),
            ("key", self.key.is_some()),
            ("min_version", self.min_version.is_some()),
            ("max_version", self.max_version.is_some()),
        ];
        if self.r#type == Type::Tcp {
            let of_tls = keys.iter().find(|(_, there)| *there);
            let why = |(key, _): &(&str, bool)| {
                format!("`{key}` says nothing of TCP; expected `type = \"tls\"` beside it")
            };
            return of_tls.map_or(Ok(None), |key| Err(why(key)));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err("expected both `certificate` and `key`, or neither".to_owned());
        }
        let tls = Tls {
            sni: self.sni.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            min_version: self.min_version.unwrap_or(TlsVersion::V1_2),
            max_version: self.max_version.unwrap_or(TlsVersion::V1_3),
        };
        if tls.min_version > tls.max_version {
            return Err("`min_version` is above `max_version`".to_owned());
        }
        if let Some(sni) = &self.sni
            && !is_host_name(sni)
        {
            return Err(format!(
                "`sni`: {sni:?} is no host name; expected one such as \"www.example.com\""
            ));
        }
        Ok(Some(tls))
    }
}

impl Default for HealthTable {
    fn default() -> Self {
        let Probes { interval, timeout, rise, fall, .. } = Probes::default();
        let (r#type, sni, ca, certificate, key) = (Type::Tcp, None, None, None, None);
        let (min_version, max_version) = (None, None);
        Self {
            enabled: true,
            interval,
            timeout,
            rise,
            fall,
            r#type,
            sni,
            ca,
            certificate,
            key,
            min_version,
            max_version,
        }
    }
}

/// Whether a server may be asked for by this name (RFC 6066 3): no address, and no dot behind it.
fn is_host_name(name: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(is_of_name)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.chars().all(|c| c.is_ascii_digit())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) address: Spanned<Socket>,
    pub(super) weight: Option<Spanned<Weight>>,
    #[serde(default)]
    pub(super) key_names: Vec<Spanned<String>>,
    pub(super) vlan: Option<Spanned<Vlan>>,
    pub(super) backup: Option<Spanned<bool>>,
}

/// A share of new flows.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Weight(#[serde(deserialize_with = "whole::<_, _, 0, 65535>")] pub(super) u16);

fn owner_tries() -> u16 {
    3
}

/// A duration with its place.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Time(#[serde(deserialize_with = "deserialize_duration")] pub(super) Duration);

/// An IP address and a port.
pub(super) struct Socket(pub(super) SocketAddr);

impl<'de> Deserialize<'de> for Socket {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let form = "expected ADDRESS:PORT such as \"198.51.100.10:443\" or \"[2001:db8::10]:443\"";
        text.parse()
            .map(Self)
            .map_err(|_| D::Error::custom(format!("`{text}` is no socket address; {form}")))
    }
}
