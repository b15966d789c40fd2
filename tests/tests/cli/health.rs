//! How it is known whether backends answer: by TLS handshakes, by what passes; and who gets new
//! connections where few are up, or nobody.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook, Settings},
    case::{Case, FIRST, OWNER},
    client::Dial,
    l4::Snat,
    pki::{HOST, Pki},
    process::eventually,
    scenario::{Run, Scenario},
    topology::Family,
};

use crate::{TEN_SECONDS, error, two_backends};

/// So long does a client wait for a server that hangs.
const PATIENCE: Duration = Duration::from_millis(500);

fn scenario() -> Scenario {
    Scenario::new(Hook::Tc, Family::V4).backends(2)
}

/// Waits until a backend is in this state.
fn is(run: &Run, steer: &Agent<'_>, index: usize, state: &str) -> Result<Value> {
    let address = run.backend_address(index);
    let is = || steer.backend(address).ok().filter(|backend| backend["state"] == state);
    eventually(TEN_SECONDS * 2, is).with_context(|| {
        format!("backend {index} is not {state}: {:?}\n{}", steer.backend(address), steer.log())
    })
}

/// Waits until clients without a session that dial so are served by a backend: lookup tables follow
/// checks a moment later.
fn served_by(run: &Run, dial: &Dial, index: usize) -> Result<()> {
    let dial = Dial { timeout: PATIENCE, ..dial.clone() };
    let served = || {
        let visit = run.visit(&run.new_client().ok()?, &dial).ok()?;
        (run.backend_named(&visit.server).ok()? == index).then_some(())
    };
    eventually(TEN_SECONDS, served).with_context(|| format!("backend {index} does not serve"))
}

/// The run's settings with these lines of `[vip.health]` more.
fn checked_by(run: &Run, lines: &[&str]) -> Settings {
    let mut settings = run.steer.clone();
    settings.health.extend(lines.iter().map(|line| (*line).to_owned()));
    settings
}

#[test]
fn a_server_that_is_stopped_is_found_down_by_its_handshake_while_its_kernel_takes_connections()
-> Result<()> {
    let run = two_backends()?;
    let steer = Agent::start(&run.lab, &checked_by(&run, &["type = \"tls\""]))?;
    let home = run.dial(run.source_of(0)?);
    run.servers[0].signal(Signal::SIGSTOP)?;
    is(&run, &steer, 0, "down")?;
    let told = "it takes connections, and did not answer a ClientHello in 200ms";
    ensure!(steer.log().contains(told), "{}", steer.log());
    served_by(&run, &home, 1)?;
    run.servers[0].signal(Signal::SIGCONT)?;
    is(&run, &steer, 0, "up")?;
    served_by(&run, &home, 0)
}

/// What a TCP connection says nothing of.
#[test]
fn a_server_of_another_authority_or_version_is_down_where_the_file_wants_to_know() -> Result<()> {
    let run = two_backends()?;
    let directory = tempfile::tempdir()?;
    let (own, other) = (directory.path().join("own.pem"), directory.path().join("other.pem"));
    fs::write(&own, run.pki.authority_pem())?;
    fs::write(&other, Pki::make(1)?.authority_pem())?;
    let ca = |path: &std::path::Path| format!("ca = {path:?}");
    let sni = format!("sni = \"{HOST}\"");
    let start = |more: &[&str]| {
        let lines = [&["type = \"tls\""], more].concat();
        Agent::start(&run.lab, &checked_by(&run, &lines))
    };
    for (lines, why) in [
        ([&*ca(&other), &*sni], "invalid peer certificate"),
        ([&*ca(&own), "sni = \"other.example\""], "not valid for"),
        // The lab's servers speak TLS 1.2.
        (["min_version = \"1.3\"", &*sni], "ProtocolVersion"),
    ] {
        let steer = start(&lines)?;
        is(&run, &steer, 0, "down")?;
        ensure!(steer.log().contains("TLS: ") && steer.log().contains(why), "{}", steer.log());
        steer.steer("detach")?;
    }
    let steer = start(&[&ca(&own), &sni, "max_version = \"1.2\""])?;
    run.servers[0].stop()?;
    is(&run, &steer, 0, "down")?;
    run.servers[0].restart(run.lab.backend(0))?;
    is(&run, &steer, 0, "up")?;
    is(&run, &steer, 1, "up")?;
    Ok(())
}

#[test]
fn a_start_whose_handshakes_cannot_be_made_is_refused_and_says_which_file() -> Result<()> {
    let run = two_backends()?;
    let lines = ["type = \"tls\"", "ca = \"/nowhere/ca.pem\""];
    let refused = error(Agent::start(&run.lab, &checked_by(&run, &lines)).map(drop));
    ensure!(refused.contains("health: read /nowhere/ca.pem: No such file"), "{refused}");
    Ok(())
}

