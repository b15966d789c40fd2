//! The other gateways of this machine: other pin directories whose programs sit in the same network
//! namespace.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use steer_common::shared::{Endpoint, LAYOUT_VERSION, Vip};

use super::{PinDir, Table, entrances::Entrances, pin::children};
use crate::{address::socket, service::Service};

/// How deep below a BPF file system a pin directory is looked for.
const DEPTH: usize = 4;

/// Another gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// Its pin directory.
    pub pin_dir: PathBuf,
    /// The interfaces that it manages.
    pub interfaces: Vec<String>,
    /// Its VIPs; none where it is of another version.
    pub vips: Vec<SocketAddr>,
}

/// Every gateway of this network namespace but the one of this pin directory.
pub fn gateways(dir: &PinDir) -> Vec<Gateway> {
    let own = fs::canonicalize(dir.root()).unwrap_or_else(|_| dir.root().to_owned());
    let mut roots = BTreeSet::new();
    for mount in bpf_file_systems() {
        find(&mount, DEPTH, &mut roots);
    }
    let others = roots.into_iter().filter(|root| *root != own);
    others
        .flat_map(|root| PinDir::new(root).layouts())
        .filter(PinDir::is_in_this_netns)
        .map(|dir| read(&dir))
        .collect()
}

/// What this gateway shares with others, as sentences: two programs that steer the same packets.
pub fn shared(dir: &PinDir, vips: &[SocketAddr]) -> Vec<String> {
    let interfaces = dir.managed();
    let mut sentences = Vec::new();
    for other in gateways(dir) {
        let place = other.pin_dir.display();
        let both = other
            .interfaces
            .iter()
            .filter(|name| interfaces.contains(name))
            .cloned()
            .collect::<Vec<_>>();
        let same = other
            .vips
            .iter()
            .filter(|vip| vips.contains(vip))
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        if !both.is_empty() {
            sentences.push(format!(
                "another gateway, at {place}, manages {} too: packets meet the programs of both",
                both.join(", ")
            ));
        }
        if !same.is_empty() {
            sentences
                .push(format!("another gateway, at {place}, has the VIP {} too", same.join(", ")));
        }
    }
    sentences
}

fn read(dir: &PinDir) -> Gateway {
    let vips = match dir.layout() {
        LAYOUT_VERSION => {
            Table::<Endpoint, Vip>::open(dir, "vips").and_then(|table| table.entries())
        }
        _ => Ok(Vec::new()),
    };
    let sharing = match dir.layout() {
        LAYOUT_VERSION => Entrances::open(dir).and_then(|map| map.all()),
        _ => Ok(Vec::new()),
    };
    Gateway {
        pin_dir: dir.root().to_owned(),
        interfaces: dir.managed(),
        vips: vips
            .unwrap_or_default()
            .iter()
            .filter_map(|(at, _)| Service::of(at).address())
            .chain(sharing.unwrap_or_default().iter().map(|(_, also)| socket(&also.endpoint)))
            .collect(),
    }
}

/// Where BPF file systems are mounted (proc(5), /proc/self/mounts; a space in a path is written
/// `\040`).
fn bpf_file_systems() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of_bpf = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "bpf").then(|| PathBuf::from(place.replace("\\040", " ")))
    };
    mounts.lines().filter_map(of_bpf).collect()
}

/// Finds the directories that hold the state of a gateway.
fn find(directory: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    if !PinDir::new(directory).layouts().is_empty() {
        found.insert(fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned()));
    } else if depth > 0 {
        let is_directory =
            |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        children(directory)
            .into_iter()
            .filter(is_directory)
            .for_each(|child| find(&child, depth - 1, found));
    }
}
