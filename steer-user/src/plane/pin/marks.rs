//! What other processes must know of a gateway, as names in its pin directory.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{MODE, PinDir, children, file_name, interface_name, remove_all, remove_empty};
use crate::config::{Bridge, Side, Stp, Vlans};

/// Points to the agent's control socket.
const SOCKET: &str = "socket";
/// Names the network namespace of the gateway.
const NETNS: &str = "netns";
/// Marks an interface of the configuration, whether it is there or not.
const MANAGED: &str = "managed_";
/// Marks a bridge of the configuration; in it stands a marker `<side>_<port>` for each port.
const BRIDGE: &str = "bridge_of_";
/// Marks a bridge whose ports may be blocked (`stp = "watched"`).
const WATCHED: &str = "stp_watched";
/// Where the own network namespace is named, as `net:[4026531840]`.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

impl PinDir {
    /// Notes where the agent of this gateway listens and in which network namespace it is.
    pub(crate) fn set_place(&self, socket: &Path) -> Result<()> {
        self.point(SOCKET, socket)?;
        self.point(
            NETNS,
            &fs::read_link(OWN_NETNS).context("read the name of the network namespace")?,
        )
    }

    /// Where the agent of this gateway listens, or listened last.
    pub fn socket(&self) -> Option<PathBuf> {
        fs::read_link(self.map(SOCKET)).ok()
    }

    /// Whether this gateway is in the network namespace of the calling thread.
    pub(crate) fn is_in_this_netns(&self) -> bool {
        let own = fs::read_link(OWN_NETNS).ok();
        own.is_some() && own == fs::read_link(self.map(NETNS)).ok()
    }

    /// Makes a marker, an empty directory; one that is there stays.
    pub(in crate::plane) fn mark(&self, name: &str) -> Result<()> {
        let marker = self.map(name);
        let made = DirBuilder::new().recursive(true).mode(MODE).create(&marker);
        made.with_context(|| format!("create {}", marker.display()))
    }

    /// Notes the interfaces that the configuration names, and forgets others.
    pub(crate) fn set_managed(&self, interfaces: &[&str]) -> Result<()> {
        for interface in interfaces {
            self.mark(&format!("{MANAGED}{}", file_name(interface)))?;
        }
        for gone in self.managed().into_iter().filter(|name| !interfaces.contains(&name.as_str())) {
            remove_empty(&self.map(&format!("{MANAGED}{}", file_name(&gone))))?;
        }
        Ok(())
    }

    /// The interfaces that the configuration names, in order.
    pub fn managed(&self) -> Vec<String> {
        let parse = |path: PathBuf| {
            Some(interface_name(path.file_name()?.to_str()?.strip_prefix(MANAGED)?))
        };
        let mut managed = children(&self.state()).into_iter().filter_map(parse).collect::<Vec<_>>();
        managed.sort();
        managed
    }

    /// Notes the bridges that the configuration names with their ports, and forgets others.
    pub(crate) fn set_bridges(&self, bridges: &[Bridge]) -> Result<()> {
        let there = self.bridges();
        for gone in there.iter().filter(|bridge| bridges.iter().all(|now| now.name != bridge.name))
        {
            remove_all(&self.bridge(&gone.name))?;
        }
        for bridge in bridges {
            let Bridge { name, outside, inside, vlans: _, stp } = bridge;
            let known = there.iter().find(|known| known.name == *name);
            let same =
                |known: &Bridge| known.outside == sorted(outside) && known.inside == sorted(inside);
            if !known.is_some_and(|known| same(known) && known.stp == *stp) {
                remove_all(&self.bridge(name))?;
            }
            let marker = format!("{BRIDGE}{}", file_name(name));
            self.mark(&marker)?;
            for (port, side) in bridge.ports() {
                self.mark(&format!("{marker}/{}_{}", side.word(), file_name(port)))?;
            }
            if *stp == Stp::Watched {
                self.mark(&format!("{marker}/{WATCHED}"))?;
            }
        }
        Ok(())
    }

    fn bridge(&self, name: &str) -> PathBuf {
        self.map(&format!("{BRIDGE}{}", file_name(name)))
    }

    /// The bridges that the configuration names, and their ports on each side, in order. What VLANs
    /// they take the map says.
    pub fn bridges(&self) -> Vec<Bridge> {
        let parse = |path: PathBuf| {
            let name = interface_name(path.file_name()?.to_str()?.strip_prefix(BRIDGE)?);
            let marks = children(&path).into_iter();
            let marks = marks.filter_map(|mark| Some(mark.file_name()?.to_str()?.to_owned()));
            let marks = marks.collect::<Vec<_>>();
            let on = |side: Side| {
                let of = |mark: &String| {
                    let port = mark.strip_prefix(side.word())?.strip_prefix('_')?;
                    Some(interface_name(port))
                };
                sorted(&marks.iter().filter_map(of).collect::<Vec<_>>())
            };
            let watched = marks.iter().any(|mark| mark == WATCHED);
            let stp = if watched { Stp::Watched } else { Stp::Refused };
            let (outside, inside) = (on(Side::Outside), on(Side::Inside));
            Some(Bridge { name, outside, inside, vlans: Vlans::Any, stp })
        };
        let mut found = children(&self.state()).into_iter().filter_map(parse).collect::<Vec<_>>();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories are all that it takes: any file system has them.
    #[test]
    fn bridges_are_noted_with_their_ports_and_forgotten() -> Result<()> {
        let there = tempfile::tempdir()?;
        let dir = PinDir::new(there.path().join("steer"));
        dir.make()?;
        let bridge = |name: &str, outside: &[&str], inside: &[&str], stp| Bridge {
            name: name.into(),
            outside: outside.iter().map(|&port| port.into()).collect(),
            inside: inside.iter().map(|&port| port.into()).collect(),
            vlans: Vlans::Any,
            stp,
        };
        let first = [
            bridge("br0", &["eth0.7"], &["inside_1", "stp_watched"], Stp::Refused),
            bridge("br1.x", &["a"], &["b"], Stp::Watched),
        ];
        dir.set_bridges(&first)?;
        assert_eq!(dir.bridges(), first);
        dir.set_bridges(&first)?;
        assert_eq!(dir.bridges(), first);
        let second = [bridge("br1.x", &["a", "c"], &["d"], Stp::Refused)];
        dir.set_bridges(&second)?;
        assert_eq!(dir.bridges(), second);
        dir.set_bridges(&[])?;
        assert_eq!(dir.bridges(), []);
        Ok(())
    }
}
