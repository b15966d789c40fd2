//! Interfaces and bridges of a configuration.

use serde::{Deserialize, Serialize};
use steer_common::shared::VLAN_WORDS;

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

    pub(super) fn has(&self, vlan: u16) -> bool {
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
