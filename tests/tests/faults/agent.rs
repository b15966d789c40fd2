//! The agent's process ends and comes back: the kernel goes on without it, and the next one adopts
//! what is pinned.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    agent::Agent,
    case::{Case, OWNER},
    demo::Load,
    payload,
    setting::{Setting, in_settings},
};

const MEGABYTE: usize = 1 << 20;

#[test]
fn killing_the_agent_in_the_middle_of_a_re_homed_download_harms_nothing() -> Result<()> {
    in_settings(60, |setting| ends_during_download(setting, Signal::SIGKILL))
}

#[test]
fn ending_the_agent_in_the_middle_of_a_re_homed_download_harms_nothing() -> Result<()> {
    in_settings(61, |setting| ends_during_download(setting, Signal::SIGTERM))
}

#[test]
fn killing_the_agent_again_and_again_during_handshakes_harms_none() -> Result<()> {
    in_settings(62, |setting| ends_during_handshakes(setting, Signal::SIGKILL))
}

#[test]
fn ending_the_agent_again_and_again_during_handshakes_harms_none() -> Result<()> {
    in_settings(63, |setting| ends_during_handshakes(setting, Signal::SIGTERM))
}

#[test]
fn without_an_agent_sessions_are_learned_and_flows_re_homed() -> Result<()> {
    in_settings(64, |setting| {
        let run = setting.scenario().start()?;
        let mut case = Case::start(&run)?;
        case.steer.end(Signal::SIGKILL)?;
        case.renew()?;
        case.moves(&case.dial)?;
        case.expect(&[(Counter::SpliceOpened, 1)])?;
        case.unharmed(1)
    })
}

/// The agent is gone from 5 to 10 MB of 20, and a new one adopts the rest.
fn ends_during_download(setting: Setting, signal: Signal) -> Result<()> {
    let run = setting.scenario().start()?;
    let mut case = Case::start(&run)?;
    let sum = run.servers[OWNER].put("down", &payload::bytes(20 * MEGABYTE, 1))?;
    let sessions = n_sessions(&case.steer)?;
    let (client, dial, steer) = (case.client.clone(), case.dial.clone(), &mut case.steer);
    let mut progress = Progress { steer, signal, done: 0 };
    let (handshake, response) = run.connect(&client, &dial, |connection| {
        let mut trouble = Ok(());
        let response = connection.get_watched("/files/down", |read| {
            if trouble.is_ok() {
                trouble = progress.at(read);
            }
        })?;
        connection.finish()?;
        trouble.map(|()| response)
    })?;
    assert_eq!(progress.done, 2, "the agent was ended and came back");
    assert!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
    case.expect(&[(Counter::SpliceOpened, 1)])?;
    assert!(n_sessions(&case.steer)? >= sessions, "no session is lost");
    case.moves(&case.dial)?;
    case.expect(&[(Counter::SpliceOpened, 2)])?;
    case.unharmed(2)
}

/// Ends the agent at 5 MB and starts it again at 10.
struct Progress<'a, 'b> {
    steer: &'a mut Agent<'b>,
    signal: Signal,
    done: usize,
}

impl Progress<'_, '_> {
    fn at(&mut self, read: usize) -> Result<()> {
        if self.done == 0 && read > 5 * MEGABYTE {
            self.done = 1;
            return self.steer.end(self.signal);
        }
        if self.done == 1 && read > 10 * MEGABYTE {
            self.done = 2;
            return self.steer.launch();
        }
        Ok(())
    }
}

/// Long enough for several agents to start, one after the other.
const RECONNECTS: usize = 6000;

fn ends_during_handshakes(setting: Setting, signal: Signal) -> Result<()> {
    let run = setting.scenario().start()?;
    let mut case = Case::start(&run)?;
    let before = case.steer.counts()?.of(Counter::Learned);
    let working = AtomicBool::new(true);
    let load = Load { clients: 32, reconnects: RECONNECTS, parallel: 8 };
    let n_ended = thread::scope(|scope| -> Result<usize> {
        let seen = scope.spawn(|| {
            let seen = load.run(&run, "while the agent ends and comes back");
            working.store(false, Ordering::Relaxed);
            seen
        });
        let mut n_ended = 0;
        let mut trouble = Ok(());
        while working.load(Ordering::Relaxed) && trouble.is_ok() {
            trouble = case.steer.end(signal).and_then(|()| case.steer.launch());
            n_ended += 1;
        }
        let seen = seen.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        trouble?;
        assert_eq!(
            (seen.errors, seen.resumed, seen.on_owner),
            (0, RECONNECTS, RECONNECTS),
            "{:?}",
            seen.samples
        );
        Ok(n_ended)
    })?;
    assert!(n_ended >= 2, "it ended {n_ended} times");
    assert!(
        case.steer.counts()?.of(Counter::Learned) >= before.map(|n| n + 32),
        "the counters were kept"
    );
    case.unharmed_but_for_resets()
}

fn n_sessions(steer: &Agent<'_>) -> Result<u64> {
    let n = steer.json("sessions list")?["total"]
        .as_u64()
        .context("steer sessions list names no total")?;
    ensure!(n > 0, "no session is known");
    Ok(n)
}
