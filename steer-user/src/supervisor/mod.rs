//! Two processes for one agent: the supervisor, which the service manager knows, keeps the rights
//! that a start needs and does nothing but start; and the worker that it started, which does all
//! the work and gave these rights up.
//!
//! So a reload is a start: the worker judges the new file, hands its sockets over and ends, and the
//! next one begins as any agent does that finds a running gateway. Where that one refuses, another
//! one begins with what was in force before. A worker can ask for nothing else.

mod link;
mod notify;

use std::{
    mem,
    os::fd::{AsFd as _, OwnedFd},
    process::ExitCode,
    sync::OnceLock,
};

use anyhow::{Context as _, Result};
pub use link::Link;
use link::{Ear, Message};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, raise, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getppid},
};

use crate::{clock, plane::rights};

/// What the supervisor hears of; a worker hears of them once it listens ([`listen`]).
const SIGNALS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD];

/// When the agent started, which its workers have from the supervisor.
static STARTED: OnceLock<u64> = OnceLock::new();

/// With what a worker begins.
#[derive(Debug)]
pub enum Start {
    /// With what the command line says.
    First,
    /// With what the one before it handed over.
    Reload(Vec<OwnedFd>),
    /// With what was in force before: the reload that handed this over did not get through.
    Back(Vec<OwnedFd>),
}

/// Runs `work` in a process of its own, and again each time that a worker names its successor.
/// Returns as the last worker ended; in a worker, what `work` returned.
///
/// # Errors
/// When no process or socket can be made; in a worker, those of `work`.
pub fn supervise(work: impl Fn(Link, Start) -> Result<ExitCode>) -> Result<ExitCode> {
    started();
    let signals = SIGNALS.into_iter().collect::<SigSet>();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).context("hold signals back")?;
    let (mut start, mut hangup) = (Start::First, false);
    loop {
        let (ear, link) = link::pair(notify::watchdog())?;
        let supervisor = Pid::this();
        // SAFETY: there is one thread, and the child goes on as this process does.
        match unsafe { fork() }.context("start a worker")? {
            ForkResult::Child => {
                drop(ear);
                die_with(supervisor)?;
                return work(link, start);
            }
            ForkResult::Parent { child } => {
                drop(link);
                // The first worker reads its file, and looks for a socket to send by, with all
                // rights.
                rights::keep_to_supervise()?;
                let back = match mem::replace(&mut start, Start::First) {
                    Start::Reload(files) => Some(files),
                    Start::First | Start::Back(_) => None,
                };
                let mut watch = Watch {
                    child,
                    ear,
                    back,
                    ending: false,
                    reloading: false,
                    hangup,
                    successor: None,
                };
                let ended = watch.until_end(&signals)?;
                hangup = watch.hangup;
                match watch.next(ended) {
                    Some(next) => start = next,
                    None => return Ok(as_ended(ended)),
                }
            }
        }
    }
}

/// The process that stands for the agent: a worker's supervisor, which outlives it.
pub fn process() -> u32 {
    u32::try_from(getppid().as_raw()).unwrap_or_default()
}

/// When the agent started, seconds since 1970; the same in each of its workers.
pub fn started() -> u64 {
    *STARTED.get_or_init(clock::time_of_day)
}

/// From now on this worker hears of signals, and the supervisor's are its own.
///
/// # Errors
/// Never, as it is called.
pub fn listen() -> Result<()> {
    let signals = SIGNALS.into_iter().collect::<SigSet>();
    sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&signals), None).context("listen to signals")
}

/// No worker outlives its supervisor.
fn die_with(supervisor: Pid) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("end with the supervisor")?;
    if getppid() != supervisor {
        raise(Signal::SIGKILL).context("end with the supervisor")?;
    }
    Ok(())
}

/// A worker, as its supervisor sees it.
struct Watch {
    child: Pid,
    ear: Ear,
    /// What it was handed, for another one to go back by; until its start is through.
    back: Option<Vec<OwnedFd>>,
    /// It was told to end.
    ending: bool,
    /// It judges a file, and may have read it.
    reloading: bool,
    /// A SIGHUP came that it may not have heard: it, or the next one, hears of that once it is up.
    hangup: bool,
    /// What it handed over.
    successor: Option<Vec<OwnedFd>>,
}

impl Watch {
    /// Passes on what is told to it, tells the service manager what it says, until it ends.
    fn until_end(&mut self, signals: &SigSet) -> Result<WaitStatus> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(signals, flags).context("listen to signals")?;
        loop {
            let mut said = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.ear.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut said, PollTimeout::NONE) {
                Err(nix::Error::EINTR) => continue,
                polled => polled.context("wait for the worker")?,
            };
            while let Some(signal) = signals.read_signal().context("read a signal")? {
                let signal =
                    i32::try_from(signal.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
                match signal {
                    Some(Signal::SIGCHLD) | None => {}
                    Some(signal) => self.pass_on(signal),
                }
            }
            match self.ear.hear()? {
                Some((message, files)) => self.heed(message, files),
                // It closed its end: it has ended, or is about to.
                None if self.ear.is_closed() => {
                    return waitpid(self.child, None).context("wait for the worker");
                }
                None => {}
            }
        }
    }

    fn pass_on(&mut self, signal: Signal) {
        if signal != Signal::SIGHUP && !self.ending {
            self.ending = true;
            notify::stopping();
        }
        self.hangup |= signal == Signal::SIGHUP && self.reloading;
        // One that just ended hears nothing more.
        let _ = kill(self.child, signal);
    }

    fn heed(&mut self, message: Message, files: Vec<OwnedFd>) {
        match message {
            Message::Up { status } => {
                (self.back, self.reloading) = (None, false);
                notify::ready(&status);
                if mem::take(&mut self.hangup) {
                    let _ = kill(self.child, Signal::SIGHUP);
                }
            }
            Message::Alive => notify::alive(),
            Message::Reloading => {
                self.reloading = true;
                notify::reloading();
            }
            Message::Successor => {
                // The next one's start takes its time.
                notify::alive();
                self.successor = Some(files);
            }
        }
    }

    /// What begins after it ended, if anything does.
    fn next(self, ended: WaitStatus) -> Option<Start> {
        let ended_well = matches!(ended, WaitStatus::Exited(_, 0));
        match (self.successor, self.back) {
            _ if self.ending => None,
            (Some(files), _) if ended_well => Some(Start::Reload(files)),
            (None, Some(files)) => Some(Start::Back(files)),
            _ => None,
        }
    }
}

/// The exit code of who ends as its worker did.
fn as_ended(ended: WaitStatus) -> ExitCode {
    match ended {
        WaitStatus::Exited(_, code) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        WaitStatus::Signaled(..) => {
            // Whoever waits for this process shall see that it did not end by itself.
            let _ = raise(Signal::SIGKILL);
            ExitCode::FAILURE
        }
        _ => ExitCode::FAILURE,
    }
}
