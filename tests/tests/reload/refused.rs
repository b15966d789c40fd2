//! What is wrong is told, all of it, and everything goes on as it was.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use steer_tests::{
    agent::Hook,
    case::{Case, OWNER},
    payload,
    process::eventually,
    scenario::Scenario,
    setting::in_one_setting,
    topology::Family,
};

use super::{PATIENCE, asked, logged, said, signal};

/// Wrong in four places: an unknown key, a value, an interface and a backend that stand there twice.
fn broken(file: &str) -> String {
    let twice = file.replacen("\n[[vip]]", "\n[[interface]]\nname = \"clients\"\n\n[[vip]]", 1);
    let at = twice.find("[[vip.backend]]").unwrap_or_default();
    let (before, behind) = twice.split_at(at);
    let backend = behind.lines().nth(1).unwrap_or_default();
    format!(
        "colour = \"blue\"\n{before}[[vip.backend]]\n{backend}\nweight = -1\n\n[[vip.backend]]\n{backend}\n\n{behind}"
    )
}

#[test]
fn a_broken_file_is_told_whole_and_nothing_changes() -> Result<()> {
    in_one_setting(|setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let sum = run.servers[OWNER].put("down", &payload::bytes(20 << 20, 1))?;
        let (before, process) = (case.steer.json("backends list")?, case.steer.process_id());
        let good = fs::read_to_string(case.steer.config_path())?;
        case.steer.rewrite(broken)?;
        let mut output = None;
        let (handshake, response) = run.connect(&case.client, &case.dial, |connection| {
            let response = connection.get_watched("/files/down", |read| {
                if read > 1 << 20 && output.is_none() {
                    output = Some(
                        signal(&case.steer, Signal::SIGHUP)
                            .and_then(|()| asked(&run, &case.steer, "reload")),
                    );
                }
            })?;
            connection.finish()?;
            Ok(response)
        })?;
        ensure!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
        let output = output.context("nothing was asked")??;
        let told = said(&output);
        ensure!(output.status.code() == Some(1), "{output:?}");
        for key in ["colour", "vip.backend.weight", "interface.name", "vip.backend.address"] {
            ensure!(told.contains(&format!(": {key}: ")), "no {key} in {told}");
        }
        let place =
            format!("{}:1: colour: unknown key `colour`", case.steer.config_path().display());
        ensure!(told.contains(&place), "{told}");
        logged(&case.steer, "reload: refused; the agent goes on with what it has")?;
        logged(&case.steer, &place)?;
        ensure!(case.steer.process_id() == process);
        let after = case.steer.json("backends list")?;
        let states = |list: &serde_json::Value| {
            let backends = list["backends"].as_array().cloned().unwrap_or_default();
            let of =
                |b: &serde_json::Value| ["address", "weight", "state"].map(|key| b[key].clone());
            backends.iter().map(of).collect::<Vec<_>>()
        };
        ensure!(states(&before) == states(&after), "{after}");
        case.moves(&case.dial)?;
        fs::write(case.steer.config_path(), good)?;
        let told = case.steer.steer("reload")?;
        ensure!(told.contains("changes nothing"), "{told}");
        case.unharmed_but_for_resets()
    })
}

#[test]
fn what_the_machine_refuses_is_told_before_anything_is_touched() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).size("flows = 5000").start()?;
    let steer = run.agent()?;
    let good = fs::read_to_string(steer.config_path())?;
    let _taken = run.lab.gateway().run(|| Ok(std::net::TcpListener::bind("127.0.0.1:9465")?))?;
    let other = format!("{}-other", steer.pin_dir().display());
    let own = steer.pin_dir().display().to_string();
    let wrong = [
        (
            good.replace("flows = 5000", "flows = 5000\npending = 134217728"),
            "of memory and the machine has",
        ),
        (format!("metrics = \"127.0.0.1:9465\"\n{good}"), "listen for metrics at 127.0.0.1:9465"),
        (good.replace(&own, &other), "another place is another gateway"),
    ];
    for (text, words) in wrong {
        fs::write(steer.config_path(), text)?;
        let output = asked(&run, &steer, "reload")?;
        let told = said(&output);
        ensure!(output.status.code() == Some(1) && told.contains(words), "{words}: {told}");
    }
    ensure!(!steer.log().contains("did not get through"), "{}", steer.log());
    fs::write(steer.config_path(), good)?;
    ensure!(steer.steer("reload")?.contains("changes nothing"));
    run.resume_elsewhere(&run.new_client()?).map(drop)
}