/// By TCP probes, which its kernel answers.
#[test]
fn a_process_that_hangs_behind_a_live_kernel_is_found_by_the_hellos_that_it_does_not_answer()
-> Result<()> {
    let run = scenario().start()?;
    let mut case = Case::start(&run)?;
    let impatient = Dial { timeout: PATIENCE, ..case.dial.clone() };
    run.servers[OWNER].signal(Signal::SIGSTOP)?;
    ensure!(run.visit(&case.client, &impatient).is_err(), "it does not hang");
    let fell = || run.visit(&case.client, &impatient).ok();
    eventually(TEN_SECONDS * 2, fell).with_context(|| case.steer.log())?;
    is(&run, &case.steer, OWNER, "down")?;
    served_by(&run, &case.home, FIRST)?;
    ensure!(case.steer.log().contains("did not answer a ClientHello"), "{}", case.steer.log());
    // The next worker knows no more than that it is down.
    case.steer.reload(|file| file.replace("interval = \"200ms\"", "interval = \"210ms\""))?;
    thread::sleep(Duration::from_secs(2));
    is(&run, &case.steer, OWNER, "down")?;
    ensure!(!case.steer.log().contains("is up again"), "{}", case.steer.log());
    run.servers[OWNER].signal(Signal::SIGCONT)?;
    is(&run, &case.steer, OWNER, "up")?;
    served_by(&run, &case.home, OWNER)?;
    case.renew()?;
    ensure!(run.visit(&case.client, &case.dial)?.resumed, "its sessions come to it again");
    Ok(())
}

/// The balancer goes on sending its own clients there, by whose answers it is known to be back.
#[test]
fn a_member_of_an_inline_pool_that_hangs_gets_no_moved_hello_until_it_answers_again() -> Result<()>
{
    let run = scenario().inline(Snat::Yes).start()?;
    let case = Case::start(&run)?;
    let impatient = Dial { timeout: PATIENCE, ..case.dial.clone() };
    run.servers[OWNER].signal(Signal::SIGSTOP)?;
    // Who resets does not wait for an answer, and shows nothing.
    let hasty = Dial { reset: true, timeout: Duration::from_millis(300), ..impatient.clone() };
    for _ in 0..8 {
        ensure!(run.visit(&case.client, &hasty).is_err(), "it does not hang");
        thread::sleep(Duration::from_millis(700));
    }
    is(&run, &case.steer, OWNER, "up")?;
    let fell = || run.visit(&case.client, &impatient).ok();
    eventually(TEN_SECONDS * 3, fell).with_context(|| case.steer.log())?;
    is(&run, &case.steer, OWNER, "down")?;
    let told = "hellos that were moved there without an answer";
    ensure!(case.steer.log().contains(told), "{}", case.steer.log());
    run.servers[OWNER].signal(Signal::SIGCONT)?;
    let back = || {
        let _ = run.visit(&run.new_client().ok()?, &case.home);
        let backend = case.steer.backend(run.backend_address(OWNER)).ok()?;
        (backend["state"] == "up").then_some(())
    };
    eventually(TEN_SECONDS, back).with_context(|| case.steer.log())
}

#[test]
fn where_all_are_down_new_connections_are_sent_all_the_same_if_the_file_says_so() -> Result<()> {
    for (setting, sent) in [("on_all_down = \"drop\"", false), ("on_all_down = \"send\"", true)] {
        let run = scenario().vip_setting(setting).start()?;
        let steer = run.agent()?;
        let dial = Dial { timeout: PATIENCE, ..run.dial(0) };
        run.servers.iter().try_for_each(|server| server.stop())?;
        is(&run, &steer, 0, "down")?;
        is(&run, &steer, 1, "down")?;
        // Who writes the lookup table says so when it is done.
        let told = format!("pools::lookup] VIP {}: no backend takes new flows", run.vip());
        let written = || steer.log().contains(&told).then_some(());
        eventually(TEN_SECONDS, written).with_context(|| steer.log())?;
        // A closed port answers by a reset.
        let before = steer.count(Counter::NoBackend)?;
        let seen = error(run.lab.client().run(|| dial.say(b"")));
        let dropped = steer.count(Counter::NoBackend)? > before;
        ensure!(
            seen.contains("refused") == sent && dropped != sent,
            "{setting}: {seen}, dropped: {dropped}"
        );
        let warned = steer.json("status")?["warnings"].to_string();
        ensure!(warned.contains("no backend takes new flows"), "{warned}");
        // Where one is back, everybody goes there.
        run.servers[1].restart(run.lab.backend(1))?;
        is(&run, &steer, 1, "up")?;
        let served = || run.visit(&run.new_client().ok()?, &dial).ok();
        eventually(TEN_SECONDS, served).context("nobody is served")?;
    }
    Ok(())
}

#[test]
fn a_backup_gets_new_clients_only_while_no_other_is_up_and_keeps_its_sessions() -> Result<()> {
    let run = scenario().backend_setting(1, "backup = true").start()?;
    let steer = run.agent()?;
    ensure!(error(run.source_of(1)).contains("no source address leads"), "a backup waits");
    let listed = is(&run, &steer, 1, "up")?;
    ensure!(listed["backup"] == true, "{listed}");
    ensure!(steer.steer("backends list")?.contains("up, backup"));
    let (client, dial) = (run.new_client()?, run.dial(0));
    run.servers[0].stop()?;
    is(&run, &steer, 0, "down")?;
    let served = || run.visit(&client, &dial).ok();
    let visit = eventually(TEN_SECONDS, served).context("the backup does not serve")?;
    ensure!(run.backend_named(&visit.server)? == 1, "{visit:?}");
    run.servers[0].restart(run.lab.backend(0))?;
    is(&run, &steer, 0, "up")?;
    served_by(&run, &dial, 0)?;
    let visit = run.visit(&client, &dial)?;
    ensure!(visit.resumed && run.backend_named(&visit.server)? == 1, "{visit:?}");
    Ok(())
}
