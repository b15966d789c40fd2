//! What is refused changes nothing: a bad file, garbage instead of programs, output that nobody
//! reads.

use std::{
    collections::BTreeSet,
    fs,
    io::pipe,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook, vips},
    process::{eventually, mortal},
    scenario::{Run, Scenario},
    topology::Family,
};

use crate::bystander::binary;

const PATIENCE: Duration = Duration::from_secs(20);

/// What an operator would miss.
#[derive(PartialEq, Debug)]
struct State {
    sessions: Value,
    backends: Vec<[Value; 3]>,
    status: Vec<Value>,
    pins: BTreeSet<String>,
}

impl State {
    fn read(steer: &Agent<'_>) -> Result<Self> {
        let (list, status) = (steer.json("backends list")?, steer.json("status")?);
        let backends = list["backends"].as_array().into_iter().flatten();
        let room = |table: &Value| table["max_entries"].clone();
        let pins = fs::read_dir(steer.map_pin(""))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        Ok(Self {
            sessions: steer.json("sessions list --limit 1000")?["total"].clone(),
            backends: backends
                .map(|b| ["address", "weight", "state"].map(|key| b[key].clone()))
                .collect(),
            status: [vips(&status), status["interfaces"].clone(), status["bypass"].clone()]
                .into_iter()
                .chain(status["tables"].as_array().into_iter().flatten().map(room))
                .collect(),
            pins: pins.collect::<Result<_>>()?,
        })
    }
}

#[test]
fn a_refused_configuration_leaves_the_gateway_as_it_was() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let mut steer = run.agent()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let good = fs::read_to_string(steer.config_path())?;
    steer.steer(&format!(
        "backends add --vip {} --weight 3 {}",
        run.vip(),
        run.backend_address(1)
    ))?;
    let before = State::read(&steer)?;
    // Beside a living agent first, then where it ended.
    let second = agent(&run, &steer, &[])?;
    refused(&second, "an agent runs already")?;
    steer.end(Signal::SIGTERM)?;
    let taken = run.lab.gateway().run(|| Ok(std::net::TcpListener::bind("127.0.0.1:9464")?))?;
    // 138 GB for `pending`: the kernel refuses them, most often behind a map that it made anew, for
    // aya has no order.
    let sizes =
        "sessions = 1000\nflows = 1000\nsplices = 1000\nhandshakes = 1000\npending = 8388608\n";
    for (text, because) in [
        (String::new(), "no [[interface]]"),
        (good.replace("[[vip]]", "[[vip]"), "expected"),
        (format!("{good}[sizes]\n{sizes}"), "pending"),
        (format!("{good}[sizes]\n{sizes}# again\n"), "pending"),
        (format!("metrics = \"127.0.0.1:9464\"\n{good}"), "listen for metrics"),
        (good.replace("steer.sock\"", &format!("{}\"", "x".repeat(120))), "expected at most 107"),
        (good.replace("steer.sock\"", "steer.toml/steer.sock\""), "steer.toml"),
    ] {
        fs::write(steer.config_path(), &text)?;
        refused(&agent(&run, &steer, &[])?, because)?;
        ensure!(
            State::read(&steer)? == before,
            "{because}: {:?} was {before:?}",
            State::read(&steer)?
        );
    }
    drop(taken);
    fs::write(steer.config_path(), &good)?;
    for (name, bytes) in [("garbage", &b"\x7fELF and no more"[..]), ("empty", b"")] {
        let object = steer.config_path().with_file_name(name);
        fs::write(&object, bytes)?;
        let object = object.display().to_string();
        refused(&agent(&run, &steer, &[("STEER_BPF_OBJECT", &object)])?, "load the programs")?;
        ensure!(State::read(&steer)? == before, "{name}");
    }
    ensure!(run.visit(&client, &run.dial(run.source_not_of(0)?))?.resumed, "the kernel steers on");
    steer.launch()?;
    ensure!(State::read(&steer)?.pins == before.pins && steer.count(Counter::SpliceOpened)? == 1);
    Ok(())
}

#[test]
fn output_that_nobody_reads_ends_neither_verb_nor_agent() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let mut steer = run.agent()?;
    run.session_at(&run.new_client()?, 0)?;
    for words in [
        "status",
        "backends list",
        "sessions list",
        "sessions list --json",
        "flows list --ended",
        "flows list --ended --json",
        "keys list",
        "stats --all",
    ] {
        let (reader, writer) = pipe()?;
        drop(reader);
        let mut command = Command::new(binary()?);
        command
            .args(words.split(' '))
            .arg("--pin-dir")
            .arg(steer.pin_dir())
            .arg("--socket")
            .arg(steer.socket());
        let output = run.lab.gateway().run(|| Ok(command.stdout(writer).output()?))?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{words}: {output:?}");
    }
    steer.end(Signal::SIGTERM)?;
    let (reader, writer) = pipe()?;
    let mut command = mortal(binary()?);
    command.arg("agent").arg("--config").arg(steer.config_path()).env("STEER_LOG", "trace");
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut agent = run.lab.gateway().spawn(command)?;
    drop(reader);
    let drain = format!("backends drain {}", run.backend_address(1));
    let answered = eventually(PATIENCE, || steer.steer(&drain).ok());
    answered.with_context(|| format!("it ended: {:?}", agent.ended()))?;
    steer.steer(&drain.replace("drain", "undrain"))?;
    ensure!(agent.ended().is_none() && steer.json("status")?["agent"]["running"] == true);
    agent.end(Signal::SIGTERM).map(drop)
}

/// Another agent with this one's file; it ends by itself.
fn agent(run: &Run, steer: &Agent<'_>, environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = mortal("timeout");
    command.arg("30").arg(binary()?).arg("agent").arg("--config").arg(steer.config_path());
    command.envs(environment.iter().copied());
    run.lab.gateway().run(|| Ok(command.output()?))
}

fn refused(output: &Output, because: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    let says = said.lines().any(|line| line.starts_with("steer: ") && line.contains(because));
    ensure!(output.status.code() == Some(1) && says, "{output:?}");
    Ok(())
}
