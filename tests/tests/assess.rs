//! `steer assess` on captures of real traffic: it says what the ends of the connections saw.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use steer_common::counters::Counter;
use steer_tests::{
    agent::Hook,
    client::Offer,
    demo::{Load, Tally},
    l4::{PlainL4, Snat},
    nginx,
    process::eventually,
    recorder::{Recorder, header, packets},
    scenario::{Run, Scenario},
    topology::{CLIENT_SIDE, Family, OUTSIDE, backend_side},
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
        let outside = run.lab.balancer().map_or((gateway, CLIENT_SIDE), |ns| (ns, OUTSIDE));
        let mut recorders = vec![Recorder::start(outside.0, outside.1, &recorded.outside())?];
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

/// Sessions of all kinds through plain layer 4.
#[test]
fn it_says_the_same_of_tickets() -> Result<()> {
    let settings = |protocols: &str| nginx::Settings {
        protocols: protocols.to_owned(),
        tickets: true,
        ..nginx::Settings::default()
    };
    for (offer, protocols) in [(Offer::Ticket12, "TLSv1.2"), (Offer::Ticket13, "TLSv1.3")] {
        let run = Scenario::new(Hook::Tc, Family::V4).nginx(settings(protocols)).start()?;
        let (recorded, seen) = Recorded::new(&run, || {
            let _balancer = PlainL4::start(&run.lab)?;
            reconnects(&run, offer)
        })?;
        let report = assess(&recorded.inside(), &[])?;
        let refused = seen.offered - seen.resumed;
        ensure!(number(&report, "/total/offered")? == seen.offered, "{offer:?}: {report}");
        ensure!(number(&report, "/total/accepted")? == seen.resumed, "{offer:?}: {report}");
        ensure!(number(&report, "/total/refused")? == refused, "{offer:?}: {report}");
        let kept = number(&report, "/total/kept")?;
        // Who issues tickets of TLS 1.3 shows only once they are accepted.
        let at_least = if offer == Offer::Ticket12 { refused } else { refused / 2 };
        ensure!((at_least..=refused).contains(&kept), "{offer:?}: {kept} of {refused}: {report}");
        ensure!(number(&report, "/total/kept_at_most")? == refused, "{offer:?}: {report}");
    }
    Ok(())
}

/// What the ends of reconnecting clients saw.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    offered: u64,
    resumed: u64,
}

/// Clients that come back one after the other, each time from another address.
fn reconnects(run: &Run, offer: Offer) -> Result<Seen> {
    const CLIENTS: usize = 12;
    const VISITS: usize = 12;
    let mut seen = Seen::default();
    let clients =
        (0..CLIENTS).map(|_| run.new_client_offering(offer)).collect::<Result<Vec<_>>>()?;
    for visit in 0..VISITS {
        for (number, client) in clients.iter().enumerate() {
            let handshake = run.visit(client, &run.dial(number * 7 + visit * 23))?;
            seen.offered += u64::from(handshake.offered);
            seen.resumed += u64::from(handshake.offered && handshake.resumed);
        }
    }
    Ok(seen)
}

#[test]
fn outside_of_the_balancer_it_says_what_is_to_be_seen_there() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).start()?;
    let (recorded, seen) = through_plain_l4(&run, &LOAD)?;
    let (offered, resumed) = (seen.reconnects as u64, seen.resumed as u64);
    let report = assess(&[recorded.outside()], &[])?;
    ensure!(report["side"] == "outside", "{report}");
    ensure!(number(&report, "/total/offered")? == offered, "{report}");
    ensure!(number(&report, "/total/accepted")? == resumed, "{report}");
    ensure!(number(&report, "/total/refused_by_owner")? == offered - resumed, "{report}");

    // Both sides in one, as a mirror port of a balancer with one leg shows them.
    let both = [vec![recorded.outside()], recorded.inside()].concat();
    let report = assess(&both, &[])?;
    ensure!(report["fronts"] == serde_json::json!([run.vip().to_string()]), "{report}");
    ensure!(report["side"] == "inside", "{report}");
    ensure!(number(&report, "/total/offered")? == offered, "{report}");
    ensure!(number(&report, "/total/kept")? == offered - resumed, "{report}");
    let members: Vec<_> = (0..3).map(|index| run.backend_address(index).to_string()).collect();
    let named: Vec<_> = members.iter().flat_map(|member| ["--member", member]).collect();
    let report = assess(&both, &named)?;
    ensure!(number(&report, "/total/kept")? == offered - resumed, "{report}");
    Ok(())
}

