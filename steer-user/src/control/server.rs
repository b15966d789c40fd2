//! Serves the socket in the agent.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Notify,
};

use super::{Reply, Request};
use crate::agent::Pools;

/// Only the agent's own user may ask.
const MODE: u32 = 0o600;
/// Only the agent's own user may write beside the socket.
const DIRECTORY_MODE: u32 = 0o755;
/// Longest request, bytes.
const REQUEST_MAX: u64 = 4096;

/// The open socket; its file goes with it.
pub(crate) struct Listener {
    inner: UnixListener,
    socket: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        remove_socket(&self.socket);
    }
}

/// Opens the socket. What an agent that was killed left there is replaced; a living agent is not disturbed, and neither
/// is a file of somebody else.
pub(crate) fn bind(socket: &Path) -> Result<Listener> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        bail!("another agent listens at {}; set socket to another path", socket.display());
    }
    if fs::symlink_metadata(socket).is_ok_and(|found| !found.file_type().is_socket()) {
        bail!("{} is there and is no socket; set socket to another path", socket.display());
    }
    if let Some(directory) = socket.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
        made.with_context(|| format!("create {}", directory.display()))?;
    }
    // Bound aside and renamed: nobody meets the socket before it has its mode, or in a moment without one.
    let aside = socket.with_extension("new");
    remove_socket(&aside);
    let inner = UnixListener::bind(&aside).with_context(|| format!("listen at {}", socket.display()))?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(MODE)).context("restrict the control socket")?;
    fs::rename(&aside, socket).with_context(|| format!("listen at {}", socket.display()))?;
    Ok(Listener { inner, socket: socket.to_owned() })
}

/// Removes the socket, if it is there.
pub(crate) fn remove_socket(socket: &Path) {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => log::warn!("remove {}: {error}", socket.display()),
        Ok(()) | Err(_) => {}
    }
}

/// Answers for ever.
pub(crate) async fn serve(listener: Listener, pools: Arc<Mutex<Pools>>, stop: Arc<Notify>) -> Result<()> {
    loop {
        let stream = match listener.inner.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or the like: it passes.
                log::warn!("accept a request: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (pools, stop) = (Arc::clone(&pools), Arc::clone(&stop));
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &pools, &stop).await {
                log::debug!("control socket: {error:#}");
            }
        });
    }
}

async fn converse(stream: UnixStream, pools: &Mutex<Pools>, stop: &Notify) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        if (&mut read).take(REQUEST_MAX).read_line(&mut line).await.context("read a request")? == 0 {
            return Ok(());
        }
        let reply = answer(&line, pools, stop);
        let mut text = serde_json::to_string(&reply).context("write an answer")?;
        text.push('\n');
        write.write_all(text.as_bytes()).await.context("send an answer")?;
    }
}

fn answer(line: &str, pools: &Mutex<Pools>, stop: &Notify) -> Reply {
    let request = match serde_json::from_str(line) {
        Ok(request) => request,
        Err(error) => return Reply::Refused { error: format!("no request of ours: {error}") },
    };
    let level = if request == Request::Agent { log::Level::Debug } else { log::Level::Info };
    log::log!(level, "asked: {request:?}");
    let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
    let done = match request {
        Request::Agent => {
            return Reply::Agent { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() };
        }
        Request::AddBackend { vip, address, weight } => pools.add(vip, address, weight),
        Request::RemoveBackend { address } => pools.remove(address),
        Request::DrainBackend { address, seconds } => pools.drain(address, seconds.map(Duration::from_secs)),
        Request::UndrainBackend { address } => pools.undrain(address),
        Request::Stop => {
            stop.notify_one();
            Ok(())
        }
    };
    done.map_or_else(|error| Reply::Refused { error: format!("{error:#}") }, |()| Reply::Done)
}
