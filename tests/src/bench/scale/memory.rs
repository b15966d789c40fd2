//! What an entry takes of the kernel's memory: as the kernel accounts for the map, and as its
//! memory really shrinks.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use steer_user::{config::Sizes, plane::Plane};

use super::entries;
use crate::{process::eventually, programs::Loaded};

/// Slots of a table that is not the measured one.
const FEW: u32 = 1024;
/// Repetitions of what memory is taken by.
const TRIES: usize = 3;
/// Memory that did not change for so long stands still; longest wait for that.
const STILL: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(3);

/// Tables whose size is configured and whose entries stay.
pub(super) const TABLES: [&str; 3] = [SESSIONS, FLOWS, SPLICES];
pub(super) const SESSIONS: &str = "sessions";
pub(super) const FLOWS: &str = "flows";
pub(super) const SPLICES: &str = "splices";

/// One filled table.
pub(super) struct Filled {
    pub(super) table: &'static str,
    pub(super) slots: u32,
    pub(super) entries: u64,
    /// `bytes_memlock` of the map.
    pub(super) accounted: u64,
    /// By how much `VmallocUsed` grew.
    pub(super) taken: u64,
}

impl Filled {
    /// Bytes for each entry that is there, by the larger of both measures.
    pub(super) fn bytes_per_entry(&self) -> f64 {
        self.accounted.max(self.taken) as f64 / self.entries as f64
    }
}

/// Memory that could be used, bytes.
pub(super) fn available() -> Result<u64> {
    meminfo("MemAvailable")
}

/// Makes a table of this size, fills it and looks what it took.
pub(super) fn fill(table: &'static str, slots: u32) -> Result<Filled> {
    // All else is the same in both.
    let few = taken(table, FEW)?;
    let much = taken(table, slots)?;
    let mut loaded = Loaded::load(&sizes(table, slots))?;
    let wanted = entries::fill_of(slots);
    let count = enter(&mut loaded.plane, table, wanted)?;
    ensure!(count == u64::from(wanted), "{table} holds {count} entries, not {wanted}");
    let few_accounted = accounted(&Loaded::load(&sizes(table, FEW))?, table)?;
    Ok(Filled {
        table,
        slots,
        entries: count,
        accounted: accounted(&loaded, table)?,
        taken: (much + few_accounted).saturating_sub(few),
    })
}

/// By how much the kernel's memory shrinks when all maps are made, bytes: the median of some tries,
/// as others on the machine take and give back memory too. Tables are allocated whole: filling them
/// takes nothing more.
fn taken(table: &str, slots: u32) -> Result<u64> {
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        let before = settled()?;
        let loaded = Loaded::load(&sizes(table, slots))?;
        tries.push(meminfo("VmallocUsed")?.saturating_sub(before));
        drop(loaded);
    }
    tries.sort_unstable();
    tries.get(TRIES / 2).copied().context("nothing was tried")
}

/// `VmallocUsed` once it stands still: maps are given back when no program can see them any more.
fn settled() -> Result<u64> {
    let (mut last, mut since) = (0, Instant::now());
    let still = eventually(PATIENCE, || {
        thread::sleep(Duration::from_millis(20));
        let now = meminfo("VmallocUsed").ok()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > STILL).then_some(now)
    });
    Ok(still.unwrap_or(last))
}

/// Fills a table with so many entries; how many it holds then.
fn enter(plane: &mut Plane, table: &str, wanted: u32) -> Result<u64> {
    for number in 0..wanted {
        match table {
            SESSIONS => {
                plane.sessions.insert(&entries::session_key(0, number)?, &entries::session(0))?
            }
            FLOWS => plane.flows.insert(&entries::flow_key(0, number), &entries::settled(0))?,
            _ => plane.splices.insert(&entries::flow_key(0, number), &entries::settled(0))?,
        }
    }
    match table {
        SESSIONS => plane.sessions.count(),
        FLOWS => plane.flows.count(),
        _ => plane.splices.count(),
    }
}

/// Bytes that the kernel accounts for a name of a ticket key: a table whose size is fixed.
pub(super) fn bytes_per_key_name() -> Result<f64> {
    let loaded = Loaded::load(&sizes(SESSIONS, FEW))?;
    Ok(accounted(&loaded, "key_names")? as f64 / f64::from(loaded.plane.key_names.max_entries()?))
}

/// This many slots for one table, few for all others.
fn sizes(table: &str, slots: u32) -> Sizes {
    let mut sizes = Sizes {
        sessions: FEW,
        flows: FEW,
        splices: FEW,
        handshakes: FEW,
        pending: 16,
        fast: FEW,
        legs: FEW,
    };
    match table {
        SESSIONS => sizes.sessions = slots,
        FLOWS => sizes.flows = slots,
        _ => sizes.splices = slots,
    }
    sizes
}

/// `memlock` of a map, bytes.
fn accounted(loaded: &Loaded, map: &str) -> Result<u64> {
    let map = MapData::from_pin(loaded.pin(map)).with_context(|| format!("open the map {map}"))?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .context("no memlock in fdinfo")?;
    line.trim().parse().context("read memlock")
}

/// A line of /proc/meminfo, bytes.
fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .with_context(|| format!("no {name} in meminfo"))?;
    Ok(kib.parse::<u64>().with_context(|| format!("read {name}"))? * 1024)
}
