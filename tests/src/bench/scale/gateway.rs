//! The agent and the command line beside a session table that grows: memory, start, verbs, sweeps,
//! and whether packets go on meanwhile.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use steer_user::{
    agent::sweep,
    plane::{PinDir, Plane},
};

use super::{
    entries,
    traffic::{Trips, meanwhile},
};
use crate::{
    agent::{Agent, Hook, Settings},
    process::eventually,
    topology::{Lab, Plan},
};

/// Verbs that read the whole table, and two that do not.
pub(super) const VERBS: [&str; 4] =
    ["status", "sessions list --limit 10", "backends list", "stats"];
/// An agent that took no processor time for so long has done its first sweep.
const QUIET: Duration = Duration::from_millis(600);
/// Longest wait for an agent to be done with something.
const PATIENCE: Duration = Duration::from_secs(120);

/// With so many sessions.
pub(super) struct Point {
    pub(super) sessions: u64,
    /// From the agent's start until it answers.
    pub(super) start: Duration,
    /// Its memory when the first sweep is over, and the most it had, KiB.
    pub(super) resident: u64,
    pub(super) peak: u64,
    /// One sweep.
    pub(super) sweep: Duration,
    /// Each of [`VERBS`]: its time, and the most memory it had, KiB.
    pub(super) verbs: Vec<(Duration, u64)>,
    /// What went through the gateway while all this happened.
    pub(super) trips: Trips,
}

/// What became of it.
pub(super) struct Grown {
    /// The first start, which makes the tables.
    pub(super) first_start: Duration,
    pub(super) points: Vec<Point>,
    /// All sessions expire at once: from the agent's start until the last is gone, and the most
    /// memory it had, KiB.
    pub(super) expiry: Duration,
    pub(super) expiry_peak: u64,
}

/// Runs an agent with a table of `slots` and fills it in these steps.
pub(super) fn grow(slots: u32, steps: &[u32]) -> Result<Grown> {
    let lab = Lab::build(&Plan { n_backends: 1, ..Plan::default() })?;
    let mut settings = Settings::new(Hook::Tc);
    settings.health = vec!["enabled = false".to_owned()];
    settings.sizes = vec![format!("sessions = {slots}")];
    let mut agent = Agent::start(&lab, &settings)?;
    agent.end(Signal::SIGTERM)?;
    agent.steer("detach")?;
    let first_start = agent.launch_timed()?;
    let mut plane = Plane::open(&PinDir::new(agent.pin_dir()))?;
    let owner = plane.backends()?.first().context("no backend")?.0 as u16;
    let vip = plane.vips()?.first().context("no VIP")?.1.id;
    let (mut points, mut filled) = (Vec::new(), 0);
    for step in steps {
        for number in filled..*step {
            plane.sessions.insert(&entries::session_key(vip, number)?, &entries::session(owner))?;
        }
        filled = *step;
        let (point, trips) = meanwhile(&lab, || measure(&lab, &mut agent, &mut plane))?;
        ensure!(point.sessions == u64::from(filled), "{} sessions, not {filled}", point.sessions);
        points.push(Point { trips, ..point });
    }
    settings.vip.push("session_timeout = \"1s\"".to_owned());
    agent.configure(&settings)?;
    let (expiry, expiry_peak) = expire(&mut agent, &plane)?;
    Ok(Grown { first_start, points, expiry, expiry_peak })
}

fn measure(lab: &Lab, agent: &mut Agent<'_>, plane: &mut Plane) -> Result<Point> {
    agent.end(Signal::SIGTERM)?;
    let start = agent.launch_timed()?;
    let process = agent.worker().context("no agent runs")?;
    await_quiet(process)?;
    let (resident, peak) = (memory(process, "VmRSS")?, memory(process, "VmHWM")?);
    let began = Instant::now();
    let swept = sweep(plane)?;
    let sweep = began.elapsed();
    let verbs = VERBS.map(|words| run(lab, agent.command(words)));
    let verbs = verbs.into_iter().collect::<Result<_>>()?;
    Ok(Point {
        sessions: swept.sessions,
        start,
        resident,
        peak,
        sweep,
        verbs,
        trips: Trips::default(),
    })
}

fn expire(agent: &mut Agent<'_>, plane: &Plane) -> Result<(Duration, u64)> {
    agent.end(Signal::SIGTERM)?;
    let began = Instant::now();
    agent.launch_timed()?;
    let process = agent.worker().context("no agent runs")?;
    let empty = || {
        thread::sleep(Duration::from_millis(200));
        plane.sessions.count().ok().filter(|count| *count == 0)
    };
    eventually(PATIENCE, empty).context("the sessions do not go")?;
    Ok((began.elapsed(), memory(process, "VmHWM")?))
}

/// Runs a verb to its end: its time, and the most memory it was seen with, KiB.
fn run(lab: &Lab, mut command: Command) -> Result<(Duration, u64)> {
    lab.gateway().run(|| {
        let began = Instant::now();
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start steer")?;
        let mut peak = 0;
        let status = loop {
            peak = memory(child.id(), "VmHWM").map_or(peak, |now| now.max(peak));
            match child.try_wait()? {
                Some(status) => break status,
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        // The exit code of `status` tells of the gateway.
        ensure!(status.code().is_some_and(|code| code <= 2), "{command:?}: {status}");
        Ok((began.elapsed(), peak))
    })
}

/// A line of /proc/PID/status, KiB; a process that ends has none.
fn memory(process: u32, name: &str) -> Result<u64> {
    let text =
        fs::read_to_string(format!("/proc/{process}/status")).context("read a process's status")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .context("no such line")?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| format!("read {name}"))
}

fn await_quiet(process: u32) -> Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    let quiet = eventually(PATIENCE, || {
        thread::sleep(Duration::from_millis(20));
        let now = ticks(process).ok()?;
        if now > last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > QUIET).then_some(())
    });
    quiet.context("the agent finds no rest")
}

/// Processor time that a process took, in the kernel's ticks: fields 14 and 15 of /proc/PID/stat.
fn ticks(process: u32) -> Result<u64> {
    let text =
        fs::read_to_string(format!("/proc/{process}/stat")).context("read a process's times")?;
    let behind_name = text.rsplit_once(')').context("no name in stat")?.1;
    behind_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().context("read ticks"))
        .sum()
}
