//! Asks the agent.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Reply, Request};
use crate::{
    agent::{
        Held,
        checks::Warning,
        reload::{Files, Given},
    },
    ha,
    plane::PinDir,
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A conversation begins anew so often where an agent hangs up, as it does at a reload.
const RELOADS: usize = 3;
/// Longest wait for a reload: tables may have to be copied.
const RELOAD_PATIENCE: Duration = Duration::from_secs(300);
/// Longest answer, bytes: a sentence about each backend and interface that there can be, and a
/// configuration with all of its characters written in six.
const ANSWER_MAX: u64 = 8 << 20;

/// Asks the agent of this gateway for something to be done; that of another one is not asked.
pub fn ask(dir: &PinDir, socket: &Path, request: &Request) -> Result<()> {
    let reply = introduced(dir, socket, |agent| agent.exchange(request))?;
    done(reply, socket)?;
    Ok(())
}

/// Has the agent of this gateway put a configuration in force: this file with this text, or its
/// own. Returns which one it is, and what it changed.
///
/// # Errors
/// With everything that is wrong with it, a line each; nothing was changed then.
pub fn ask_reload(
    dir: &PinDir,
    socket: &Path,
    file: Option<(PathBuf, String)>,
    force: bool,
) -> Result<(PathBuf, Vec<String>)> {
    let (file, text) = file.unzip();
    let length = text.as_ref().map(|text| u32::try_from(text.len())).transpose();
    let length = length.context("send a file so long")?;
    let (request, text) = (Request::Reload { file, length, force }, text.unwrap_or_default());
    let reply = introduced(dir, socket, |agent| {
        agent.wait(RELOAD_PATIENCE)?;
        agent.exchange_with(&request, &text)
    })?;
    match done(reply, socket)? {
        Reply::Reloaded { file, changes } => Ok((file, changes)),
        _ => Err(no_agent(socket)),
    }
}

/// What is in force at this gateway, and what its agent reads at a reload.
///
/// # Errors
/// Without its agent.
pub fn ask_config(dir: &PinDir, socket: &Path) -> Result<InForce> {
    let reply = introduced(dir, socket, |agent| agent.exchange(&Request::Config {}))?;
    match done(reply, socket)? {
        Reply::Config { file, text, own, pin_dir, socket } => {
            let files = Files { own, pin_dir, socket };
            Ok(InForce { given: Given { file, text }, files })
        }
        _ => Err(no_agent(socket)),
    }
}

/// A reply that is no refusal.
fn done(reply: Reply, socket: &Path) -> Result<Reply> {
    match reply {
        Reply::Refused { error } => bail!("{error}"),
        Reply::Agent { .. } => Err(no_agent(socket)),
        reply => Ok(reply),
    }
}

fn no_agent(socket: &Path) -> anyhow::Error {
    anyhow!("who listens at {} is no agent of steer", socket.display())
}

/// What an agent has in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InForce {
    /// As it was given.
    pub given: Given,
    /// What it reads at a reload.
    pub files: Files,
}

/// A conversation with the agent of this gateway. At a reload it hangs up: then there is another
/// one with whoever answers next.
fn introduced<T>(
    dir: &PinDir,
    socket: &Path,
    talk: impl Fn(&mut Connection) -> Result<T>,
) -> Result<T> {
    let converse = || {
        let mut agent = Connection::open(socket)?;
        match agent.exchange(&Request::Agent {})? {
            Reply::Agent { pin_dir, .. } => refuse_other(dir, socket, &pin_dir)?,
            _ => return Err(no_agent(socket)),
        }
        talk(&mut agent)
    };
    let mut tried = converse();
    for _ in 0..RELOADS {
        match tried {
            Err(error) if error.is::<HungUp>() => tried = converse(),
            done => return done,
        }
    }
    tried
}

/// The agent ended a conversation without an answer.
#[derive(Debug)]
struct HungUp(PathBuf);

impl fmt::Display for HungUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the agent at {} hung up without an answer", self.0.display())
    }
}

impl std::error::Error for HungUp {}

