//! Asks the agent.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Reply, Request};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for something to be done.
pub fn ask(socket: &Path, request: &Request) -> Result<()> {
    match exchange(socket, request)? {
        Reply::Refused { error } => bail!("{error}"),
        Reply::Done | Reply::Agent { .. } => Ok(()),
    }
}

/// Asks who is there; `None` when nobody answers.
pub fn ask_about(socket: &Path) -> Option<(u32, String)> {
    match exchange(socket, &Request::Agent) {
        Ok(Reply::Agent { pid, version }) => Some((pid, version)),
        Ok(Reply::Done | Reply::Refused { .. }) | Err(_) => None,
    }
}

fn exchange(socket: &Path, request: &Request) -> Result<Reply> {
    let connect = || format!("reach the agent at {}: this needs a running agent (steer agent)", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(connect)?;
    stream.set_read_timeout(Some(PATIENCE)).context("set the agent a time limit")?;
    let mut line = serde_json::to_string(request).context("write the request")?;
    line.push('\n');
    stream.write_all(line.as_bytes()).context("send the request to the agent")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("wait for the agent's answer")?;
    serde_json::from_str(&answer).context("understand the agent's answer")
}
