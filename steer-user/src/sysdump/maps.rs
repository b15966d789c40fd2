//! The pinned maps as the kernel has them.

use std::os::fd::AsRawFd as _;

use aya::maps::MapInfo;
use serde::Serialize;
use steer_common::maps::MAPS;

use crate::plane::PinDir;

/// One map.
#[derive(Serialize)]
pub(super) struct MapReport {
    name: &'static str,
    /// The kernel's number; absent where it is not there.
    id: Option<u32>,
    kind: Option<String>,
    key_bytes: Option<u32>,
    value_bytes: Option<u32>,
    max_entries: Option<u32>,
    /// Bytes of the kernel's memory.
    memory_bytes: Option<u64>,
}

pub(super) fn all(dir: &PinDir) -> Vec<MapReport> {
    MAPS.iter().map(|map| report(dir, map.name)).collect()
}

fn report(dir: &PinDir, name: &'static str) -> MapReport {
    let info = MapInfo::from_pin(dir.map(name)).ok();
    let of = |number: fn(&MapInfo) -> u32| info.as_ref().map(number);
    MapReport {
        name,
        id: of(MapInfo::id),
        kind: info.as_ref().and_then(|info| Some(format!("{:?}", info.map_type().ok()?))),
        key_bytes: of(MapInfo::key_size),
        value_bytes: of(MapInfo::value_size),
        max_entries: of(MapInfo::max_entries),
        memory_bytes: info.as_ref().and_then(memory),
    }
}

/// What /proc says of the map's descriptor.
fn memory(info: &MapInfo) -> Option<u64> {
    let map = info.fd().ok()?;
    let number = std::os::fd::AsFd::as_fd(&map).as_raw_fd();
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"))?;
    line.trim().parse().ok()
}