/// The oracle: the programs themselves, in observe mode, on the same connections.
#[test]
fn it_decides_as_the_programs_do() -> Result<()> {
    for (offer, protocols, tickets) in [
        (Offer::SessionId, "TLSv1.2", false),
        (Offer::Ticket12, "TLSv1.2", true),
        (Offer::Ticket13, "TLSv1.3", true),
    ] {
        let settings = nginx::Settings {
            protocols: protocols.to_owned(),
            tickets,
            ..nginx::Settings::default()
        };
        let scenario = Scenario::new(Hook::Tc, Family::V4).nginx(settings);
        let run = scenario.vip_setting("mode = \"observe\"").start()?;
        let steer = run.agent()?;
        let (recorded, seen) = Recorded::new(&run, || reconnects(&run, offer))?;
        // steer's own default; what its agent finds out it finds out a moment later.
        let report = assess(&recorded.inside(), &["--ticket-key-name", "16@0"])?;
        ensure!(number(&report, "/total/offered")? == seen.offered, "{report}");
        let reasons = report["reasons"].as_array().context("no reasons")?;
        let told = |counter: Counter| {
            let line = reasons.iter().find(|line| line["word"] == counter.word());
            line.and_then(|line| line["handshakes"].as_u64()).unwrap_or_default()
        };
        for counter in [
            Counter::HelloNoSession,
            Counter::SessionHit,
            Counter::SessionMiss,
            Counter::SessionExpired,
            Counter::TicketMiss,
            Counter::KeyNameShared,
            Counter::KeyNameGivenUp,
            Counter::KeyNameSearch,
            Counter::KeyNameDue,
        ] {
            let counted = steer.count(counter)?;
            let told = told(counter);
            ensure!(
                told == counted,
                "{offer:?}: {counter:?}: {told}, not {counted}: {} {reasons:?}",
                steer.steer("stats")?
            );
        }
        let observed = steer.count(Counter::Observed)?;
        let would =
            told(Counter::Rehome) + told(Counter::KeyNameSearch) + told(Counter::KeyNameDue);
        ensure!(would == observed && observed > 0, "{offer:?}: {observed} observed: {report}");
    }
    Ok(())
}

#[test]
fn with_one_packet_in_a_hundred_lost_the_truth_is_where_it_says() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).start()?;
    let (recorded, seen) = through_plain_l4(&run, &LOAD)?;
    let refused = (seen.reconnects - seen.resumed) as u64;
    Truth { offered: seen.reconnects as u64, refused, kept: Some(refused) }
        .is_told_of_most_of(&recorded.inside())
}

/// What the ends saw, or steer reached.
struct Truth {
    offered: u64,
    refused: u64,
    /// `None` where a capture cannot say.
    kept: Option<u64>,
}

impl Truth {
    /// With one packet in a hundred gone from the captures it lies where the report says.
    fn is_told_of_most_of(&self, files: &[PathBuf]) -> Result<()> {
        const SEEDS: u64 = 5;
        for seed in 0..SEEDS {
            let mut dice = Dice::new(seed);
            let mut thinned = Vec::new();
            for file in files {
                let kept = packets(file)?.into_iter().filter(|_| !dice.one_in(100));
                let path = file.with_extension(format!("{seed}.pcap"));
                std::fs::write(&path, [header(), kept.collect::<Vec<_>>().concat()].concat())?;
                thinned.push(path);
            }
            let report = assess(&thinned, &[])?;
            let share = report["connections"]["unreadable_percent"].as_f64().context("no share")?;
            ensure!(share > 0.0 && share < 20.0, "seed {seed}: {report}");
            for (truth, least, most) in [
                (Some(self.offered), "/total/offered", "/total/offered_at_most"),
                (Some(self.refused), "/total/refused", "/total/refused_at_most"),
                (self.kept, "/total/kept", "/total/kept_at_most"),
            ] {
                let Some(truth) = truth else { continue };
                let (least, most) = (number(&report, least)?, number(&report, most)?);
                ensure!(
                    (least..=most).contains(&truth),
                    "seed {seed}: {truth} in {least}..={most}: {report}"
                );
                ensure!(most - least <= self.offered / 5, "seed {seed}: says nothing: {report}");
            }
        }
        Ok(())
    }
}

/// A balancer in front of a gateway that is not there yet: members may go on with what they hold.
fn behind_a_balancer(snat: Snat) -> Scenario {
    let patient = nginx::Settings { patience: "600s".to_owned(), ..nginx::Settings::default() };
    Scenario::new(Hook::Tc, Family::V4).nginx(patient).inline(snat)
}

