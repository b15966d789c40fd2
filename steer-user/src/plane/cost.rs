//! What tables cost: kernel memory by their sizes, and what the machine has.

use std::fs;

use anyhow::Result;
use aya::maps::MapInfo;
use steer_common::maps::{Kind, Map, Size};

use super::{PinDir, wanted::wanted};
use crate::config::Sizes;

/// Bytes of a hash table's entry besides key and value (`struct htab_elem`), and of a bucket
/// (`struct bucket`).
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
    for map in wanted(sizes)? {
        let bytes = bytes(&map);
        memory.total += bytes;
        if bytes > memory.largest.1 {
            memory.largest = (map.name, bytes);
        }
        let there = MapInfo::from_pin(dir.map(map.name)).ok().map(|info| info.max_entries());
        if there.is_none_or(|now| now != map.entries && map.size != Size::Fixed) {
            memory.new += bytes;
            rooms.extend(there.map(|now| Room { name: map.name, now, wanted: map.entries }));
        }
    }
    Ok((memory, rooms))
}

/// Bytes of a map, as the kernel counts them (`bytes_memlock` of bpftool; `htab_map_mem_usage`,
/// `array_map_mem_usage`).
fn bytes(map: &Map) -> u64 {
    let round = |size: u32| u64::from(size).next_multiple_of(8);
    let entries = u64::from(map.entries);
    match map.kind {
        Kind::Hash | Kind::LruHash => {
            entries * (ELEMENT + round(map.key.size) + round(map.value.size))
                + entries.next_power_of_two() * BUCKET
        }
        Kind::PerCpuArray => {
            entries * (8 + round(map.value.size) * aya::util::nr_cpus().map_or(1, |n| n as u64))
        }
        // Entries are made as they come, few of them.
        Kind::LpmTrie => 0,
        Kind::RingBuf => entries,
        Kind::Array => entries * round(map.value.size),
    }
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
