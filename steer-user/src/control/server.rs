//! Serves the socket in the agent.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{
        Notify,
        mpsc::{Sender, error::TrySendError},
    },
    time,
};

use super::{REQUEST_MAX, Reply, Request};
use crate::{
    agent::{
        Pools,
        checks::Standing,
        reload::{Files, Given, Wish},
    },
    config::FILE_MAX,
    connection_limit::ConnectionLimit,
    ha, supervisor,
};

/// Only the agent's own user may ask.
const MODE: u32 = 0o600;
/// Only the agent's own user may write beside the socket.
const DIRECTORY_MODE: u32 = 0o755;
/// Connections at a time.
const MAX_CONNECTIONS: usize = 256;
/// Longest wait for a request, and for its answer to be read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The open socket; its file goes with it, unless another one listens on.
pub(crate) struct Listener {
    inner: UnixListener,
    socket: PathBuf,
    /// Of the gateway whose agent listens.
    pin_dir: PathBuf,
    /// Whether the file goes.
    removes: AtomicBool,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.removes.load(Ordering::Relaxed) {
            remove_socket(&self.socket);
        }
    }
}

impl Listener {
    /// Listens on where another worker of this agent did, at the same file, which stays until
    /// [`Listener::keep`].
    pub(crate) fn inherit(listener: OwnedFd, socket: &Path, pin_dir: &Path) -> Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        let inner = UnixListener::from_std(listener).context("listen on at the control socket")?;
        let (socket, pin_dir) = (socket.to_owned(), pin_dir.to_owned());
        Ok(Self { inner, socket, pin_dir, removes: AtomicBool::new(false) })
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// From now on the file is this listener's, and goes with it.
    pub(crate) fn keep(&self) {
        self.removes.store(true, Ordering::Relaxed);
    }

    /// For another worker of this agent, which listens on.
    pub(crate) fn hand_over(&self) -> Result<OwnedFd> {
        self.removes.store(false, Ordering::Relaxed);
        self.inner.as_fd().try_clone_to_owned().context("hand the control socket over")
    }
}

/// Opens the socket. What an agent that was killed left there is replaced; a living agent is not
/// disturbed, and neither is a file of somebody else.
pub(crate) fn bind(socket: &Path, pin_dir: &Path) -> Result<Listener> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        bail!("another agent listens at {}; set socket to another path", socket.display());
    }
    refuse_file_in_place(socket)?;
    if let Some(directory) = socket.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
        made.with_context(|| format!("create {}", directory.display()))?;
    }
    // Bound aside and renamed: nobody meets the socket before it has its mode, or in a moment
    // without one.
    let mut aside = socket.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    remove_socket(&aside);
    let inner =
        UnixListener::bind(&aside).with_context(|| format!("listen at {}", socket.display()))?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(MODE))
        .context("restrict the control socket")?;
    fs::rename(&aside, socket).with_context(|| format!("listen at {}", socket.display()))?;
    let (socket, pin_dir) = (socket.to_owned(), pin_dir.to_owned());
    Ok(Listener { inner, socket, pin_dir, removes: AtomicBool::new(true) })
}

/// Refuses to take the place of what is no socket.
pub(crate) fn refuse_file_in_place(socket: &Path) -> Result<()> {
    if fs::symlink_metadata(socket).is_ok_and(|found| !found.file_type().is_socket()) {
        bail!("{} is there and is no socket; set socket to another path", socket.display());
    }
    Ok(())
}

/// Removes a socket at which nobody listens any more; anything else stays.
pub(crate) fn remove_dead_socket(socket: &Path) {
    let is_socket = fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(socket).is_err() {
        remove_socket(socket);
    }
}

/// Removes the socket, if it is there.
fn remove_socket(socket: &Path) {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("remove {}: {error}", socket.display())
        }
        Ok(()) | Err(_) => {}
    }
}

/// Whom requests are about.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) pools: Arc<Mutex<Pools>>,
    pub(crate) stop: Arc<Notify>,
    pub(crate) standing: Standing,
    /// What is in force.
    pub(crate) given: Arc<Given>,
    /// What the agent was started with.
    pub(crate) files: Arc<Files>,
    /// Who wants a configuration put in force.
    pub(crate) wishes: Sender<Wish>,
    /// How replication goes, where there is any.
    pub(crate) replication: Option<ha::Shared>,
}

/// Answers for ever.
pub(crate) async fn serve(listener: Arc<Listener>, desk: Desk) -> Result<()> {
    let mut connection_limit = ConnectionLimit::new(MAX_CONNECTIONS);
    loop {
        let stream = match listener.inner.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or the like: it passes.
                log::warn!("accept a request: {error}");
                time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (desk, pin_dir) = (desk.clone(), listener.pin_dir.clone());
        let conversation = async move {
            if let Err(error) = attend(stream, &desk, &pin_dir).await {
                log::debug!("control socket: {error:#}");
            }
        };
        connection_limit.admit(conversation).await;
    }
}