/// The oracle: steer itself, switched on behind the same balancer, with the same clients.
#[test]
fn what_it_says_of_both_sides_of_a_balancer_is_what_steer_then_reaches() -> Result<()> {
    for snat in [Snat::No, Snat::Yes] {
        let run = behind_a_balancer(snat).start()?;
        let (recorded, before) = Recorded::new(&run, || LOAD.run(&run, "the balancer alone"))?;
        let steer = run.agent()?;
        let after = LOAD.run(&run, "steer")?;
        ensure!(before.errors + after.errors == 0, "{before:?} {after:?}");
        ensure!(before.reconnects == after.reconnects && before.resumed < after.resumed);
        let offered = before.reconnects as u64;
        let (accepted, reached) = (before.resumed as u64, after.resumed as u64);

        let report = assess(&recorded.inside(), &[])?;
        ensure!(report["side"] == "inside", "{snat:?}: {report}");
        for (pointer, truth) in [
            ("/total/offered", offered),
            ("/total/accepted", accepted),
            ("/total/refused", offered - accepted),
            ("/total/kept", reached - accepted),
            ("/total/kept_at_most", reached - accepted),
            ("/total/incompatible", 0),
        ] {
            ensure!(number(&report, pointer)? == truth, "{snat:?}: {pointer}, {truth}: {report}");
        }
        ensure!(report["incompatible"] == serde_json::json!([]), "{snat:?}: {report}");

        let outside = assess(&[recorded.outside()], &[])?;
        ensure!(outside["side"] == "outside", "{snat:?}: {outside}");
        ensure!(number(&outside, "/total/offered")? == offered, "{snat:?}: {outside}");
        ensure!(number(&outside, "/total/accepted")? == accepted, "{snat:?}: {outside}");
        ensure!(number(&outside, "/total/refused_by_owner")? == reached - accepted, "{outside}");

        let both = [vec![recorded.outside()], recorded.inside()].concat();
        let report = assess(&both, &[])?;
        ensure!(report["fronts"] == serde_json::json!([run.vip().to_string()]), "{report}");
        ensure!(number(&report, "/total/offered")? == offered, "{snat:?}: {report}");
        ensure!(number(&report, "/total/kept")? == reached - accepted, "{snat:?}: {report}");

        let (refused, kept) = (offered - accepted, reached - accepted);
        Truth { offered, refused, kept: Some(kept) }.is_told_of_most_of(&recorded.inside())?;
        let outside = [recorded.outside()];
        Truth { offered, refused, kept: None }.is_told_of_most_of(&outside)?;
        drop(steer);
    }
    Ok(())
}

/// What is said of members whose TCP options differ is what steer then counts.
#[test]
fn between_members_that_agree_to_different_options_it_says_that_nothing_would_move() -> Result<()> {
    for snat in [Snat::No, Snat::Yes] {
        let scenario = behind_a_balancer(snat).backends(2);
        let run = scenario.backend_sysctl(0, "ipv4/tcp_timestamps", "0").start()?;
        let (recorded, before) = Recorded::new(&run, || LOAD.run(&run, "the balancer alone"))?;
        let report = assess(&recorded.inside(), &[])?;
        let (refused, kept) = (number(&report, "/total/refused")?, number(&report, "/total/kept")?);
        let incompatible = number(&report, "/total/incompatible")?;
        ensure!(incompatible > 0 && kept > 0 && kept + incompatible == refused, "{report}");
        let [pair] = &report["incompatible"].as_array().context("pairs")?[..] else {
            bail!("not one pair: {report}");
        };
        let [lacking, other] = [0, 1].map(|index| run.backend_address(index).to_string());
        ensure!(pair["owner"] == lacking && pair["first"] == other, "{report}");
        ensure!(pair["options"] == serde_json::json!(["timestamps"]), "{report}");
        ensure!(pair["refused"] == incompatible, "{report}");

        let steer = run.agent()?;
        let after = LOAD.run(&run, "steer")?;
        ensure!(before.errors + after.errors == 0, "{before:?} {after:?}");
        // What is not moved is issued anew by the other one, from which all moves.
        let missed = (after.reconnects - after.resumed) as u64;
        ensure!(steer.count(Counter::OwnerIncompatible)? == missed && missed > 0, "{after:?}");
        ensure!(after.resumed >= before.resumed + kept as usize, "{before:?} {after:?} {report}");
        // The agent finds the same.
        let words = format!("{lacking} does not agree to the TCP options timestamps where {other}");
        let named = || steer.steer("status").is_ok_and(|text| text.contains(&words)).then_some(());
        eventually(Duration::from_secs(20), named).context("status does not say so")?;
    }
    Ok(())
}

#[test]
fn an_interface_is_listened_to_until_it_is_enough() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).start()?;
    let mut command = Command::new(binary()?);
    command.args(["assess", "--json", "--interface", CLIENT_SIDE, "--for", "1h"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut steer = run.lab.gateway().run(|| Ok(command.spawn()?))?;
    let mut said = BufReader::new(steer.stderr.take().context("no standard error")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    ensure!(line.starts_with("steer: listening to clients for 1h"), "{line}");
    let seen = {
        let _balancer = PlainL4::start(&run.lab)?;
        LOAD.run(&run, "plain layer 4")?
    };
    kill(Pid::from_raw(steer.id().cast_signed()), Signal::SIGINT)?;
    let output = steer.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(number(&report, "/total/offered")? == seen.reconnects as u64, "{report}");
    ensure!(number(&report, "/total/accepted")? == seen.resumed as u64, "{report}");
    ensure!(number(&report, "/intake/dropped")? == 0, "{report}");
    ensure!(report["side"] == "outside", "{report}");
    Ok(())
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11).is_multiple_of(n)
    }
}
