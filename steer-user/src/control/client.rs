//! Asks the agent.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Reply, Request};
use crate::agent::checks::Warning;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer, bytes: a sentence about each backend and interface that there can be.
const ANSWER_MAX: u64 = 1 << 20;

/// Asks for something to be done.
pub fn ask(socket: &Path, request: &Request) -> Result<()> {
    match exchange(socket, request)? {
        Reply::Refused { error } => bail!("{error}"),
        Reply::Done | Reply::Agent { .. } | Reply::Warnings { .. } => Ok(()),
    }
}

/// Asks who is there; `None` when nobody answers.
pub fn ask_about(socket: &Path) -> Option<(u32, String)> {
    match exchange(socket, &Request::Agent {}) {
        Ok(Reply::Agent { pid, version }) => Some((pid, version)),
        Ok(Reply::Done | Reply::Refused { .. } | Reply::Warnings { .. }) | Err(_) => None,
    }
}

/// Asks what is wrong; nothing when nobody answers.
pub fn ask_warnings(socket: &Path) -> Vec<Warning> {
    match exchange(socket, &Request::Warnings {}) {
        Ok(Reply::Warnings { warnings }) => warnings,
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn exchange(socket: &Path, request: &Request) -> Result<Reply> {
    let connect = || format!("reach the agent at {}: this needs a running agent (steer agent)", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(connect)?;
    let limits = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    limits.context("set the agent a time limit")?;
    let mut line = serde_json::to_string(request).context("write the request")?;
    line.push('\n');
    stream.write_all(line.as_bytes()).context("send the request to the agent")?;
    let mut answer = String::new();
    match BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut answer) {
        Ok(0) => bail!("the agent at {} hung up without an answer", socket.display()),
        Ok(_) => serde_json::from_str(&answer).context("understand the agent's answer"),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!("the agent at {} did not answer within {} s", socket.display(), PATIENCE.as_secs())
        }
        Err(error) => Err(error).context("wait for the agent's answer"),
    }
}
