//! Asks the agent.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Reply, Request};
use crate::{
    agent::{Held, checks::Warning},
    plane::PinDir,
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer, bytes: a sentence about each backend and interface that there can be.
const ANSWER_MAX: u64 = 1 << 20;

/// Asks the agent of this gateway for something to be done; that of another one is not asked.
pub fn ask(dir: &PinDir, socket: &Path, request: &Request) -> Result<()> {
    let mut agent = Connection::open(socket)?;
    match agent.exchange(&Request::Agent {})? {
        Reply::Agent { pin_dir, .. } => refuse_other(dir, socket, &pin_dir)?,
        _ => bail!("who listens at {} is no agent of steer", socket.display()),
    }
    match agent.exchange(request)? {
        Reply::Refused { error } => bail!("{error}"),
        Reply::Done | Reply::Agent { .. } | Reply::Warnings { .. } | Reply::Held { .. } => Ok(()),
    }
}

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
    let mut agent = Connection::open(socket)?;
    match agent.exchange(&Request::Agent {})? {
        Reply::Agent { pin_dir, .. } => refuse_other(dir, socket, &pin_dir)?,
        _ => bail!("who listens at {} is no agent of steer", socket.display()),
    }
    match agent.exchange(&Request::Held {})? {
        Reply::Held { held } => Ok(held),
        Reply::Refused { error } => bail!("{error}"),
        _ => bail!("the agent at {} answered something else", socket.display()),
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
        let limits = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        limits.context("set the agent a time limit")?;
        let answers = BufReader::new(stream.try_clone().context("listen to the agent")?);
        Ok(Self { socket: socket.to_owned(), stream, answers })
    }

    fn exchange(&mut self, request: &Request) -> Result<Reply> {
        let mut line = serde_json::to_string(request).context("write the request")?;
        line.push('\n');
        self.stream.write_all(line.as_bytes()).context("send the request to the agent")?;
        let (mut answer, socket) = (String::new(), self.socket.display());
        match (&mut self.answers).take(ANSWER_MAX).read_line(&mut answer) {
            Ok(0) => bail!("the agent at {socket} hung up without an answer"),
            Ok(_) => serde_json::from_str(&answer).context("understand the agent's answer"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("the agent at {socket} did not answer within {} s", PATIENCE.as_secs())
            }
            Err(error) => Err(error).context("wait for the agent's answer"),
        }
    }
}
