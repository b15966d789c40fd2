//! A start is through or it has changed nothing: refused, or killed at any step, it leaves a
//! gateway to which the old file is the way back.

use std::{fmt::Write as _, fs, os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use steer_common::{
    flow::{State, StateWord},
    session::Kind,
    shared::{Flow, FlowKey, Session, SessionKey},
};
use steer_tests::{
    agent::{Agent, Hook, vips},
    process::eventually,
    scenario::{Run, Scenario},
    topology::{CLIENT_SIDE, Family, Offloads},
    traces::Traces,
};
use steer_user::{
    clock,
    crash::{self, Starts, Step},
    plane::{PinDir, Plane},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// What an operator would miss: pools with what the CLI made of them, VIPs, interfaces, table
/// sizes, pins, addresses.
#[derive(PartialEq, Debug)]
struct Seen {
    backends: Vec<[Value; 4]>,
    status: Vec<Value>,
    traces: Traces,
}

impl Seen {
    fn of(run: &Run, steer: &Agent<'_>) -> Result<Self> {
        let (list, status) = (steer.json("backends list")?, steer.json("status")?);
        let backends = list["backends"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|backend| backend["state"] != "removed");
        let room = |table: &Value| table["max_entries"].clone();
        let mut backends: Vec<_> = backends
            .map(|b| ["address", "weight", "state", "vip"].map(|key| b[key].clone()))
            .collect();
        backends.sort_by_key(|backend| backend[0].to_string());
        Ok(Self {
            backends,
            status: [vips(&status), status["interfaces"].clone(), status["drift"].clone()]
                .into_iter()
                .chain(status["tables"].as_array().into_iter().flatten().map(room))
                .collect(),
            traces: Traces::of(run, steer)?,
        })
    }
}

fn plain() -> Scenario {
    Scenario::new(Hook::Xdp, Family::V4)
        .offloads(Offloads::ChecksumsOff)
        .backends(3)
        .vip_setting("assign = true")
}

/// Waits until the agent is through, and is as it is to be.
fn comes_to(seen: &Seen, run: &Run, steer: &Agent<'_>) -> Result<()> {
    let same = || Seen::of(run, steer).ok().filter(|now| now == seen);
    let came = eventually(PATIENCE, same).map(drop);
    came.with_context(|| format!("{:?}\ndoes not become\n{seen:?}", Seen::of(run, steer)))
}

/// A file that changes all that a file can change: other backends and weights, one VIP less, none
/// assigned, observe mode, other sizes.
fn other_file(old: &str) -> String {
    let (first, _) = old.split_at(old.rfind("\n[[vip]]").unwrap_or(old.len()));
    let changed = first
        .replace("assign = true", "assign = false\nmode = \"observe\"")
        .replace("10.2.2.2:443", "10.2.2.2:444");
    changed.replacen("[sizes]\nflows = 5000", "[sizes]\nflows = 6000\nsplices = 70000", 1)
        + "\n[[vip.backend]]\naddress = \"10.2.9.9:443\"\n"
}

#[test]
fn after_a_death_at_any_step_of_a_changed_start_the_old_file_brings_back_what_was() -> Result<()> {
    let run = plain().size("flows = 5000").start()?;
    let mut steer = run.agent()?;
    let old = fs::read_to_string(steer.config_path())?;
    // What the CLI changed is a part of what was.
    steer.steer(&format!(
        "backends add --vip {} --weight 7 {}",
        run.vip(),
        run.backend_address(1)
    ))?;
    steer.steer(&format!("backends drain {}", run.backend_address(2)))?;
    let whole = || Traces::of(&run, &steer).ok().filter(|traces| traces.vips.len() == 2);
    eventually(PATIENCE, whole).context("the VIPs are not assigned")?;
    let before = Seen::of(&run, &steer)?;
    let (client, elsewhere) = (run.new_client()?, run.dial(run.source_not_of(0)?));
    for step in Step::ALL
        .iter()
        .copied()
        .filter(|step| ![Starts::First, Starts::Carrying].contains(&step.starts()))
    {
        let context = || format!("after a death at {}", step.word());
        steer.end(Signal::SIGKILL)?;
        fs::write(steer.config_path(), other_file(&old))?;
        let ended =
            steer.launch_to_end(&[], &[(crash::VARIABLE, step.word())]).with_context(context)?;
        ensure!(
            ended.signal() == Some(Signal::SIGKILL as i32),
            "{}: {ended}: {}",
            step.word(),
            steer.log()
        );
        fs::write(steer.config_path(), &old)?;
        steer.launch_timed().with_context(context)?;
        if ["undo-forgotten", "vips-assigned", "serving"].contains(&step.word()) {
            // This start was through: its file is the one before. Only what the CLI had changed is
            // gone with it.
            steer.steer(&format!(
                "backends add --vip {} --weight 7 {}",
                run.vip(),
                run.backend_address(1)
            ))?;
            steer.steer(&format!("backends drain {}", run.backend_address(2)))?;
        }
        comes_to(&before, &run, &steer).with_context(context)?;
        run.session_at(&client, 0).with_context(context)?;
        ensure!(run.visit(&client, &elsewhere).with_context(context)?.resumed, "{}", context());
    }
    Ok(())
}

/// A bridge's driver has no XDP; the file is good, and everything else in it is another.
#[test]
fn a_start_that_cannot_attach_xdp_changes_nothing_and_the_old_file_works_again() -> Result<()> {
    let run = plain().size("flows = 5000").start()?;
    let mut steer = run.agent()?;
    run.lab.gateway().ip("link add hubridge type bridge\nlink set hubridge up\n")?;
    let old = fs::read_to_string(steer.config_path())?;
    let whole = || Traces::of(&run, &steer).ok().filter(|traces| traces.vips.len() == 2);
    eventually(PATIENCE, whole).context("the VIPs are not assigned")?;
    let before = Seen::of(&run, &steer)?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let elsewhere = run.dial(run.source_not_of(0)?);
    steer.end(Signal::SIGTERM)?;
    let bridge = "\n[[interface]]\nname = \"hubridge\"\nhook = \"xdp\"\n\n[[interface]]";
    fs::write(steer.config_path(), other_file(&old).replacen("\n[[interface]]", bridge, 1))?;
    let ended = steer.launch_to_end(&[], &[])?;
    ensure!(
        ended.code() == Some(1) && steer.log().contains("attach XDP to hubridge"),
        "{ended}: {}",
        steer.log()
    );
    let after = Seen::of(&run, &steer)?;
    ensure!(after == before, "{after:?}\nwas\n{before:?}");
    ensure!(run.visit(&client, &elsewhere)?.resumed, "the kernel steers on");
    fs::write(steer.config_path(), &old)?;
    steer.launch()?;
    comes_to(&before, &run, &steer)
}

/// A file with many backends, none of which is checked.
fn crowd(steer: &Agent<'_>, n_vips: usize, n_backends: usize, net: u8) -> String {
    let mut text = format!(
        "pin_dir = {:?}\nsocket = {:?}\n[[interface]]\nname = \"{CLIENT_SIDE}\"\nhook = \"tc\"\n",
        steer.pin_dir(),
        steer.socket()
    );
    for vip in 0..n_vips {
        let (host, each) = (vip + 1, n_backends / n_vips);
        write!(
            text,
            "\n[[vip]]\naddress = \"198.18.{net}.{host}:443\"\n[vip.health]\nenabled = false\n"
        )
        .unwrap_or_default();
        for number in vip * each..(vip + 1) * each {
            let (c, d) = (number / 250, number % 250 + 1);
            write!(text, "\n[[vip.backend]]\naddress = \"10.{net}.{c}.{d}:443\"\n")
                .unwrap_or_default();
        }
    }
    text
}

#[track_caller]
fn names(steer: &Agent<'_>, n_vips: usize, n_backends: usize, net: u8) -> Result<()> {
    let (list, status) = (steer.json("backends list")?, steer.json("status")?);
    let up = list["backends"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|backend| backend["state"] == "up");
    let ours = up
        .clone()
        .filter(|backend| backend["address"].to_string().contains(&format!("\"10.{net}.")));
    let vips = status["vips"].as_array().map_or(0, Vec::len);
    let seen = (up.count(), ours.count(), vips, &status["drift"]);
    assert_eq!(seen, (n_backends, n_backends, n_vips, &Value::Array(Vec::new())));
    Ok(())
}

#[test]
fn full_files_follow_one_another_whatever_they_have_in_common() -> Result<()> {
    let run = plain().start()?;
    let mut steer = Agent::prepare(&run.lab, &run.steer)?;
    // 1024 backends at 64 VIPs, 16 each.
    let files = [
        (1, 600, 30),
        (1, 600, 31),
        (40, 400, 32),
        (40, 400, 33),
        (64, 1024, 34),
        (64, 1024, 35),
        (1, 600, 30),
    ];
    for (n_vips, n_backends, net) in files {
        fs::write(steer.config_path(), crowd(&steer, n_vips, n_backends, net))?;
        steer
            .launch_timed()
            .with_context(|| format!("{n_vips} VIPs and {n_backends} backends of 10.{net}"))?;
        names(&steer, n_vips, n_backends, net)?;
        steer.end(Signal::SIGTERM)?;
    }
    Ok(())
}

#[test]
fn numbers_that_connections_use_are_not_given_away_and_those_that_sessions_name_only_by_force()
-> Result<()> {
    let run = plain().start()?;
    let mut steer = Agent::prepare(&run.lab, &run.steer)?;
    let (first, second) = (crowd(&steer, 1, 600, 30), crowd(&steer, 1, 600, 31));
    fs::write(steer.config_path(), &first)?;
    steer.launch_timed()?;
    steer.end(Signal::SIGTERM)?;
    let mut plane = Plane::open(&PinDir::new(steer.pin_dir()))?;
    let (now, backends) = (clock::seconds(), plane.backends()?);
    for (number, (id, _)) in backends.iter().enumerate() {
        let key =
            SessionKey::new(0, Kind::SessionId, &(number as u32).to_ne_bytes()).context("a key")?;
        let session =
            Session { owner: *id as u16, first_seen: now, last_seen: now, ..Session::default() };
        plane.sessions.insert(&key, &session)?;
    }
    // 424 of 1024 are free: 176 of those that sessions name are needed.
    let before = Seen::of(&run, &steer)?;
    fs::write(steer.config_path(), &second)?;
    let ended = steer.launch_to_end(&[], &[])?;
    let log = steer.log();
    ensure!(
        ended.code() == Some(1)
            && log.contains("would destroy 176 sessions")
            && log.contains("--force"),
        "{log}"
    );
    ensure!(Seen::of(&run, &steer)? == before, "{log}");
    // With a connection at each they are not to be had at all.
    for (number, (id, _)) in backends.iter().enumerate() {
        let key = FlowKey {
            client_port: (number as u16).to_be_bytes(),
            service: 0,
            ..FlowKey::default()
        };
        let (word, id) = (StateWord::new(State::First, 1).0, *id as u16);
        plane
            .flows
            .insert(&key, &Flow { word, seen: now, first: id, owner: id, ..Flow::default() })?;
    }
    let ended = steer.launch_to_end(&[], &[])?;
    let log = steer.log();
    ensure!(ended.code() == Some(1) && log.contains("176 numbers for backends are short"), "{log}");
    ensure!(Seen::of(&run, &steer)? == before, "{log}");
    fs::write(steer.config_path(), &first)?;
    steer.launch_timed()?;
    names(&steer, 1, 600, 30)
}

#[test]
fn a_start_that_would_destroy_entries_says_how_many_and_needs_force() -> Result<()> {
    let run = plain().size("flows = 5000").start()?;
    let mut steer = run.agent()?;
    steer.end(Signal::SIGTERM)?;
    let mut plane = Plane::open(&PinDir::new(steer.pin_dir()))?;
    let (now, word) = (clock::seconds(), StateWord::new(State::Spliced, 1).0);
    for number in 0..100_u16 {
        let key = FlowKey { client_port: number.to_be_bytes(), service: 0, ..FlowKey::default() };
        let flow = Flow { word, seen: now, ..Flow::default() };
        plane.splices.insert(&key, &flow)?;
        plane.flows.insert(&key, &flow)?;
    }
    let old = fs::read_to_string(steer.config_path())?;
    fs::write(steer.config_path(), old.replace("flows = 5000", "flows = 5000\nsplices = 60"))?;
    let before = Seen::of(&run, &steer)?;
    let ended = steer.launch_to_end(&[], &[])?;
    let log = steer.log();
    ensure!(
        ended.code() == Some(1) && log.contains("40 of 100 entries of the table splices"),
        "{log}"
    );
    ensure!(Seen::of(&run, &steer)? == before);
    steer.launch_with(&["--force"])?;
    ensure!(
        steer.log().contains("--force: this start destroys 40 of 100 entries"),
        "{}",
        steer.log()
    );
    let room = || {
        let status = steer.json("status").ok()?;
        status["tables"].as_array()?.iter().find(|table| table["name"] == "splices")?["max_entries"]
            .as_u64()
    };
    eventually(PATIENCE, || room().filter(|room| *room == 60))
        .context("the table does not get its size")
        .map(drop)
}