#[test]
fn a_start_that_breaks_off_after_it_was_judged_leaves_what_was_in_force() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let process = steer.process_id();
    let good = fs::read_to_string(steer.config_path())?;
    let client = run.new_client()?;
    run.session_at(&client, OWNER)?;
    steer.rewrite(|file| {
        let first = run.backend_address(1);
        let line = format!("address = \"{first}\"\n");
        let heavy = file.replace(&line, &format!("{line}weight = 9\n"));
        heavy.replacen(
            "[[interface]]",
            "[[interface]]\nname = \"lo\"\nhook = \"xdp\"\n\n[[interface]]",
            1,
        )
    })?;
    let output = asked(&run, &steer, "reload")?;
    let told = said(&output);
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(
        told.contains("attach XDP to lo in its driver") && told.contains("nothing was changed"),
        "{told}"
    );
    logged(&steer, "did not get through; the agent goes on with what it had")?;
    ensure!(steer.process_id() == process);
    ensure!(steer.backend(run.backend_address(1))?["weight"] == 1, "{}", steer.log());
    ensure!(steer.json("status")?["agent"]["pid"].is_u64());
    ensure!(run.visit(&client, &run.dial(run.source_not_of(OWNER)?))?.resumed);
    fs::write(steer.config_path(), good)?;
    // What goes on goes on to be reloaded.
    let told = steer.reload(|file| file.replace("interval = \"200ms\"", "interval = \"300ms\""))?;
    ensure!(told.contains("health.interval is 300ms instead of 200ms"), "{told}");
    Ok(())
}

#[test]
fn what_would_be_lost_is_lost_only_by_force() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    run.lab.client().run(|| {
        (0..4).try_for_each(|source| run.new_client()?.visit(&run.dial(source)).map(drop))
    })?;
    steer.rewrite(|file| {
        file.replacen("[[interface]]", "[sizes]\nsessions = 1\n\n[[interface]]", 1)
    })?;
    let output = asked(&run, &steer, "reload")?;
    let told = said(&output);
    ensure!(
        output.status.code() == Some(1) && told.contains("--force does it all the same"),
        "{told}"
    );
    steer.steer("reload --force")?;
    let status = steer.json("status")?;
    ensure!(
        status["tables"][0]["max_entries"].as_u64().is_some_and(|most| most < 262_144),
        "{status}"
    );
    Ok(())
}

#[test]
fn whoever_asks_at_the_same_time_is_answered() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    steer.rewrite(|file| file.replace("interval = \"200ms\"", "interval = \"300ms\""))?;
    let asking = ["status", "backends list", "config show"];
    let words = [&asking[..], &["reload"; 9]].concat();
    let outputs = run.at_once(words.len(), words.len(), |number| {
        let mut command = steer.command(words[number]);
        Ok((words[number], run.lab.gateway().run(|| Ok(command.output()?))?))
    })?;
    for (words, output) in outputs {
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &said(&output);
        ensure!(output.status.success() || words == "status", "{words}: {told}");
    }
    ensure!(steer.log().matches("is in force").count() == 1, "{}", steer.log());
    Ok(())
}

/// The second signal may come to a worker that has read the file, and ends.
#[test]
fn a_signal_that_comes_while_another_file_is_judged_is_heard() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    for n in 0..8_u64 {
        let before = 200 + 10 * n;
        for (old, new) in [(before, before + 5), (before + 5, before + 10)] {
            steer.rewrite(|file| {
                file.replace(&format!("interval = \"{old}ms\""), &format!("interval = \"{new}ms\""))
            })?;
            signal(&steer, Signal::SIGHUP)?;
            thread::sleep(Duration::from_millis(7 * n));
        }
        let wanted = format!("interval = \"{}ms\"", before + 10);
        let shown = || steer.steer("config show").ok().filter(|shown| shown.contains(&wanted));
        eventually(PATIENCE, shown).with_context(|| format!("{wanted}: {}", steer.log()))?;
    }
    Ok(())
}
