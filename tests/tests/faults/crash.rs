//! The agent dies at every step of its start-up: what ran before runs on, and the next agent puts
//! all right.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapInfo;
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt as _;
use steer_tests::{
    agent::{Agent, Hook, Settings},
    case::{Case, FIRST, OWNER},
    client::Dial,
    loss::Loss,
    payload,
    process::eventually,
    scenario::Run,
    setting::Setting,
    topology::{Family, Offloads},
    traces::Traces,
};
use steer_user::crash::{self, Starts, Step};

use crate::owners::unchecked;

/// XDP besides TC, so that every step is come by.
const SETTING: Setting =
    Setting { hook: Hook::Xdp, family: Family::V4, offloads: Offloads::ChecksumsOff };
/// A download that lasts as long as the test wants it to.
const DOWNLOAD: usize = 160 << 20;
/// Pause after each read of it while agents die.
const PACE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn an_agent_that_dies_at_any_step_of_its_first_start_breaks_nothing_and_detach_removes_all()
-> Result<()> {
    let run = SETTING.scenario().vip_setting("assign = true").start()?;
    for step in Step::ALL
        .iter()
        .copied()
        .filter(|step| ![Starts::Resizing, Starts::Carrying].contains(&step.starts()))
    {
        let steer = Agent::prepare(&run.lab, &run.steer)?;
        dies_at(&steer, step)?;
        passes(&run).with_context(|| format!("after a death at {}", step.word()))?;
        steer.steer("detach")?;
        Traces::of(&run, &steer)?
            .none()
            .with_context(|| format!("after a death at {}", step.word()))?;
    }
    Ok(())
}

#[test]
fn after_a_death_at_any_step_of_a_first_start_the_next_agent_serves_with_every_program_once()
-> Result<()> {
    let run = SETTING.scenario().vip_setting("assign = true").start()?;
    let whole = {
        let steer = run.agent()?;
        whole(&run, &steer)?
    };
    for step in Step::ALL
        .iter()
        .copied()
        .filter(|step| ![Starts::Resizing, Starts::Carrying].contains(&step.starts()))
    {
        let mut steer = Agent::prepare(&run.lab, &run.steer)?;
        dies_at(&steer, step)?;
        steer.launch().with_context(|| format!("after a death at {}", step.word()))?;
        comes_to(&whole, &run, &steer)
            .with_context(|| format!("after a death at {}", step.word()))?;
        let again = run.resume_elsewhere(&run.new_client()?)?;
        ensure!(again.resumed, "after a death at {}: {again:?}", step.word());
    }
    Ok(())
}

/// Every agent finds tables of other sizes than it wants, and a re-homed download is under way all
/// the time.
#[test]
fn agents_that_die_at_any_step_of_adopting_a_gateway_leave_its_flows_going() -> Result<()> {
    let run = SETTING.scenario().vip_setting("assign = true").size("flows = 5000").start()?;
    let mut case = Case::start(&run)?;
    let whole = whole(&run, &case.steer)?;
    let sum = run.servers[OWNER].put("down", &payload::bytes(DOWNLOAD, 1))?;
    let (read, dying) = (AtomicUsize::new(0), AtomicBool::new(true));
    let (client, dial) = (case.client.clone(), case.dial.clone());
    let (handshake, response) = thread::scope(|scope| {
        let download = scope.spawn(|| {
            run.connect(&client, &dial, |connection| {
                connection.get_watched("/files/down", |now| {
                    read.store(now, Ordering::Relaxed);
                    if dying.load(Ordering::Relaxed) {
                        thread::sleep(PACE);
                    }
                })
            })
        });
        let steps = Step::ALL
            .iter()
            .copied()
            .filter(|step| ![Starts::First, Starts::Carrying].contains(&step.starts()));
        let died = steps.enumerate().try_for_each(|(number, step)| {
            let context = || {
                format!(
                    "after a death at {}, with {} bytes read",
                    step.word(),
                    read.load(Ordering::Relaxed)
                )
            };
            adopts(&mut case, number, step, &read).with_context(context)?;
            comes_to(&whole, &run, &case.steer).with_context(context)
        });
        dying.store(false, Ordering::Relaxed);
        let download = download.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        died.and(download)
    })?;
    ensure!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
    case.unharmed_but_for_resets()?;
    case.steer.end(Signal::SIGKILL)?;
    case.steer.steer("detach")?;
    Traces::of(&run, &case.steer)?.none()
}

