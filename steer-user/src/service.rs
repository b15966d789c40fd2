//! What is served, as users name it: a VIP by its address, an inline pool by its name.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use steer_common::shared::{Endpoint, POOL_NAME_MAX};

use crate::address::{endpoint, socket};

/// What clients are served by. In CLI, JSON and metrics it is one word: `198.51.100.10:443`, or
/// `web`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Service {
    /// A VIP: the address that clients dial.
    Vip(SocketAddr),
    /// An inline pool: clients dial its backends.
    Pool(PoolName),
}

impl Service {
    /// What an endpoint of the maps stands for.
    pub fn of(at: &Endpoint) -> Self {
        let pool = at.pool_name().and_then(|name| name.parse().ok());
        pool.map_or_else(|| Self::Vip(socket(at)), Self::Pool)
    }

    /// What stands for it in the maps.
    pub fn endpoint(&self) -> Endpoint {
        match self {
            Self::Vip(address) => endpoint(*address),
            Self::Pool(name) => Endpoint::of_pool(name.as_str()).unwrap_or_default(),
        }
    }

    /// The VIP's address; `None` of an inline pool.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Vip(address) => Some(*address),
            Self::Pool(_) => None,
        }
    }

    /// It with what it is, for sentences: `VIP 198.51.100.10:443`, `pool web`.
    pub fn titled(&self) -> String {
        match self {
            Self::Vip(address) => format!("VIP {address}"),
            Self::Pool(name) => format!("pool {name}"),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vip(address) => address.fmt(f),
            Self::Pool(name) => name.fmt(f),
        }
    }
}

impl FromStr for Service {
    type Err = NoService;

    fn from_str(text: &str) -> Result<Self, NoService> {
        let vip = text.parse().map(Self::Vip).ok();
        vip.or_else(|| text.parse().map(Self::Pool).ok()).ok_or(NoService)
    }
}

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|why| D::Error::custom(format!("`{text}`: {why}")))
    }
}

/// A text that names nothing that can be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoService;

impl fmt::Display for NoService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid socket address syntax, and no name of a pool")
    }
}

impl std::error::Error for NoService {}

/// The name of an inline pool: 1 to [`POOL_NAME_MAX`] bytes of `A-Z`, `a-z`, `0-9`, `.`, `_` and
/// `-`, and nothing that reads as an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName([u8; POOL_NAME_MAX]);

impl PoolName {
    /// The name.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|byte| *byte == 0).unwrap_or(POOL_NAME_MAX);
        std::str::from_utf8(self.0.get(..len).unwrap_or_default()).unwrap_or_default()
    }
}

impl FromStr for PoolName {
    type Err = NoPoolName;

    fn from_str(text: &str) -> Result<Self, NoPoolName> {
        let may = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > POOL_NAME_MAX || !text.bytes().all(may) {
            return Err(NoPoolName::Form);
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(NoPoolName::Address);
        }
        let mut bytes = [0; POOL_NAME_MAX];
        bytes.iter_mut().zip(text.bytes()).for_each(|(to, byte)| *to = byte);
        Ok(Self(bytes))
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Why a text is no name of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPoolName {
    /// Its length or one of its characters.
    Form,
    /// It reads as an address.
    Address,
}

impl fmt::Display for NoPoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "expected 1 to 16 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`",
            Self::Address => "reads as an address; expected a name",
        })
    }
}

impl std::error::Error for NoPoolName {}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: [&str; 5] =
        ["198.51.100.10:443", "[2001:db8::10]:8443", "web", "a.b_c-9", "0123456789abcdef"];

    #[test]
    fn a_service_survives_text_json_and_the_maps() {
        for text in SERVICES {
            let service: Service = text.parse().unwrap();
            assert_eq!(service.to_string(), text);
            assert_eq!(Service::of(&service.endpoint()), service);
            assert_eq!(serde_json::to_value(service).unwrap(), text);
            assert_eq!(serde_json::from_value::<Service>(text.into()).unwrap(), service);
        }
    }

    #[test]
    fn a_vip_is_told_from_a_pool() {
        let told = SERVICES.map(|text| {
            let service: Service = text.parse().unwrap();
            (service.address().is_some(), service.titled())
        });
        assert_eq!(told[0], (true, "VIP 198.51.100.10:443".to_owned()));
        assert_eq!(told[2], (false, "pool web".to_owned()));
        assert!(told[1].0 && !told[3].0 && !told[4].0);
    }

    #[test]
    fn what_names_neither_is_refused() {
        for text in ["", "0123456789abcdefg", "we b", "wéb", "web/1", "a\0b", "10.0.0.1:70000"] {
            assert_eq!(text.parse::<Service>(), Err(NoService), "{text:?}");
            assert_eq!(text.parse::<PoolName>(), Err(NoPoolName::Form), "{text:?}");
        }
        assert_eq!("10.0.0.1".parse::<PoolName>(), Err(NoPoolName::Address));
        assert!(serde_json::from_value::<Service>("a b".into()).is_err());
    }

    #[test]
    fn vips_come_before_pools_each_in_their_order() {
        let mut services = ["web", "app", "10.0.0.2:443", "10.0.0.1:443"]
            .map(|text| text.parse::<Service>().unwrap());
        services.sort();
        assert_eq!(
            services.map(|service| service.to_string()),
            ["10.0.0.1:443", "10.0.0.2:443", "app", "web"]
        );
    }
}
