//! The file's shape, with the place of every value that `check` may have to point at.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::{
    COUNT_MAX, Fallback, Health, Hook, Mode, ReturnPath, Sizes, TicketKeyName, whole::whole,
};
use crate::clock::deserialize_duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) pin_dir: Option<Spanned<PathBuf>>,
    pub(super) socket: Option<Spanned<PathBuf>>,
    pub(super) metrics: Option<Spanned<Socket>>,
    #[serde(default)]
    pub(super) sizes: Sizes,
    pub(super) takeover: Option<Takeover>,
    #[serde(default)]
    pub(super) interface: Vec<Interface>,
    #[serde(default)]
    pub(super) vip: Vec<Spanned<Vip>>,
}

/// A table that may be absent, with its place if it is there.
#[derive(Default)]
pub(super) struct Spanned0<T>(pub(super) T, pub(super) std::ops::Range<usize>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned0<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(from)?;
        let span = spanned.span();
        Ok(Self(spanned.into_inner(), span))
    }
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
pub(super) struct Vip {
    pub(super) address: Spanned<Socket>,
    #[serde(default)]
    pub(super) mode: Mode,
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
    #[serde(default)]
    pub(super) fallback: Fallback,
    #[serde(default = "owner_tries", deserialize_with = "whole::<_, _, 1, 255>")]
    pub(super) owner_tries: u16,
    #[serde(default)]
    pub(super) swallow: bool,
    #[serde(default)]
    pub(super) assign: bool,
    #[serde(default)]
    pub(super) return_path: ReturnPath,
    #[serde(default)]
    pub(super) health: Spanned0<Health>,
    #[serde(default)]
    pub(super) backend: Vec<Backend>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) address: Spanned<Socket>,
    #[serde(default = "weight", deserialize_with = "whole::<_, _, 0, 65535>")]
    pub(super) weight: u16,
    #[serde(default)]
    pub(super) key_names: Vec<Spanned<String>>,
}

fn owner_tries() -> u16 {
    3
}

fn weight() -> u16 {
    1
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
