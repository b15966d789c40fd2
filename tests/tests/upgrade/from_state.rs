//! States of an older layout as its version left them, carried over by the agent.

use std::{
    fs::{self, DirBuilder},
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use steer_common::{counters::Counter, shared::LAYOUT_VERSION};
use steer_tests::{
    agent::{Agent, Hook},
    payload,
    process::{self, eventually},
    scenario::Run,
    tables,
    traces::Traces,
};
use steer_user::crash::{self, Starts, Step};

use crate::{
    downgrade::{More, downgrade},
    world::{MEGABYTE, OFFERS, OWNER, PATIENCE, Transfer, layouts, pools, scenario, visitor},
};

const FILE: usize = 8 * MEGABYTE;

/// What the CLI changed is a part of what is carried over.
fn change_pools(run: &Run, steer: &Agent<'_>) -> Result<()> {
    steer.steer(&format!("backends drain --for 1h {}", run.backend_address(2)))?;
    steer.steer(&format!(
        "backends add --vip {} --weight 7 {}",
        run.vip(),
        run.backend_address(1)
    ))?;
    Ok(())
}

fn carries_over(hook: Hook) -> Result<()> {
    let run = scenario(hook).start()?;
    let body = payload::bytes(FILE, 1);
    let sum = run.servers[OWNER].put("down", &body)?;
    let mut steer = run.agent()?;
    let kept = (0..12)
        .map(|number| {
            Ok((visitor(&run, OFFERS[number % OFFERS.len()], &run.dial(number))?, number))
        })
        .collect::<Result<Vec<_>>>()?;
    // Before the transfers: it changes where addresses lead.
    change_pools(&run, &steer)?;
    let transfers = Transfer::several(&run)?;
    let (before, learned) = (pools(&steer)?, steer.count(Counter::Learned)?);
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let working: Vec<_> = transfers
            .iter()
            .map(|transfer| {
                let (run, sum, body, over) = (&run, &sum, &body, &over);
                scope.spawn(move || transfer.run(run, sum, body, over))
            })
            .collect();
        thread::sleep(Duration::from_millis(1500));
        let upgraded = steer
            .end(Signal::SIGTERM)
            .and_then(|()| downgrade(&steer, &More { searches: 3, ..More::default() }))
            .and_then(|()| steer.launch_timed())
            .and_then(|_| {
                Ok((tables::entries(&steer, "splices")?, tables::entries(&steer, "flows")?))
            });
        over.store(true, Ordering::Relaxed);
        let ended: Vec<_> = working
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect();
        let (splices, flows) = upgraded?;
        let broken: Vec<_> =
            ended.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
        ensure!(
            broken.is_empty(),
            "{} of 12 transfers not whole: {broken:#?}; log: {}",
            broken.len(),
            steer.log()
        );
        // Either would do for these transfers, and so would a trace. There are flows of visits that
        // are over, too.
        ensure!(
            splices >= 6 && flows >= 30,
            "{splices} splices, {flows} flows; log: {}",
            steer.log()
        );
        Ok(())
    })?;
    let log = steer.log();
    let told = format!(
        "the state of layout v3 is carried over to v{LAYOUT_VERSION}: VIPs 2, backends 6 (drains 1), sessions "
    );
    // One that is over, and was not seen to end, counts.
    let counted = ["connections 12, splices 6, ", "connections 13, splices 6, "];
    ensure!(log.contains(&told) && counted.iter().any(|told| log.contains(told)), "{log}");
    ensure!(log.contains("not carried over: 3 searches for the owner of a key name"), "{log}");
    ensure!(layouts(&steer) == [LAYOUT_VERSION], "{:?}", layouts(&steer));
    let same = || pools(&steer).ok().filter(|now| *now == before);
    eventually(PATIENCE, same).with_context(|| format!("{:?} was {before:?}", pools(&steer)))?;
    let drain = steer.backend(run.backend_address(2))?["drain_seconds"].as_u64();
    ensure!(drain.is_some_and(|left| left > 3500 && left <= 3600), "{drain:?}");
    for ((client, server), number) in &kept {
        let handshake = run.visit(client, &run.dial(number + 31))?;
        ensure!(
            handshake.resumed && handshake.server == *server,
            "{number}: {handshake:?}, not at {server}; {log}"
        );
    }
    ensure!(steer.count(Counter::Learned)? >= learned, "the counters were kept");
    // The next one finds nothing special.
    steer.end(Signal::SIGTERM)?;
    steer.launch_timed()?;
    ensure!(!steer.log().contains("carried over"), "{}", steer.log());
    Ok(())
}