/// Asks the agent of this gateway who it is; `None` when nobody answers, or the agent of another
/// gateway.
pub fn ask_about(dir: &PinDir, socket: &Path) -> Option<(u32, String)> {
    match Connection::open(socket).and_then(|mut agent| agent.exchange(&Request::Agent {})) {
        Ok(Reply::Agent { pid, version, pin_dir }) if is_same(dir, &pin_dir) => {
            Some((pid, version))
        }
        Ok(_) | Err(_) => None,
    }
}

/// Asks what is wrong; nothing when nobody answers.
pub fn ask_warnings(socket: &Path) -> Vec<Warning> {
    match Connection::open(socket).and_then(|mut agent| agent.exchange(&Request::Warnings {})) {
        Ok(Reply::Warnings { warnings }) => warnings,
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// Asks the agent of this gateway what backends hold; `None` while it has not counted.
///
/// # Errors
/// When nobody answers, or the agent of another gateway.
pub fn ask_held(dir: &PinDir, socket: &Path) -> Result<Option<Held>> {
    let reply = introduced(dir, socket, |agent| agent.exchange(&Request::Held {}))?;
    match done(reply, socket)? {
        Reply::Held { held } => Ok(held),
        _ => Err(no_agent(socket)),
    }
}

/// Asks how replication goes; `None` where there is none.
///
/// # Errors
/// When nobody answers, or the agent of another gateway.
pub fn ask_ha(dir: &PinDir, socket: &Path) -> Result<Option<ha::Report>> {
    let reply = introduced(dir, socket, |agent| agent.exchange(&Request::Ha {}))?;
    match done(reply, socket)? {
        Reply::Ha { ha } => Ok(ha),
        _ => Err(no_agent(socket)),
    }
}

fn is_same(dir: &PinDir, pin_dir: &Path) -> bool {
    let whole = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    whole(dir.root()) == whole(pin_dir)
}

fn refuse_other(dir: &PinDir, socket: &Path, pin_dir: &Path) -> Result<()> {
    if is_same(dir, pin_dir) {
        return Ok(());
    }
    bail!(
        "the agent at {} is that of the gateway at {}, not at {}: leave --socket out, or name the one that belongs to --pin-dir",
        socket.display(),
        pin_dir.display(),
        dir.root().display()
    )
}

/// A conversation with an agent.
struct Connection {
    socket: PathBuf,
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    patience: Duration,
}

impl Connection {
    fn open(socket: &Path) -> Result<Self> {
        let connect = || {
            format!(
                "reach the agent at {}: this needs a running agent (steer agent)",
                socket.display()
            )
        };
        let stream = UnixStream::connect(socket).with_context(connect)?;
        let answers = BufReader::new(stream.try_clone().context("listen to the agent")?);
        let agent = Self { socket: socket.to_owned(), stream, answers, patience: PATIENCE };
        agent.stream.set_write_timeout(Some(PATIENCE)).context("set the agent a time limit")?;
        agent.stream.set_read_timeout(Some(PATIENCE)).context("set the agent a time limit")?;
        Ok(agent)
    }

    /// Waits so long for the next answers.
    fn wait(&mut self, patience: Duration) -> Result<()> {
        self.patience = patience;
        self.stream.set_read_timeout(Some(patience)).context("set the agent a time limit")
    }

    fn exchange(&mut self, request: &Request) -> Result<Reply> {
        self.exchange_with(request, "")
    }

    /// `behind` follows the request.
    fn exchange_with(&mut self, request: &Request, behind: &str) -> Result<Reply> {
        let mut line = serde_json::to_string(request).context("write the request")?;
        line.push('\n');
        line.push_str(behind);
        match self.stream.write_all(line.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                return Err(HungUp(self.socket.clone()).into());
            }
            sent => sent.context("send the request to the agent")?,
        }
        let mut answer = String::new();
        match (&mut self.answers).take(ANSWER_MAX).read_line(&mut answer) {
            Ok(0) => Err(HungUp(self.socket.clone()).into()),
            Ok(_) => serde_json::from_str(&answer).context("understand the agent's answer"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                Err(HungUp(self.socket.clone()).into())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let (socket, patience) = (self.socket.display(), self.patience.as_secs());
                bail!("the agent at {socket} did not answer within {patience} s")
            }
            Err(error) => Err(error).context("wait for the agent's answer"),
        }
    }
}
