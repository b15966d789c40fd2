//! What each kind of packet costs, in both programs and families, with one client and with tables
//! of a million entries.
//!
//! A shim (`steer-ebpf/src/bench.rs`) restores packet and flow before each run and notes the time
//! it takes for itself, which is taken off; the floor is the same shim in front of an empty
//! program.

mod cases;
mod report;
mod tables;

use std::path::Path;

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use steer_common::shared::Bench;

use self::{
    cases::Case,
    report::Measured,
    tables::{State, Tables},
};
use crate::{
    agent::Shape,
    ends::{self, families},
    netns::NetNs,
};

/// Repetitions of the whole measurement; medians are printed.
const ROUNDS: usize = 7;

/// A hook whose program is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hook {
    /// `steer_xdp`.
    Xdp,
    /// `steer_tc`.
    Tc,
}

/// Measures every case, interleaved, and prints medians; `quick` leaves the filled tables out,
/// `shape` says whose packets, `record` names a directory for the page.
///
/// # Errors
/// When the programs cannot be loaded or run, or a case did not take the way that it is named
/// after.
pub fn packet(
    object: &Path,
    quick: bool,
    shape: Shape,
    json: bool,
    record: Option<&Path>,
) -> Result<()> {
    let object = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
    let mut page = report::page(quick)?;
    let ns = NetNs::create()?;
    tables::lay_link(&ns)?;
    let measured = ns.run(|| {
        let mut measured = Vec::new();
        let families = match shape {
            Shape::Gateway => families(),
            Shape::Inline => ends::inline(),
            Shape::Bridge => ends::bridged(),
        };
        for ends in families {
            let states: &[State] =
                if quick { &[State::Hot] } else { &[State::Hot, State::Random1m] };
            for &state in states {
                let cases = cases::all(&ends);
                let mut tables = Tables::new(&object, &ends, state, &cases)?;
                measured.extend(rounds(&mut tables, &cases, state)?);
            }
        }
        Ok(measured)
    })?;
    report::tell(&mut page, &measured, json, record)
}

/// All cases on both hooks, one after the other, over and over.
fn rounds(tables: &mut Tables, cases: &[Case], state: State) -> Result<Vec<Measured>> {
    // XDP passes all that comes to a bridge.
    let hooks = |case: &Case| {
        if case.ends.bridged { vec![Hook::Tc] } else { vec![Hook::Xdp, Hook::Tc] }
    };
    let kinds =
        || cases.iter().flat_map(|case| hooks(case).into_iter().map(move |hook| (case, hook)));
    let mut times = vec![(Vec::new(), Vec::new()); kinds().count()];
    for _ in 0..ROUNDS {
        for ((case, hook), (raw, floor)) in kinds().zip(&mut times) {
            floor.push(run(tables, case, hook, state, false)?);
            raw.push(run(tables, case, hook, state, true)?);
        }
    }
    let measured = kinds()
        .zip(times)
        .map(|((case, hook), (raw, floor))| Measured::new(case, hook, state, raw, floor));
    Ok(measured.collect())
}

/// Nanoseconds of one run of steer's program, or of the empty one, without what the shim took.
fn run(tables: &mut Tables, case: &Case, hook: Hook, state: State, steer: bool) -> Result<f64> {
    let runs = state.runs();
    let bench = Bench { mask: case.mask(state), ..case.bench(state) };
    tables.begin(case, &bench, state, hook, steer)?;
    let counter = case.counter(hook).filter(|_| steer);
    let before = counter.map_or(Ok(0), |counter| tables.counter(counter))?;
    let index = tables::link_index()?;
    let came_by = match hook {
        Hook::Tc => came_by_tc(index),
        Hook::Xdp => came_by_xdp(index, case.frame.len()),
    };
    let options = TestRunOptions {
        data_in: Some(&case.frame),
        ctx_in: Some(&came_by),
        repeat: runs,
        ..TestRunOptions::new()
    };
    let context = || format!("run {} on {hook:?}", case.name);
    let ran = match hook {
        Hook::Tc => {
            tables
                .program::<SchedClassifier>("bench_shim_tc")?
                .test_run(options)
                .with_context(context)?
                .duration
        }
        Hook::Xdp => {
            tables
                .program::<Xdp>("bench_shim_xdp")?
                .test_run(options)
                .with_context(context)?
                .duration
        }
    };
    let told = tables.told()?;
    anyhow::ensure!(
        told.runs == u64::from(runs),
        "{}: the shim ran {} times, not {runs}",
        context(),
        told.runs
    );
    if let Some(counter) = counter {
        let counted = tables.counter(counter)? - before;
        // Of the random clients of a SYN one may come twice.
        anyhow::ensure!(
            counted * 100 >= told.runs * 99,
            "{}: {counted} of {runs} took the way",
            context()
        );
    }
    Ok(ran.as_nanos() as f64 - told.own as f64 / told.runs as f64)
}

/// `struct __sk_buff` with the interface that frames come in by (`ingress_ifindex`, `ifindex`:
/// words 9 and 10).
fn came_by_tc(index: u32) -> Vec<u8> {
    let mut words = [0; 48];
    (words[9], words[10]) = (index, index);
    words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

/// `struct xdp_md` with the interface and the frame's length: `data`, `data_end`, `data_meta`,
/// `ingress_ifindex`, `rx_queue_index`, `egress_ifindex`.
fn came_by_xdp(index: u32, frame_len: usize) -> Vec<u8> {
    [0, frame_len as u32, 0, index, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}
