//! The real thing: the binary of an older version, and then this one. It has to be built first, so
//! these tests are ignored unless they are asked for (docs/upgrade.md).

use std::{
    env,
    panic::resume_unwind,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use steer_common::shared::LAYOUT_VERSION;
use steer_tests::{
    agent::{Agent, Hook},
    demo::{Load, Tally},
    payload,
    process::eventually,
    scenario::Run,
};
use steer_user::crash::{self, Starts, Step};

use crate::world::{
    MEGABYTE, OFFERS, OWNER, PATIENCE, Transfer, layouts, pools, scenario, visitor,
};

/// Names the binary of the older version.
const OLD_BINARY: &str = "STEER_OLD_BIN";
/// Long enough to last over the upgrade at the slow pace.
const FILE: usize = 40 * MEGABYTE;
/// Connections that get the sessions of 32 clients resumed, one after the other; again and again
/// while the versions change.
const RECONNECTS: usize = 6000;

fn old_binary() -> Result<PathBuf> {
    let named = env::var_os(OLD_BINARY)
        .with_context(|| format!("{OLD_BINARY} names no binary of an older version"))?;
    Ok(named.into())
}

/// A gateway of the older version.
fn old_gateway(run: &Run) -> Result<Agent<'_>> {
    let mut steer = Agent::prepare(&run.lab, &run.steer)?;
    steer.use_binary(Some(&old_binary()?))?;
    steer.launch().context("start the older version")?;
    Ok(steer)
}

fn upgraded_under_load(hook: Hook) -> Result<()> {
    let run = scenario(hook).start()?;
    let body = payload::bytes(FILE, 1);
    let sum = run.servers[OWNER].put("down", &body)?;
    let mut steer = old_gateway(&run)?;
    let old = layouts(&steer);
    ensure!(old.len() == 1 && old[0] <= LAYOUT_VERSION, "the binary has the layout {old:?}");
    // Clients with a session each that nobody uses while the versions change.
    let kept = (0..24)
        .map(|number| {
            Ok((visitor(&run, OFFERS[number % OFFERS.len()], &run.dial(number))?, number))
        })
        .collect::<Result<Vec<_>>>()?;
    // Before the transfers: it changes where addresses lead.
    steer.steer(&format!("backends drain --for 1h {}", run.backend_address(2)))?;
    steer.steer(&format!(
        "backends add --vip {} --weight 7 {}",
        run.vip(),
        run.backend_address(1)
    ))?;
    let transfers = Transfer::several(&run)?;
    let before = pools(&steer)?;
    let (over, load) =
        (AtomicBool::new(false), Load { clients: 32, reconnects: RECONNECTS, parallel: 6 });
    let (took, log, seen) = thread::scope(|scope| -> Result<_> {
        let working: Vec<_> = transfers
            .iter()
            .map(|transfer| {
                let (run, sum, body, over) = (&run, &sum, &body, &over);
                scope.spawn(move || transfer.run(run, sum, body, over))
            })
            .collect();
        let loading = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                seen.push(load.run(&run, "while the versions change")?);
            }
            anyhow::Ok(seen)
        });
        thread::sleep(Duration::from_secs(2));
        let upgraded = (|| {
            steer.end(Signal::SIGTERM)?;
            // Some traffic goes by with nobody there.
            thread::sleep(Duration::from_millis(300));
            steer.use_binary(None)?;
            let took = steer.launch_timed()?;
            anyhow::Ok((took, steer.log()))
        })();
        thread::sleep(Duration::from_secs(1));
        over.store(true, Ordering::Relaxed);
        let seen = loading.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let ended: Vec<_> = working
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect();
        let (took, log) = upgraded.context("start this version")?;
        let broken: Vec<_> =
            ended.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
        ensure!(
            broken.is_empty(),
            "{} of 12 transfers not whole: {broken:#?}; log: {log}",
            broken.len()
        );
        Ok((took, log, seen))
    })?;
    let all = |of: fn(&Tally) -> usize| seen.iter().map(of).sum::<usize>();
    let (errors, resumed, on_owner) =
        (all(|seen| seen.errors), all(|seen| seen.resumed), all(|seen| seen.on_owner));
    let n = seen.len() * RECONNECTS;
    println!("{hook:?}: up after {took:?}; {resumed} of {n} resumed, {errors} errors\n{log}");
    let samples = seen.iter().flat_map(|seen| &seen.samples).collect::<Vec<_>>();
    ensure!(
        (errors, resumed, on_owner) == (0, n, n),
        "{errors} errors, {resumed} of {n} resumed, {on_owner} on their owners: {samples:?}; log: {log}",
    );
    let same = || pools(&steer).ok().filter(|now| *now == before);
    eventually(PATIENCE, same).with_context(|| format!("{:?} was {before:?}", pools(&steer)))?;
    for ((client, server), number) in &kept {
        let handshake = run.visit(client, &run.dial(number + 31))?;
        ensure!(
            handshake.resumed && handshake.server == *server,
            "{number}: {handshake:?}, not at {server}"
        );
    }
    ensure!(layouts(&steer) == [LAYOUT_VERSION], "{:?}", layouts(&steer));
    // A version of the same layout is adopted as after any restart.
    ensure!(log.contains("is carried over") == (old[0] < LAYOUT_VERSION), "{log}");
    steer.end(Signal::SIGTERM)?;
    steer.launch_timed().map(drop)
}

