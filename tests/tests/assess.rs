//! `steer assess` on captures of real traffic: it says what the ends of the connections saw.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use steer_tests::{
    agent::Hook,
    client::Offer,
    demo::{Load, Tally},
    l4::PlainL4,
    nginx,
    recorder::{Recorder, header, packets},
    scenario::{N_SOURCES, Run, Scenario},
    topology::{CLIENT_SIDE, Family, backend_side},
};
use tempfile::TempDir;

/// Captures of both sides of the balancer, and what the clients saw meanwhile.
struct Recorded {
    directory: TempDir,
    n_backends: usize,
}

impl Recorded {
    /// Records while `work` goes on.
    fn new<T>(run: &Run, work: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let recorded = Self { directory: TempDir::new()?, n_backends: run.lab.n_backends() };
        let gateway = run.lab.gateway();
        let mut recorders = vec![Recorder::start(gateway, CLIENT_SIDE, &recorded.outside())?];
        for index in 0..recorded.n_backends {
            recorders.push(Recorder::start(gateway, &backend_side(index), &recorded.at(index))?);
        }
        let done = work()?;
        recorders.into_iter().try_for_each(|recorder| recorder.stop().map(drop))?;
        Ok((recorded, done))
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside.pcap")
    }

    fn at(&self, backend: usize) -> PathBuf {
        self.directory.path().join(format!("inside-{backend}.pcap"))
    }

    fn inside(&self) -> Vec<PathBuf> {
        (0..self.n_backends).map(|index| self.at(index)).collect()
    }
}

fn assess(files: &[impl AsRef<Path>], flags: &[&str]) -> Result<Value> {
    let mut steer = Command::new(binary()?);
    steer.args(["assess", "--json"]).args(flags).args(files.iter().map(AsRef::as_ref));
    let output = steer.output().context("start steer assess")?;
    ensure!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).context("read what it printed")
}

fn binary() -> Result<PathBuf> {
    let beside =
        std::env::current_exe()?.ancestors().nth(2).map(|directory| directory.join("steer"));
    std::env::var_os("STEER_BIN")
        .map(PathBuf::from)
        .or(beside)
        .filter(|path| path.exists())
        .context("no binary steer")
}

fn number(report: &Value, pointer: &str) -> Result<u64> {
    report
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {pointer} in {report}"))
}

/// The demo's clients through plain layer 4.
fn through_plain_l4(run: &Run, load: &Load) -> Result<(Recorded, Tally)> {
    let (recorded, tally) = Recorded::new(run, || {
        let _balancer = PlainL4::start(&run.lab)?;
        load.run(run, "plain layer 4")
    })?;
    ensure!(tally.errors == 0, "{tally:?}");
    Ok((recorded, tally))
}

const LOAD: Load = Load { clients: 40, reconnects: 400, parallel: 8 };

#[test]
fn it_says_what_the_clients_saw_and_what_steer_would_keep() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let run = Scenario::new(Hook::Tc, family).start()?;
        let (recorded, seen) = through_plain_l4(&run, &LOAD)?;
        let report = assess(&recorded.inside(), &[])?;
        let offered = seen.reconnects as u64;
        let resumed = seen.resumed as u64;
        ensure!(number(&report, "/total/handshakes")? == seen.connections as u64, "{report}");
        ensure!(number(&report, "/total/offered")? == offered, "{report}");
        ensure!(number(&report, "/total/accepted")? == resumed, "{report}");
        ensure!(number(&report, "/total/refused")? == offered - resumed, "{report}");
        // Every refused session is of another server, and steer resumes all of them.
        ensure!(number(&report, "/total/kept")? == offered - resumed, "{report}");
        ensure!(number(&report, "/total/kept_at_most")? == offered - resumed, "{report}");
        ensure!(
            report["side"] == "inside" && report["members"].as_array().map(Vec::len) == Some(3)
        );
        ensure!(report["connections"]["unreadable_percent"] == 0.0, "{report}");
        let moved =
            ["accepted", "refused"].map(|came| number(&report, &format!("/other_address/{came}")));
        let [accepted, refused] = moved;
        ensure!(
            accepted? + refused? == offered,
            "every reconnect is from another address: {report}"
        );
    }
    Ok(())
}