/// Answers whoever came; who wants a reload is handed on.
async fn attend(stream: UnixStream, desk: &Desk, pin_dir: &Path) -> Result<()> {
    let who = asker(&stream);
    let answer = |request: &Request| {
        let (asked, level) = (serde_json::to_string(request).unwrap_or_default(), level(request));
        let reply = answer(request, pin_dir, desk);
        match &reply {
            Some(Reply::Refused { error }) => log::warn!("{who} asked {asked}: refused: {error}"),
            Some(_) => log::log!(level, "{who} asked {asked}: done"),
            None => log::info!("{who} asked {asked}"),
        }
        reply
    };
    let Some((request, mut stream)) = converse(stream, answer).await? else { return Ok(()) };
    let Request::Reload { file, length, force } = request else { return Ok(()) };
    let text = match length {
        Some(length) => Some(text_behind(&mut stream, length).await?),
        None => None,
    };
    let given = file.zip(text).map(|(file, text)| Given { file, text });
    let wish = Wish { given, force, caller: Some(stream.into_inner()) };
    match desk.wishes.try_send(wish) {
        Err(TrySendError::Full(wish)) => {
            wish.refuse("reloads are under way already: try again when they are through").await;
        }
        // This worker is about to end. Who asked comes again, to the next one.
        Ok(()) | Err(TrySendError::Closed(_)) => {}
    }
    Ok(())
}

/// The text of a file that follows a request.
async fn text_behind(stream: &mut BufReader<UnixStream>, length: u32) -> Result<String> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    anyhow::ensure!(length <= FILE_MAX, "a file of {length} bytes is no configuration");
    let mut text = vec![0; length];
    let reading = time::timeout(PATIENCE, stream.read_exact(&mut text)).await;
    reading.context("wait for a file")?.context("read a file")?;
    String::from_utf8(text).context("read a file")
}

/// Answers line by line, until there is no answer: then the request and who asked. What does not
/// end in time is ended; behind a line that is too long nothing is read.
async fn converse(
    stream: UnixStream,
    mut answer: impl FnMut(&Request) -> Option<Reply>,
) -> Result<Option<(Request, BufReader<UnixStream>)>> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(REQUEST_MAX as u64);
        let reading = time::timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await;
        if reading.context("wait for a request")?.context("read a request")? == 0 {
            return Ok(None);
        }
        let reply = match Request::parse(&line) {
            Err(error) => Reply::Refused { error },
            Ok(request) => match answer(&request) {
                Some(reply) => reply,
                None => return Ok(Some((request, stream))),
            },
        };
        send(stream.get_mut(), &reply).await?;
        if !line.ends_with(b"\n") {
            return Ok(None);
        }
    }
}

/// Sends an answer.
///
/// # Errors
/// When it is not read in time.
pub(crate) async fn send(stream: &mut UnixStream, reply: &Reply) -> Result<()> {
    let mut text = serde_json::to_string(reply).context("write an answer")?;
    text.push('\n');
    let writing = time::timeout(PATIENCE, stream.write_all(text.as_bytes())).await;
    writing.context("wait for an answer to be read")?.context("send an answer")
}

/// Who is at the other end, for the log (SO_PEERCRED of unix(7)).
fn asker(stream: &UnixStream) -> String {
    stream.peer_cred().map_or_else(
        |_| "somebody".to_owned(),
        |who| format!("user {} (process {})", who.uid(), who.pid().unwrap_or_default()),
    )
}

/// What only looks is told to who debugs.
fn level(request: &Request) -> log::Level {
    use Request::{Agent, Config, Ha, Held, Warnings};
    if matches!(request, Agent {} | Warnings {} | Held {} | Config {} | Ha {}) {
        log::Level::Debug
    } else {
        log::Level::Info
    }
}

