//! What tables cost: kernel memory by their sizes, and what the machine has.

use std::fs;

use anyhow::Result;
use aya::maps::{MapInfo, MapType};

use super::{PinDir, Spec, load::can_grow, specs};
use crate::config::Sizes;

/// Bytes of a hash table's entry besides key and value (`struct htab_elem`), and of a bucket (`struct bucket`).
const ELEMENT: u64 = 48;
const BUCKET: u64 = 16;

/// What the tables of a configuration take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Bytes of all tables.
    pub total: u64,
    /// Bytes of those that have to be made.
    pub new: u64,
    /// The table that takes most of it, and its bytes.
    pub largest: (&'static str, u64),
    /// Bytes that the machine can give away, as it says (`MemAvailable` of /proc/meminfo).
    pub available: Option<u64>,
}

/// One table whose size the configuration says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Its name.
    pub name: &'static str,
    /// Entries that it can hold now.
    pub now: u32,
    /// Entries that it is to hold.
    pub wanted: u32,
}

/// What the tables take, and those among them that are there with another size.
pub fn room(dir: &PinDir, sizes: &Sizes) -> Result<(Memory, Vec<Room>)> {
    let mut memory = Memory { total: 0, new: 0, largest: ("", 0), available: available() };
    let mut rooms = Vec::new();
    for spec in specs(sizes)? {
        let bytes = bytes(&spec);
        memory.total += bytes;
        if bytes > memory.largest.1 {
            memory.largest = (spec.name, bytes);
        }
        let there = MapInfo::from_pin(dir.map(spec.name)).ok().map(|info| info.max_entries());
        if there.is_none_or(|now| now != spec.max_entries && can_grow(spec.name)) {
            memory.new += bytes;
            rooms.extend(there.map(|now| Room { name: spec.name, now, wanted: spec.max_entries }));
        }
    }
    Ok((memory, rooms))
}

/// Bytes of a map, as the kernel counts them (`bytes_memlock` of bpftool; `htab_map_mem_usage`, `array_map_mem_usage`).
fn bytes(spec: &Spec) -> u64 {
    let round = |size: usize| (size as u64).next_multiple_of(8);
    let entries = u64::from(spec.max_entries);
    match spec.kind {
        MapType::Hash | MapType::LruHash => {
            entries * (ELEMENT + round(spec.key_size) + round(spec.value_size)) + entries.next_power_of_two() * BUCKET
        }
        MapType::PerCpuArray => entries * (8 + round(spec.value_size) * aya::util::nr_cpus().map_or(1, |n| n as u64)),
        MapType::RingBuf => entries,
        _ => entries * round(spec.value_size),
    }
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
