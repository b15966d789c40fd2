//! What befalls the gateway and its backends, one thing at a time, each undone before the next.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{dice::Dice, ledger::Ledger, progress};
use crate::{
    agent::Agent,
    loss::Loss,
    process::{eventually, worker_of},
    scenario::Run,
};

/// Longest wait for all backends to be up again.
const RECOVERY: Duration = Duration::from_secs(20);

/// One thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Event {
    AgentKilled,
    WeightsChanged,
    BackendKilled,
    BackendFrozen,
    BackendSilent,
    BackendDrained,
    Bypass,
    NeighboursLost,
    LinkDown,
}

/// What both halves of a soak have: nothing that ends an agent, or what a server remembers.
const ALWAYS: [Event; 6] = [
    Event::BackendFrozen,
    Event::BackendSilent,
    Event::BackendDrained,
    Event::Bypass,
    Event::NeighboursLost,
    Event::LinkDown,
];
/// What only the first half has.
const FIRST_HALF: [Event; 3] = [Event::AgentKilled, Event::WeightsChanged, Event::BackendKilled];

impl Event {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::AgentKilled => "agent killed (SIGKILL), started again",
            Self::WeightsChanged => "weights changed, agent restarted",
            Self::BackendKilled => "backend killed, started again",
            Self::BackendFrozen => "backend frozen (SIGSTOP)",
            Self::BackendSilent => "backend's port silent",
            Self::BackendDrained => "backend drained",
            Self::Bypass => "bypass",
            Self::NeighboursLost => "gateway's neighbours flushed",
            Self::LinkDown => "link to a backend down",
        }
    }

    /// Whether it befalls one backend, not the gateway.
    fn is_of_a_backend(self) -> bool {
        use Event::{BackendDrained, BackendFrozen, BackendKilled, BackendSilent, LinkDown};
        matches!(self, BackendKilled | BackendFrozen | BackendSilent | BackendDrained | LinkDown)
    }

    /// Whether connections end by it.
    pub(super) fn ends_connections(self) -> bool {
        self == Self::BackendKilled
    }
}

/// When something befell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) what: Event,
    /// Whom, if a backend.
    pub(super) backend: Option<usize>,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// The agent's resident memory at some time after the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) bytes: u64,
    /// Of the agent that ran until the end.
    pub(super) last_agent: bool,
}

/// Makes things happen, and remembers them.
pub(super) struct Chaos<'a> {
    run: &'a Run,
    ledger: &'a Ledger,
    dice: Dice,
    began: Instant,
    time: Duration,
    pub(super) windows: Vec<Window>,
    pub(super) samples: Vec<Sample>,
}

impl<'a> Chaos<'a> {
    pub(super) fn new(run: &'a Run, ledger: &'a Ledger, time: Duration) -> Self {
        let (windows, samples) = (Vec::new(), Vec::new());
        Self { run, ledger, dice: Dice::new(0x50a4), began: Instant::now(), time, windows, samples }
    }

    /// Chaos every few seconds until `end`; then all is as it was.
    pub(super) fn reign(&mut self, steer: &mut Agent<'_>, end: Instant) -> Result<()> {
        let mut told = Instant::now();
        let mut bag = Vec::new();
        while Instant::now() < end {
            thread::sleep(self.dice.millis(1000, 3000));
            let first_half = self.began.elapsed() < self.time / 2;
            self.sample(steer, !first_half)?;
            // Every kind before any kind again, in another order each time.
            bag.retain(|event| first_half || ALWAYS.contains(event));
            if bag.is_empty() {
                bag = ALWAYS.to_vec();
                bag.extend(if first_half { &FIRST_HALF[..] } else { &[] });
            }
            let event = bag.remove(self.dice.below(bag.len()));
            self.befall(steer, event).with_context(|| format!("chaos: {}", event.word()))?;
            if told.elapsed() > Duration::from_secs(20) {
                told = Instant::now();
                let ((connections, failed), events) = (self.ledger.so_far(), self.windows.len());
                progress(&format!(
                    "{:?}: {events} events, {connections} connections, {failed} failed",
                    self.began.elapsed()
                ));
            }
        }
        Ok(())
    }

