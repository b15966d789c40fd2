//! What a look-up costs in tables of every size.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use steer_common::shared::{Session, SessionKey};

use super::{super::record::median, entries};

/// Repetitions of each figure.
const ROUNDS: usize = 7;
/// Runs of a program on one packet.
const RUNS: u32 = 200_000;

/// Look-ups in a table of this many sessions, ns above making the key.
pub(super) struct LookUp {
    pub(super) sessions: u32,
    /// The same session every time.
    pub(super) hot: f64,
    /// Any of them.
    pub(super) random: f64,
}

/// Measures in a table of its own.
pub(super) fn measure(object: &Path, slots: u32) -> Result<LookUp> {
    let sessions = entries::fill_of(slots);
    let mut table = Measured::load(object, slots)?;
    table.fill(sessions)?;
    Ok(LookUp { sessions, hot: table.net(1)?, random: table.net(sessions)? })
}

struct Measured {
    ebpf: Ebpf,
    sessions: HashMap<MapData, SessionKey, Session>,
    numbers: Array<MapData, u32>,
}

impl Measured {
    fn load(object: &Path, slots: u32) -> Result<Self> {
        let bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
        let mut loader = EbpfLoader::new();
        for table in ["key_names", "flows", "splices", "handshakes"] {
            loader.map_max_entries(table, 1024);
        }
        loader.map_max_entries("pending", 16).map_max_entries("sessions", slots);
        let mut ebpf = loader.load(&bytes).context("load the measured programs")?;
        for name in ["scale_key", "scale_lookup"] {
            program(&mut ebpf, name)?.load().with_context(|| format!("load {name}"))?;
        }
        let map = |ebpf: &mut Ebpf, name: &str| {
            ebpf.take_map(name).with_context(|| format!("no map {name}"))
        };
        let (sessions, numbers) = (map(&mut ebpf, "sessions")?, map(&mut ebpf, "scale_numbers")?);
        Ok(Self { sessions: sessions.try_into()?, numbers: numbers.try_into()?, ebpf })
    }

    fn fill(&mut self, sessions: u32) -> Result<()> {
        for number in 0..sessions {
            self.sessions.insert(entries::session_key(0, number)?, entries::session(0), 0)?;
        }
        Ok(())
    }

    /// Nanoseconds of a look-up of one of the first `n` sessions.
    fn net(&mut self, n: u32) -> Result<f64> {
        const MISSED: u32 = 1;
        self.numbers.set(0, n, 0)?;
        self.numbers.set(MISSED, 0, 0)?;
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            with.push(run(&mut self.ebpf, "scale_lookup")?);
            without.push(run(&mut self.ebpf, "scale_key")?);
        }
        let missed = self.numbers.get(&MISSED, 0)?;
        ensure!(missed == 0, "{missed} look-ups in vain: the table is not filled");
        Ok(median(&with).unwrap_or(f64::NAN) - median(&without).unwrap_or(f64::NAN))
    }
}

/// Nanoseconds of one run.
fn run(ebpf: &mut Ebpf, name: &str) -> Result<f64> {
    let frame = [0; 64];
    let options =
        TestRunOptions { data_in: Some(&frame), repeat: RUNS, ..TestRunOptions::default() };
    Ok(program(ebpf, name)?
        .test_run(options)
        .with_context(|| format!("run {name}"))?
        .duration
        .as_nanos() as f64)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program =
        ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    program.try_into().with_context(|| format!("take the program {name}"))
}