#[test]
#[ignore = "needs the binary of an older version: STEER_OLD_BIN"]
fn an_upgrade_on_tc_loses_no_session_and_breaks_no_transfer() -> Result<()> {
    upgraded_under_load(Hook::Tc)
}

#[test]
#[ignore = "needs the binary of an older version: STEER_OLD_BIN"]
fn an_upgrade_on_xdp_loses_no_session_and_breaks_no_transfer() -> Result<()> {
    upgraded_under_load(Hook::Xdp)
}

/// Before its state has its name, the older version starts as if nothing had been; afterwards this
/// one goes on.
#[test]
#[ignore = "needs the binary of an older version: STEER_OLD_BIN"]
fn after_a_death_at_any_step_one_of_the_versions_goes_on() -> Result<()> {
    let run = scenario(Hook::Xdp).start()?;
    let named =
        Step::ALL.iter().position(|step| *step == Step::PlaceTaken).context("no such step")?;
    let steps =
        Step::ALL.iter().copied().enumerate().filter(|(_, step)| step.starts() != Starts::Resizing);
    for (index, step) in steps {
        let context = || format!("after a death at {}", step.word());
        let mut steer = old_gateway(&run).with_context(context)?;
        let client = run.new_client()?;
        run.session_at(&client, OWNER)?;
        steer.steer(&format!(
            "backends add --vip {} --weight 7 {}",
            run.vip(),
            run.backend_address(1)
        ))?;
        let (before, away) = (pools(&steer)?, run.dial(run.source_not_of(OWNER)?));
        steer.end(Signal::SIGTERM)?;
        steer.use_binary(None)?;
        let ended =
            steer.launch_to_end(&[], &[(crash::VARIABLE, step.word())]).with_context(context)?;
        ensure!(!ended.success(), "{}: {ended}: {}", context(), steer.log());
        let resumes = |after: &str| -> Result<()> {
            let handshake = run.visit(&client, &away).with_context(context)?;
            ensure!(handshake.resumed, "{}, {after}: {handshake:?}", context());
            Ok(())
        };
        // One interface with new programs and the others with old ones: new connections wait for
        // the next agent.
        if step != Step::FirstAttached {
            resumes("with nobody there")?;
        }
        if index < named {
            steer.use_binary(Some(&old_binary()?))?;
            steer.launch().with_context(context)?;
            resumes("with the older version")?;
            steer.end(Signal::SIGTERM)?;
            steer.use_binary(None)?;
        }
        steer.launch_timed().with_context(context)?;
        resumes("with this version")?;
        let same = || pools(&steer).ok().filter(|now| *now == before);
        eventually(PATIENCE, same)
            .with_context(|| format!("{}: {:?} was {before:?}", context(), pools(&steer)))?;
        ensure!(layouts(&steer) == [LAYOUT_VERSION], "{}: {:?}", context(), layouts(&steer));
        steer.steer("detach")?;
    }
    Ok(())
}
