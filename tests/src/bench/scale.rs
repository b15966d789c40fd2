//! Memory and scale: what an entry takes, and how agent, command line, look-ups and learning fare
//! as tables grow.

mod entries;
mod gateway;
mod learning;
mod lookups;
mod memory;
mod page;
mod traffic;

use std::path::Path;

use anyhow::Result;

use self::{gateway::Grown, learning::Learned, lookups::LookUp, memory::Filled};
use super::record::Report;

/// Tables of a whole run: a million, and eight.
const WHOLE: Extent = Extent {
    tables: [1 << 20, 1 << 23],
    steps: &[0, 1 << 10, 1 << 16, 1 << 20],
    look_ups: &[1 << 10, 1 << 16, 1 << 20, 1 << 23],
    learned: 1 << 19,
};
/// Of a quick one, which tells whether the benchmark works.
const QUICK: Extent = Extent {
    tables: [1 << 16, 1 << 18],
    steps: &[0, 1 << 10, 1 << 14],
    look_ups: &[1 << 10, 1 << 14, 1 << 18],
    learned: 1 << 16,
};
/// Parts in which sessions are learned.
const PARTS: u32 = 16;
/// Part of the machine's free memory that a table may take.
const SHARE: u64 = 2;
/// Bytes of the largest entry, with room to spare: what the largest table is judged by.
const LARGEST_ENTRY: u64 = 512;

/// How far a run goes, slots of tables.
#[derive(Clone, Copy)]
struct Extent {
    /// Tables whose memory is measured; the agent has a session table of the larger.
    tables: [u32; 2],
    /// Sessions in the agent's table before it is filled.
    steps: &'static [u32],
    look_ups: &'static [u32],
    /// Slots of the session table that is learned into.
    learned: u32,
}

/// All that was measured.
struct Measured {
    filled: Vec<Filled>,
    key_name: f64,
    grown: Grown,
    look_ups: Vec<LookUp>,
    learned: Learned,
    /// What could not be measured, as sentences.
    missing: Vec<String>,
}

/// Measures everything and prints what came out; `record` names a directory for the page.
///
/// # Errors
/// When a table cannot be made, or a figure would be of something else than it says.
pub fn scale(object: &Path, quick: bool, json: bool, record: Option<&Path>) -> Result<()> {
    let command = if quick {
        "cargo xtask bench scale --quick"
    } else {
        "cargo xtask bench scale --record docs/bench"
    };
    let mut report = Report::new("scale", "Memory and scale", command, &[])?;
    let extent = if quick { QUICK } else { WHOLE };
    let measured = measure(object, extent)?;
    page::write(&mut report, &measured)?;
    report.print();
    if json {
        page::print_json(&measured);
    }
    record.map_or(Ok(()), |directory| report.write(directory))
}

fn measure(object: &Path, extent: Extent) -> Result<Measured> {
    let mut missing = Vec::new();
    let largest = largest()?;
    let mut fits = |slots: &u32| {
        let fits = *slots <= largest;
        if !fits {
            missing.push(format!("a table of {slots} slots: memory is free for {largest}"));
        }
        fits
    };
    let tables: Vec<_> = extent.tables.into_iter().filter(&mut fits).collect();
    let sizes = memory::TABLES.iter().flat_map(|table| tables.iter().map(|slots| (*table, *slots)));
    let filled = sizes.map(|(table, slots)| memory::fill(table, slots)).collect::<Result<_>>()?;
    let slots = extent.tables[1].min(largest);
    let steps: Vec<_> = extent.steps.iter().copied().chain([entries::fill_of(slots)]).collect();
    let grown = gateway::grow(slots, &steps)?;
    let look_ups = extent.look_ups.iter().filter(|slots| fits(slots));
    let look_ups = look_ups.map(|slots| lookups::measure(object, *slots)).collect::<Result<_>>()?;
    let learned = learning::measure(object, extent.learned, extent.learned * 2 / PARTS)?;
    Ok(Measured {
        filled,
        key_name: memory::bytes_per_key_name()?,
        grown,
        look_ups,
        learned,
        missing,
    })
}

/// The largest power of two of slots for which there is memory.
fn largest() -> Result<u32> {
    let slots = memory::available()? / SHARE / LARGEST_ENTRY;
    Ok(1 << slots.max(1).ilog2().min(30))
}
