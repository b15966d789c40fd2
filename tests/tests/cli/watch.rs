//! `watch` tells what becomes of flows while it runs, of those that are meant.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use steer_common::counters::Counter;
use steer_tests::{
    agent::Hook,
    case::{Case, FIRST, OWNER},
    scenario::Scenario,
    topology::Family,
};

use crate::{error, two_backends};

/// What a watcher with these words is told while `happens` happens, again and again, until it has
/// enough.
fn told(case: &Case<'_>, words: &str, happens: impl Fn() -> Result<()>) -> Result<Vec<Value>> {
    let steer = &case.steer;
    let text = thread::scope(|scope| {
        let watcher = scope.spawn(|| steer.steer(&format!("watch --json --for 20s {words}")));
        while !watcher.is_finished() {
            happens()?;
        }
        watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    text.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
}

fn verdicts(told: &[Value]) -> Vec<&str> {
    told.iter().filter_map(|line| line["verdict"].as_str()).collect()
}

/// A process that ends with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_watcher_is_told_of_a_move_and_of_what_came_of_it() -> Result<()> {
    let run = two_backends()?;
    let case = Case::start(&run)?;
    let source = case.dial.source;
    let lines =
        told(&case, &format!("--client {source} --count 6"), || case.moves(&case.dial).map(drop))?;
    let all = verdicts(&lines);
    let at = all.iter().position(|word| *word == "rehome").context("no move was told")?;
    ensure!(all.len() == 6, "{all:?}");
    assert_eq!(all[at..at + 3], ["rehome", "splice-opened", "resumed"]);
    for line in &lines {
        let flow = &line["flow"];
        assert_eq!(line["backend"], run.backend_address(OWNER).to_string(), "{line}");
        assert_eq!(flow["first_address"], run.backend_address(FIRST).to_string(), "{line}");
        let client = flow["client"].as_str().unwrap_or_default();
        assert!(client.starts_with(&format!("{source}:")), "{line}");
        assert_eq!(flow["offered"]["kind"], "session-id", "{line}");
    }
    Ok(())
}

#[test]
fn only_what_is_meant_is_told_and_nothing_once_nobody_watches() -> Result<()> {
    let run = two_backends()?;
    let case = Case::start(&run)?;
    let visit = || {
        run.visit(&run.new_client()?, &case.home)?;
        case.moves(&case.dial).map(drop)
    };
    let lines = told(&case, "--verdict hello-no-session --count 2", visit)?;
    assert_eq!(verdicts(&lines), ["hello-no-session"; 2]);
    let first = run.backend_address(FIRST);
    let lines = told(&case, &format!("--backend {first} --verdict resumed --count 1"), visit)?;
    assert_eq!(lines[0]["flow"]["first_address"], first.to_string());
    visit()?;
    let text = case.steer.steer("watch --for 1ms")?;
    ensure!(text.lines().count() == 1 && text.starts_with("TIME "), "what nobody watched: {text}");
    assert_eq!(case.counted(Counter::WatchLost)?, 0);
    Ok(())
}

#[test]
fn one_watches_at_a_time_and_wrong_words_are_refused() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    for (words, why) in [
        ("watch --verdict rehomed", "no counter is called `rehomed`"),
        ("watch --client 10.0.0.300", "10.0.0.300"),
        ("watch --backend 203.0.113.1:443", "203.0.113.1:443 is no backend of any VIP or pool"),
    ] {
        let said = error(steer.steer(words));
        ensure!(said.contains(why), "{said}");
    }
    let mut command = steer.command("watch --for 1m");
    let one = run.lab.gateway().run(|| Ok(command.stdout(Stdio::piped()).spawn()?))?;
    let mut one = Ended(one);
    let mut head = String::new();
    BufReader::new(one.0.stdout.take().context("no output")?).read_line(&mut head)?;
    ensure!(head.starts_with("TIME "), "{head:?}");
    let said = error(steer.steer("watch --for 1ms"));
    ensure!(said.contains("another `steer watch` runs"), "{said}");
    drop(one);
    steer.steer("watch --for 1ms")?;
    Ok(())
}

/// In observe mode it tells where a flow would have gone.
#[test]
fn a_watcher_is_told_where_a_flow_would_have_gone() -> Result<()> {
    let scenario = Scenario::new(Hook::Tc, Family::V4).backends(2);
    let run = scenario.vip_setting("mode = \"observe\"").start()?;
    let case = Case::start(&run)?;
    let lines = told(&case, "--verdict observed --count 1", || {
        case.stays(&case.dial)?;
        run.session_at(&case.client, OWNER).map(drop)
    })?;
    let (line, flow) = (&lines[0], &lines[0]["flow"]);
    assert_eq!(line["backend"], run.backend_address(OWNER).to_string(), "{line}");
    assert_eq!(flow["holder_address"], run.backend_address(FIRST).to_string(), "{line}");
    Ok(())
}