    fn befall(&mut self, steer: &mut Agent<'_>, what: Event) -> Result<()> {
        let (target, pause) =
            (self.dice.below(self.ledger.n_backends), self.dice.millis(1000, 3000));
        let from = Instant::now();
        match what {
            Event::AgentKilled => kill_agent(steer, pause),
            Event::WeightsChanged => self.change_weights(steer),
            Event::BackendKilled => self.kill_backend(target, pause),
            Event::BackendFrozen => self.freeze_backend(target, pause),
            Event::BackendSilent => self.silence_backend(target, pause),
            Event::BackendDrained => self.drain_backend(steer, target, pause),
            Event::Bypass => bypass(steer, pause),
            Event::NeighboursLost => self.run.lab.gateway().tool("ip neigh flush all").map(drop),
            Event::LinkDown => self.take_link_down(target, pause),
        }?;
        let backend = what.is_of_a_backend().then_some(target);
        self.windows.push(Window { what, backend, from, to: Instant::now() });
        await_backends(self.run, steer)
    }

    fn change_weights(&mut self, steer: &mut Agent<'_>) -> Result<()> {
        let mut settings = self.run.steer.clone();
        for backend in 0..self.ledger.n_backends {
            settings.backend.push((backend, format!("weight = {}", 1 + self.dice.below(5))));
        }
        steer.configure(&settings)?;
        steer.end(Signal::SIGTERM)?;
        steer.launch()
    }

    fn kill_backend(&self, target: usize, pause: Duration) -> Result<()> {
        self.run.servers[target].stop()?;
        thread::sleep(pause);
        self.run.servers[target].restart(self.run.lab.backend(target))
    }

    fn freeze_backend(&self, target: usize, pause: Duration) -> Result<()> {
        self.run.servers[target].signal(Signal::SIGSTOP)?;
        thread::sleep(pause);
        self.run.servers[target].signal(Signal::SIGCONT)
    }

    fn silence_backend(&self, target: usize, pause: Duration) -> Result<()> {
        let _silence = Loss::incoming(self.run.lab.backend(target), "tcp dport 443")?;
        thread::sleep(pause);
        Ok(())
    }

    fn drain_backend(&self, steer: &Agent<'_>, target: usize, pause: Duration) -> Result<()> {
        let address = self.run.backend_address(target);
        steer.steer(&format!("backends drain {address}"))?;
        thread::sleep(pause);
        steer.steer(&format!("backends undrain {address}")).map(drop)
    }

    fn take_link_down(&self, target: usize, pause: Duration) -> Result<()> {
        self.run.lab.link(target, false)?;
        thread::sleep(pause);
        self.run.lab.link(target, true)
    }

    fn sample(&mut self, steer: &Agent<'_>, last_agent: bool) -> Result<()> {
        self.samples.push(Sample { at: self.began.elapsed(), bytes: memory(steer)?, last_agent });
        Ok(())
    }

    /// When a backend last lost what it remembered.
    pub(super) fn killed(&self, backend: usize) -> Option<Instant> {
        let of = |w: &&Window| w.what == Event::BackendKilled && w.backend == Some(backend);
        self.windows.iter().filter(of).map(|window| window.from).max()
    }
}

fn kill_agent(steer: &mut Agent<'_>, pause: Duration) -> Result<()> {
    steer.end(Signal::SIGKILL)?;
    thread::sleep(pause);
    steer.launch()
}

fn bypass(steer: &Agent<'_>, pause: Duration) -> Result<()> {
    steer.steer("bypass on")?;
    thread::sleep(pause);
    steer.steer("bypass off").map(drop)
}

/// Waits until the agent has found every backend to be up.
pub(super) fn await_backends(run: &Run, steer: &Agent<'_>) -> Result<()> {
    let is_up = |index| {
        steer.backend(run.backend_address(index)).is_ok_and(|backend| backend["state"] == "up")
    };
    let all_up = || (0..run.lab.n_backends()).all(is_up).then_some(());
    eventually(RECOVERY, all_up).context("a backend is not up again")
}

/// Resident memory of the agent's process, bytes.
fn memory(steer: &Agent<'_>) -> Result<u64> {
    let status = steer.json("status")?;
    let pid = status["agent"]["pid"]
        .as_u64()
        .with_context(|| format!("no agent answers: {}", status["agent"]))?;
    let worker = worker_of(u32::try_from(pid)?);
    let status =
        fs::read_to_string(format!("/proc/{worker}/status")).context("read the agent's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 =
        line.trim().trim_end_matches(" kB").trim().parse().context("read VmRSS")?;
    Ok(kilobytes * 1024)
}