/// `None` of what is not answered here.
fn answer(request: &Request, pin_dir: &Path, desk: &Desk) -> Option<Reply> {
    let mut pools = desk.pools.lock().unwrap_or_else(PoisonError::into_inner);
    let done = match *request {
        Request::Agent {} => {
            return Some(Reply::Agent {
                pid: supervisor::process(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pin_dir: pin_dir.to_owned(),
            });
        }
        Request::Warnings {} => {
            return Some(Reply::Warnings { warnings: desk.standing.all().into_iter().collect() });
        }
        Request::Ha {} => {
            return Some(Reply::Ha { ha: desk.replication.as_ref().map(ha::Shared::report) });
        }
        Request::Held {} => return Some(Reply::Held { held: pools.held().cloned() }),
        Request::Config {} => {
            let Given { file, text } = Given::clone(&desk.given);
            let Files { own, pin_dir, socket } = Files::clone(&desk.files);
            return Some(Reply::Config { file, text, own, pin_dir, socket });
        }
        Request::Reload { file: ref named, length, .. } if named.is_some() != length.is_some() => {
            Err(anyhow!("`file` and `length` go together"))
        }
        Request::Reload { .. } => return None,
        Request::AddBackend { vip, address, weight } => pools.add(vip, address, weight),
        Request::RemoveBackend { address } => pools.remove(address),
        Request::DrainBackend { address, seconds } => {
            pools.drain(address, seconds.map(Duration::from_secs))
        }
        Request::UndrainBackend { address } => pools.undrain(address),
        Request::DisableBackend { address } => pools.disable(address),
        Request::OffBackend { address } => pools.force_off(address),
        Request::EnableBackend { address } => pools.enable(address),
        Request::EndLeave {} => pools.end_leave(),
        Request::Stop {} => {
            desk.stop.notify_one();
            Ok(())
        }
    };
    Some(done.map_or_else(|error| Reply::Refused { error: format!("{error:#}") }, |()| Reply::Done))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// What a server that can do everything answers to these bytes, until it hangs up.
    async fn said(asked: &[u8], hang_up: bool) -> Vec<Reply> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let server = tokio::spawn(converse(theirs, |_| Some(Reply::Done)));
        // A server that hung up in the middle has said why.
        let _ = ours.write_all(asked).await;
        if hang_up {
            ours.shutdown().await.unwrap();
        }
        let mut text = Vec::new();
        let _ = ours.read_to_end(&mut text).await;
        let _ = server.await.unwrap();
        text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(reply).collect()
    }

    fn reply(line: &[u8]) -> Reply {
        serde_json::from_slice(line).unwrap()
    }

    /// Whatever a socket is called, it is nobody's place to be bound aside.
    #[tokio::test]
    async fn sockets_of_one_directory_leave_each_other_in_place() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let listens = |name| std::os::unix::net::UnixStream::connect(at(name)).is_ok();
        let names = ["gw", "gw.new", "gw.sock", "gw.sock.new", "other.sock"];
        let bind = |name: &&str| bind(&at(name), directory.path());
        let listeners = names.iter().map(bind).collect::<Result<Vec<_>>>()?;
        assert!(names.into_iter().all(listens), "one took the place of another");
        assert_eq!(fs::read_dir(directory.path())?.count(), names.len());
        drop(listeners);
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        Ok(())
    }

    #[tokio::test]
    async fn requests_are_answered_one_by_one_also_behind_garbage() {
        let replies = said(b"{\"verb\":\"agent\"}\n\xff\xfe\n\n{\"verb\":\"stop\"}\n", true).await;
        assert!(matches!(
            replies[..],
            [Reply::Done, Reply::Refused { .. }, Reply::Refused { .. }, Reply::Done]
        ));
    }

    #[tokio::test]
    async fn a_request_without_end_of_line_is_the_last_one() {
        assert_eq!(said(b"{\"verb\":\"stop\"}", true).await, [Reply::Done]);
        assert!(matches!(said(b"{\"verb\":\"st", true).await[..], [Reply::Refused { .. }]));
    }

    #[tokio::test]
    async fn behind_a_line_that_is_too_long_nothing_is_read() {
        let huge = [&vec![b' '; REQUEST_MAX][..], b"{\"verb\":\"stop\"}\n"].concat();
        let replies = said(&huge, false).await;
        assert!(
            matches!(&replies[..], [Reply::Refused { error }] if error.contains("longer than 4096")),
            "{replies:?}"
        );
        let million = said(&vec![b'['; 1 << 20], false).await;
        assert!(matches!(&million[..], [] | [Reply::Refused { .. }]), "{million:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_half_a_request_is_hung_up_on() {
        for asked in [&b""[..], b"{\"verb\":"] {
            let start = time::Instant::now();
            assert_eq!(said(asked, false).await, []);
            assert!((PATIENCE..PATIENCE * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_answers_is_hung_up_on() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let server = tokio::spawn(converse(theirs, |_| {
            Some(Reply::Refused { error: "no ".repeat(10_000) })
        }));
        let asking =
            tokio::spawn(
                async move { while ours.write_all(b"{\"verb\":\"stop\"}\n").await.is_ok() {} },
            );
        assert!(server.await.unwrap().unwrap_err().to_string().contains("answer to be read"));
        asking.await.unwrap();
    }
}