#[test]
fn what_a_gateway_of_layout_v3_holds_goes_on_on_tc() -> Result<()> {
    carries_over(Hook::Tc)
}

#[test]
fn what_a_gateway_of_layout_v3_holds_goes_on_on_xdp() -> Result<()> {
    carries_over(Hook::Xdp)
}

#[test]
fn after_a_death_at_any_step_of_an_upgrade_the_next_agent_goes_on() -> Result<()> {
    let run = scenario(Hook::Xdp).start()?;
    let mut steer = run.agent()?;
    let away = run.dial(run.source_not_of(OWNER)?);
    let (client, _) = visitor(&run, OFFERS[0], &run.dial(run.source_of(OWNER)?))?;
    change_pools(&run, &steer)?;
    let before = pools(&steer)?;
    for step in Step::ALL.iter().copied().filter(|step| step.starts() != Starts::Resizing) {
        let context = || format!("after a death at {}", step.word());
        steer.end(Signal::SIGTERM)?;
        downgrade(&steer, &More::default()).with_context(context)?;
        let ended =
            steer.launch_to_end(&[], &[(crash::VARIABLE, step.word())]).with_context(context)?;
        ensure!(
            !ended.success() && steer.log().contains("dies at the step"),
            "{}: {ended}: {}",
            context(),
            steer.log()
        );
        // One interface with new programs and the others with old ones: new connections wait for
        // the next agent.
        if step != Step::FirstAttached {
            let handshake = run.visit(&client, &away).with_context(context)?;
            ensure!(handshake.resumed, "{}, with nobody there: {handshake:?}", context());
        }
        steer.launch_timed().with_context(context)?;
        let same = || pools(&steer).ok().filter(|now| *now == before);
        eventually(PATIENCE, same)
            .with_context(|| format!("{}: {:?} was {before:?}", context(), pools(&steer)))?;
        ensure!(layouts(&steer) == [LAYOUT_VERSION], "{}: {:?}", context(), layouts(&steer));
        ensure!(!steer.pin_dir().join("next").exists(), "{}", context());
        let handshake = run.visit(&client, &away).with_context(context)?;
        ensure!(handshake.resumed, "{}, with the next agent: {handshake:?}", context());
    }
    Ok(())
}

#[test]
fn what_an_upgrade_would_lose_is_said_before_anything_is_done_and_needs_force() -> Result<()> {
    let run = scenario(Hook::Tc).start()?;
    let mut steer = run.agent()?;
    let (client, _) = visitor(&run, OFFERS[0], &run.dial(run.source_of(OWNER)?))?;
    let away = run.dial(run.source_not_of(OWNER)?);
    steer.end(Signal::SIGTERM)?;
    downgrade(&steer, &More { unknown_flows: 5, ..More::default() })?;
    let lost = "5 flows (their connections may break)";
    let check = format!("config check {}", steer.config_path().display());
    let output = run.lab.gateway().run(|| Ok(steer.command(&check).output()?))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && told.contains(lost) && told.contains("is carried over"),
        "{told}"
    );
    let ended = steer.launch_to_end(&[], &[])?;
    let log = steer.log();
    ensure!(
        ended.code() == Some(1) && log.contains(lost) && log.contains("--force"),
        "{ended}: {log}"
    );
    ensure!(
        layouts(&steer) == [3] && !steer.pin_dir().join("next").exists(),
        "{:?}",
        layouts(&steer)
    );
    ensure!(run.visit(&client, &away)?.resumed, "the older version's programs go on");
    steer.launch_with(&["--force"])?;
    ensure!(layouts(&steer) == [LAYOUT_VERSION], "{:?}", layouts(&steer));
    ensure!(run.visit(&client, &away)?.resumed);
    Ok(())
}

