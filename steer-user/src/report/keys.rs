//! `steer keys list`. Names of ticket keys stand in clear in every ticket of their server and tell
//! nothing of clients: they are shown whole.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use steer_common::{
    session::NameLayout,
    shared::{
        KEY_NAME_CONFIGURED, KEY_NAME_SHARED, KeyName, SessionKey, VIP_NAME_FOUND,
        VIP_TELL_TICKETS, Vip,
    },
};

use crate::{address::socket, clock, config::LayoutWord, plane::Plane, service::Service};

/// The names of ticket keys and where they stand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keys {
    /// By VIP, in the order of their numbers.
    pub layouts: Vec<LayoutReport>,
    /// By VIP and owner, those used last first.
    pub names: Vec<KeyNameReport>,
}

/// Where the names of ticket keys stand in the tickets of a VIP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayoutReport {
    /// The VIP.
    pub vip: Service,
    /// Length and offset, `16@0`, or `none`; absent while it is searched.
    pub layout: Option<String>,
    /// How that is known.
    pub origin: LayoutOrigin,
}

/// How it is known where names stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayoutOrigin {
    /// The configuration says it.
    Configured,
    /// The agent found it out.
    Found,
    /// The agent looks for it.
    Searched,
}

impl LayoutOrigin {
    /// The word in the CLI.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Found => "found",
            Self::Searched => "searched",
        }
    }
}

/// The name of one ticket key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyNameReport {
    /// Its bytes, hexadecimal.
    pub name: String,
    /// Its VIP; absent when that is gone.
    pub vip: Option<Service>,
    /// `BackendId` of its owner.
    pub owner: u16,
    /// The owner's address; absent when it is forgotten.
    pub owner_address: Option<SocketAddr>,
    /// How the owner is known.
    pub origin: NameOrigin,
    /// Whether other backends use it as well: it does not steer then.
    pub shared: bool,
    /// Seconds since it was learned or configured.
    pub age_seconds: u32,
    /// Seconds since a backend last issued or accepted a ticket of it, or since it was configured.
    pub idle_seconds: u32,
    /// Hellos that it led to its owner.
    pub hits: u32,
    /// Tickets of it that its owner issued or accepted.
    pub accepted: u32,
}

/// How the owner of a key name is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameOrigin {
    /// It issued or accepted a ticket.
    Learned,
    /// The configuration says it.
    Configured,
}

impl NameOrigin {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Learned, Self::Configured];

    /// The word in CLI, metrics and log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Configured => "configured",
        }
    }
}

impl Keys {
    /// Reads the maps; of one VIP, if one is named.
    pub fn read(plane: &Plane, only: Option<Service>) -> Result<Self> {
        let known_by = |vip: Service| plane.known_by(&vip.endpoint()).map(|at| Service::of(&at));
        let only = only.map(known_by).transpose()?;
        let backends = plane.backends()?.into_iter();
        let backends =
            backends.map(|(id, backend)| (id as u16, socket(&backend.endpoint))).collect();
        let vips = plane.vips()?.into_iter().map(|(at, vip)| (Service::of(&at), vip));
        let vips = vips.filter(|(at, _)| only.is_none_or(|only| only == *at)).collect::<Vec<_>>();
        if let Some(only) = only.filter(|_| vips.is_empty()) {
            bail!("there is no {}", only.titled());
        }
        let places = Places {
            now: clock::seconds(),
            backends,
            vips: vips.iter().map(|(at, vip)| (vip.id, *at)).collect(),
        };
        let mut found = Vec::new();
        plane.key_names.for_each(|key, name| {
            let report = places.report(&key, &name);
            found.extend((only.is_none() || report.vip.is_some()).then_some((key.vip, report)));
        })?;
        found.sort_by(|(vip, a), (other, b)| {
            (vip, a.owner, a.idle_seconds, &a.name).cmp(&(other, b.owner, b.idle_seconds, &b.name))
        });
        let layouts = vips.iter().map(|(at, vip)| LayoutReport::new(*at, vip)).collect();
        Ok(Self { layouts, names: found.into_iter().map(|(_, report)| report).collect() })
    }
}

impl LayoutReport {
    fn new(vip: Service, record: &Vip) -> Self {
        let origin = match record.flags {
            flags if flags & VIP_TELL_TICKETS != 0 => LayoutOrigin::Searched,
            flags if flags & VIP_NAME_FOUND != 0 => LayoutOrigin::Found,
            _ => LayoutOrigin::Configured,
        };
        let layout =
            LayoutWord(NameLayout { at: record.name_at, len: record.name_len }).to_string();
        Self { vip, layout: (origin != LayoutOrigin::Searched).then_some(layout), origin }
    }
}

/// What numbers in the map stand for.
struct Places {
    now: u32,
    backends: HashMap<u16, SocketAddr>,
    vips: HashMap<u16, Service>,
}

impl Places {
    fn report(&self, key: &SessionKey, name: &KeyName) -> KeyNameReport {
        let configured = name.flags & KEY_NAME_CONFIGURED != 0;
        KeyNameReport {
            name: key.bytes.iter().take(key.len.into()).map(|byte| format!("{byte:02x}")).collect(),
            vip: self.vips.get(&key.vip).copied(),
            owner: name.owner,
            owner_address: self.backends.get(&name.owner).copied(),
            origin: if configured { NameOrigin::Configured } else { NameOrigin::Learned },
            shared: name.flags & KEY_NAME_SHARED != 0,
            age_seconds: clock::age(self.now, name.first_seen),
            idle_seconds: clock::age(self.now, name.last_seen),
            hits: name.hits,
            accepted: name.accepted,
        }
    }
}

#[cfg(test)]
mod tests {
    use steer_common::session::Kind;

    use super::*;

    #[test]
    fn a_name_is_told_whole_with_its_places() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let vip = Service::Vip(at("198.51.100.10:443"));
        let places = Places {
            now: 100,
            backends: [(1, at("10.0.0.1:443"))].into(),
            vips: [(0, vip)].into(),
        };
        let key = SessionKey::new(0, Kind::KeyName, &[0xa1, 0, 0xc3, 4]).unwrap();
        let both = KEY_NAME_CONFIGURED | KEY_NAME_SHARED;
        let name =
            KeyName { owner: 1, flags: both, first_seen: 40, last_seen: 90, ..KeyName::default() };
        let report = places.report(&key, &name);
        assert_eq!((report.name.as_str(), report.vip), ("a100c304", Some(vip)));
        assert_eq!((report.age_seconds, report.idle_seconds, report.shared), (60, 10, true));
        assert_eq!(
            (report.origin, report.owner_address),
            (NameOrigin::Configured, Some(at("10.0.0.1:443")))
        );
    }

    #[test]
    fn a_layout_says_how_it_is_known() {
        let report = |flags, name_len| {
            let report = LayoutReport::new(
                "192.0.2.1:1".parse().unwrap(),
                &Vip { flags, name_len, ..Vip::default() },
            );
            (report.layout, report.origin)
        };
        assert_eq!(report(0, 16), (Some("16@0".into()), LayoutOrigin::Configured));
        assert_eq!(report(VIP_TELL_TICKETS, 0), (None, LayoutOrigin::Searched));
        assert_eq!(report(VIP_NAME_FOUND, 0), (Some("none".into()), LayoutOrigin::Found));
    }
}