/// An agent that died between two interfaces leaves them two tables of flows, and nobody comes to put
/// that right: what is moved, what an owner refuses and what one is silent about is served.
#[test]
fn clients_are_served_while_interfaces_have_different_tables() -> Result<()> {
    for (hook, family, step) in [
        (Hook::Tc, Family::V4, Step::FirstAttached),
        (Hook::Tc, Family::V6, Step::FirstAttached),
        (Hook::Xdp, Family::V4, Step::FirstAttached),
        (Hook::Xdp, Family::V6, Step::TcAttached),
    ] {
        let setting = Setting { hook, family, ..SETTING };
        served_in_two_tables(setting, step)
            .with_context(|| format!("{setting:?}, after a death at {}", step.word()))?;
    }
    Ok(())
}

fn served_in_two_tables(setting: Setting, step: Step) -> Result<()> {
    let run = unchecked(setting).size("flows = 5000").start()?;
    let mut case = Case::start(&run)?;
    case.steer.end(Signal::SIGKILL)?;
    case.steer.configure(&with_flows(&run.steer, 5001))?;
    dies_at(&case.steer, step)?;
    // Handshakes wait some seconds for an agent that could end it.
    case.fetch(&case.dial).context("the first client")?;
    let dial = Dial { timeout: Duration::from_secs(5), ..case.dial.clone() };
    for _ in 0..3 {
        case.fetch(&dial).context("a client whose session is elsewhere")?;
    }
    {
        let _silence = Loss::incoming(run.lab.backend(OWNER), "tcp flags syn")?;
        let silent = case.fetch(&dial).context("a client whose owner is silent")?;
        ensure!(run.backend_named(&silent.server)? == FIRST, "{silent:?}");
    }
    case.renew()?;
    run.servers[OWNER].stop()?;
    let refused = case.fetch(&dial).context("a client whose owner refuses")?;
    ensure!(run.backend_named(&refused.server)? == FIRST, "{refused:?}");
    case.unharmed_but_for_resets()
}

/// An agent dies at a step, the download goes on, new clients see no error; the next agent adopts,
/// and sessions are resumed again.
fn adopts(case: &mut Case<'_>, number: usize, step: Step, read: &AtomicUsize) -> Result<()> {
    println!("dies at {}", step.word());
    case.steer.end(Signal::SIGKILL)?;
    let flows = 5001 + number as u32;
    case.steer.configure(&with_flows(&case.run.steer, flows))?;
    dies_at(&case.steer, step)?;
    let before = read.load(Ordering::Relaxed);
    let goes_on = || (read.load(Ordering::Relaxed) > before + (64 << 10)).then_some(());
    eventually(PATIENCE, goes_on).context("the download stands still")?;
    case.fetch(&case.dial).context("a client meanwhile")?;
    case.steer.launch()?;
    // It answers before it is through; until then new flows may be plain layer 4.
    let resized = || {
        (MapInfo::from_pin(case.steer.map_pin("flows")).ok()?.max_entries() == flows).then_some(())
    };
    eventually(PATIENCE, resized).context("the table does not get its size")?;
    case.renew()?;
    case.moves(&case.dial).map(drop)
}

fn with_flows(settings: &Settings, n: u32) -> Settings {
    Settings { sizes: vec![format!("flows = {n}")], ..settings.clone() }
}

/// Expects the step to be come by: an agent that does not die there stays up, and is an error.
fn dies_at(steer: &Agent<'_>, step: Step) -> Result<()> {
    let ended = steer.launch_to_end(&[], &[(crash::VARIABLE, step.word())]);
    let ended =
        ended.with_context(|| format!("the agent does not come by the step {}", step.word()))?;
    ensure!(
        ended.signal() == Some(Signal::SIGKILL as i32),
        "{}: {ended}: {}",
        step.word(),
        steer.log()
    );
    Ok(())
}

/// The traces of an agent that is through with its start-up.
fn whole(run: &Run, steer: &Agent<'_>) -> Result<Traces> {
    // It answers before the last step.
    let assigned = || Traces::of(run, steer).ok().filter(|traces| traces.vips.len() == 2);
    let whole = eventually(PATIENCE, assigned).context("the VIPs are not assigned")?;
    ensure!(whole.tc == [1, 1, 1] && whole.xdp == [true; 3], "{whole:?}");
    Ok(whole)
}

fn comes_to(whole: &Traces, run: &Run, steer: &Agent<'_>) -> Result<()> {
    let same = || Traces::of(run, steer).ok().filter(|traces| traces == whole);
    let seen = eventually(PATIENCE, same).map(drop);
    seen.with_context(|| format!("{:?} does not become {whole:?}", Traces::of(run, steer)))
}

/// What needs no steer passes the gateway.
fn passes(run: &Run) -> Result<()> {
    let straight = Dial { target: run.backend_address(OWNER), timeout: PATIENCE, ..run.dial(0) };
    run.visit(&run.new_client()?, &straight).map(drop)
}