/// Commands say what is there; what cannot be carried over is refused with what is to be done.
#[test]
fn states_of_other_layouts_are_refused_and_nothing_is_touched() -> Result<()> {
    let run = scenario(Hook::Tc).start()?;
    let mut steer = run.agent()?;
    steer.end(Signal::SIGTERM)?;
    downgrade(&steer, &More::default())?;
    let command = steer.steer("status").expect_err("another layout's state is read").to_string();
    ensure!(command.contains("start this version's agent, which carries it over"), "{command}");
    for mark in ["undo", "switching"] {
        let mark = steer.pin_dir().join("v3").join(mark);
        DirBuilder::new().create(&mark)?;
        let ended = steer.launch_to_end(&[], &[])?;
        ensure!(
            ended.code() == Some(1) && steer.log().contains("left half done"),
            "{}",
            steer.log()
        );
        fs::remove_dir(mark)?;
    }
    // An agent of that version still runs.
    let held = fs::File::open(steer.pin_dir().join("v3"))?;
    held.lock()?;
    let ended = steer.launch_to_end(&[], &[])?;
    ensure!(
        ended.code() == Some(1) && steer.log().contains("an agent runs already"),
        "{}",
        steer.log()
    );
    drop(held);
    for (other, words) in
        [("v1", "holds the states of several other versions"), ("v99", "several other versions")]
    {
        DirBuilder::new().create(steer.pin_dir().join(other))?;
        let ended = steer.launch_to_end(&[], &[])?;
        ensure!(ended.code() == Some(1) && steer.log().contains(words), "{}", steer.log());
        fs::remove_dir(steer.pin_dir().join(other))?;
    }
    ensure!(layouts(&steer) == [3], "{:?}", layouts(&steer));
    steer.launch()?;
    steer.steer("detach")?;
    for other in ["v1", "v99"] {
        DirBuilder::new().recursive(true).create(steer.pin_dir().join(other))?;
        let ended = steer.launch_to_end(&[], &[])?;
        let words = "run `steer detach` first, which ends its flows";
        ensure!(ended.code() == Some(1) && steer.log().contains(words), "{other}: {}", steer.log());
        fs::remove_dir(steer.pin_dir().join(other))?;
    }
    Ok(())
}

/// By what is there, whatever version made it; of a newer one an agent runs, too.
#[test]
fn detach_removes_every_trace_of_a_gateway_of_another_layout() -> Result<()> {
    let run = scenario(Hook::Tc).vip_setting("assign = true").start()?;
    let mut steer = run.agent()?;
    steer.end(Signal::SIGTERM)?;
    downgrade(&steer, &More::default())?;
    ensure!(layouts(&steer) == [3], "{:?}", layouts(&steer));
    ensure!(Traces::of(&run, &steer)?.vips.len() == 2, "{:?}", Traces::of(&run, &steer)?);
    steer.steer("detach")?;
    Traces::of(&run, &steer)?.none()?;

    steer.launch()?;
    let (agent, own) = (steer.process_id().context("no agent")?, format!("v{LAYOUT_VERSION}"));
    fs::rename(steer.pin_dir().join(own), steer.pin_dir().join("v99"))?;
    steer.steer("detach")?;
    Traces::of(&run, &steer)?.none()?;
    ensure!(!process::works(agent), "its agent goes on: {}", steer.log());
    Ok(())
}

/// A version of the same layout that did not have some of today's maps: they are made, and what was
/// there goes on.
#[test]
fn maps_that_a_version_of_the_same_layout_did_not_have_are_made() -> Result<()> {
    /// Those that came to the layout after its first version.
    const LATER: [&str; 7] =
        ["fast", "hops", "exempt", "bridge_paths", "vlans", "rests", "entrances"];
    let run = scenario(Hook::Tc).start()?;
    let mut steer = run.agent()?;
    let kept = visitor(&run, OFFERS[0], &run.dial(0))?;
    steer.end(Signal::SIGKILL)?;
    for map in LATER {
        fs::remove_file(steer.map_pin(map)).with_context(|| format!("remove the pin of {map}"))?;
    }
    steer.steer("status")?;
    steer.launch()?;
    for map in LATER {
        ensure!(steer.map_pin(map).exists(), "{map} is not made");
    }
    let (client, server) = kept;
    for source in 1..8 {
        let handshake = run.visit(&client, &run.dial(source))?;
        ensure!(handshake.resumed && handshake.server == server, "{handshake:?}");
    }
    ensure!(steer.count(Counter::SpliceOpened)? > 0, "flows move");
    Ok(())
}
