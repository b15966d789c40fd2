//! Another configuration while the agent runs: judged as a start judges, by the worker that serves,
//! and then put in force by a start, in a worker of its own ([`crate::supervisor`]). That one gets
//! the lock, the sockets and whoever asked; where it refuses, another one gets them that begins with
//! what was in force.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{Read as _, Seek as _, Write as _},
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixStream};

use super::{Running, start};
use crate::{
    config::{self, Config, Ha, Health, differences},
    control::{self, Reply},
    export,
    plane::{Lock, PinDir},
};

/// A configuration as it was given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Given {
    /// Where it stood.
    pub file: PathBuf,
    /// What stood there.
    pub text: String,
}

/// Where configurations come from, and what the command line says about the place, which wins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// What is read unless another file is given.
    pub own: PathBuf,
    /// Directory of the pins.
    pub pin_dir: Option<PathBuf>,
    /// The control socket.
    pub socket: Option<PathBuf>,
}

impl Files {
    /// Reads the agent's own file.
    ///
    /// # Errors
    /// Where it cannot be read, or is no text.
    pub fn own(&self) -> Result<Given> {
        Ok(Given { file: self.own.clone(), text: config::read_file(&self.own)? })
    }

    /// What a file says.
    ///
    /// # Errors
    /// With everything that is wrong with it.
    pub fn config(&self, given: &Given) -> Result<Config> {
        let mut config = Config::parse_all(&given.file, &given.text)?;
        if let Some(pin_dir) = self.pin_dir.clone() {
            config = config.pinned_at(pin_dir);
        }
        config.socket = self.socket.clone().unwrap_or(config.socket);
        let socket = std::path::absolute(&config.socket);
        config.socket = socket.context("find the directory of the socket")?;
        Ok(config)
    }
}

/// Somebody wants a configuration put in force.
#[derive(Debug)]
pub(crate) struct Wish {
    /// `None`: the agent's own file, as it is now.
    pub(crate) given: Option<Given>,
    /// Even where that destroys what tables hold.
    pub(crate) force: bool,
    /// Who waits for an answer; nobody behind a signal.
    pub(crate) caller: Option<UnixStream>,
}

impl Wish {
    /// What SIGHUP means.
    pub(super) fn of_signal() -> Self {
        Self { given: None, force: false, caller: None }
    }

    /// Tells who waits that nothing was done.
    pub(crate) async fn refuse(self, why: &str) {
        answer(self.caller, &Reply::Refused { error: why.to_owned() }).await;
    }
}

/// Answers who waits; whoever went away has seen enough.
async fn answer(caller: Option<UnixStream>, reply: &Reply) {
    let Some(mut caller) = caller else { return };
    if let Err(error) = control::send(&mut caller, reply).await {
        log::debug!("control socket: {error:#}");
    }
}

/// What is in force.
pub(super) struct InForce<'a> {
    pub(super) files: &'a Files,
    pub(super) given: &'a Given,
    /// As it was given, not as it can be here.
    pub(super) config: &'a Config,
    /// What stood in the files that it names, when it was put in force.
    pub(super) read: &'a Contents,
}

/// What is to be in force.
pub(super) struct Next {
    given: Given,
    /// What it changes, as sentences.
    changes: Vec<String>,
    /// The control socket, where that is another one.
    control: Option<control::Listener>,
    /// The port for metrics, where that is another one.
    metrics: Option<(SocketAddr, TcpListener)>,
}

impl InForce<'_> {
    /// Judges a configuration as a start does, and opens what it wants opened; nothing else is
    /// touched. `None` where it changes nothing.
    ///
    /// # Errors
    /// Where such a start would be refused.
    pub(super) async fn judge(&self, given: Given, force: bool) -> Result<Option<Next>> {
        let config = self.files.config(&given)?;
        let file = given.file.display();
        if config.pin_dir != self.config.pin_dir {
            bail!(
                "{file}: pin_dir: {}; expected {} as long as this agent runs: another place is another gateway",
                config.pin_dir.display(),
                self.config.pin_dir.display()
            );
        }
        let changes = differences(self.config, &config);
        let mut changes = changes.iter().map(|said| applied(said)).collect::<Vec<_>>();
        changes.extend(self.read.differences(&Contents::of(&config)));
        if changes.is_empty() {
            return Ok(None);
        }
        let dir = PinDir::new(&config.pin_dir);
        start::look(&config, &dir, force).await.with_context(|| format!("{file}: refused"))?;
        let control = match config.socket == self.config.socket {
            true => None,
            false => Some(control::bind(&config.socket, dir.root())?),
        };
        let metrics = match config.metrics.filter(|at| Some(*at) != self.config.metrics) {
            Some(address) => Some((address, export::bind(address).await?)),
            None => None,
        };
        Ok(Some(Next { given, changes, control, metrics }))
    }

    /// What the next worker gets.
    ///
    /// # Errors
    /// Without a descriptor or memory.
    pub(super) fn hand_over(
        &self,
        running: &Running,
        next: &Next,
        wish: Wish,
        waiting: Vec<Wish>,
    ) -> Result<Vec<OwnedFd>> {
        let Wish { force, caller, .. } = wish;
        let mut handed = vec![
            (Kind::Lock, running.lock.hand_over()?),
            (Kind::Control(running.listener.socket().to_owned()), running.listener.hand_over()?),
        ];
        if let Some((address, listener)) = &running.metrics {
            handed.push((Kind::Metrics(*address), listener.as_fd().try_clone_to_owned()?));
        }
        if let Some(listener) = &next.control {
            handed.push((Kind::Control(listener.socket().to_owned()), listener.hand_over()?));
        }
        if let Some((address, listener)) = &next.metrics {
            handed.push((Kind::Metrics(*address), listener.as_fd().try_clone_to_owned()?));
        }
        if let Some(caller) = caller {
            let caller = caller.into_std().context("hand over who asked")?;
            handed.push((Kind::Caller, caller.into()));
        }
        for Wish { given, force, caller } in waiting {
            // A signal that came meanwhile asks for what is judged again anyway.
            let Some(caller) = caller else { continue };
            let caller = caller.into_std().context("hand over who waits")?;
            handed.push((Kind::Waiting { given, force }, caller.into()));
        }
        let (kinds, mut files): (Vec<_>, Vec<_>) = handed.into_iter().unzip();
        let (new, old, changes) = (next.given.clone(), self.given.clone(), next.changes.clone());
        let head = Head { new, old, force, changes, kinds };
        files.insert(0, head.write()?);
        Ok(files)
    }
}

/// What stands in the files that a configuration names: certificates and keys of health checks, as
/// hashes; nothing of one that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Contents(BTreeMap<PathBuf, Option<u64>>);

impl Contents {
    /// Reads them.
    pub(super) fn of(config: &Config) -> Self {
        let health = config.pools.iter().map(|pool| &pool.health);
        let tls = health.filter_map(|health| match health {
            Health::Probes(probes) => probes.tls.as_deref(),
            Health::Off | Health::Seen => None,
        });
        let files = tls.flat_map(|tls| [&tls.ca, &tls.certificate, &tls.key]).flatten();
        let files = files.chain(config.ha.iter().flat_map(Ha::files));
        let hash = |file: &PathBuf| {
            let mut hasher = DefaultHasher::new();
            fs::read(file).ok()?.hash(&mut hasher);
            Some(hasher.finish())
        };
        Self(files.map(|file| (file.clone(), hash(file))).collect())
    }

    /// Which of the files that both name say something else now, as sentences.
    fn differences(&self, now: &Self) -> Vec<String> {
        let others = now
            .0
            .iter()
            .filter(|(file, hash)| self.0.get(*file).is_some_and(|before| before != *hash));
        others.map(|(file, _)| format!("{} has other contents", file.display())).collect()
    }
}

/// What is told of a difference once it is in force.
fn applied(difference: &str) -> String {
    difference.replacen(" would be ", " is ", 1).replacen(" would have ", " has ", 1)
}

/// What one worker tells the next, in memory that goes from hand to hand.
#[derive(Serialize, Deserialize)]
struct Head {
    new: Given,
    old: Given,
    force: bool,
    changes: Vec<String>,
    /// Of every other file, in order.
    kinds: Vec<Kind>,
}

/// What a file is that is handed over.
#[derive(Serialize, Deserialize)]
enum Kind {
    /// The lock of the pin directory.
    Lock,
    /// The control socket at this path.
    Control(PathBuf),
    /// The port for metrics.
    Metrics(SocketAddr),
    /// Who asked.
    Caller,
    /// Who asked for another reload meanwhile, and for which one.
    Waiting { given: Option<Given>, force: bool },
}

impl Head {
    fn write(&self) -> Result<OwnedFd> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let memory = rustix::fs::memfd_create("steer-reload", flags);
        let mut memory = File::from(memory.context("get memory to hand over")?);
        let text = serde_json::to_vec(self).context("write what is handed over")?;
        memory.write_all(&text).context("write what is handed over")?;
        Ok(memory.into())
    }

    fn read(memory: OwnedFd) -> Result<Self> {
        let (mut memory, mut text) = (File::from(memory), Vec::new());
        memory.rewind().context("read what was handed over")?;
        memory.read_to_end(&mut text).context("read what was handed over")?;
        serde_json::from_slice(&text).context("understand what was handed over")
    }
}

/// What this worker got of the one before it; nothing, of the first.
#[derive(Default)]
pub(super) struct Inherited {
    lock: Option<OwnedFd>,
    controls: Vec<(PathBuf, OwnedFd)>,
    metrics: Vec<(SocketAddr, OwnedFd)>,
    /// Who asked for something else meanwhile.
    waiting: Vec<Wish>,
}

/// A reload on its way, in the worker that is to serve after it.
pub(super) struct Reload {
    pub(super) new: Given,
    pub(super) old: Given,
    pub(super) force: bool,
    changes: Vec<String>,
    caller: Option<UnixStream>,
}

/// Takes what was handed over.
///
/// # Errors
/// Where it is not whole.
pub(super) fn take(files: Vec<OwnedFd>) -> Result<(Reload, Inherited)> {
    let mut files = files.into_iter();
    let head = Head::read(files.next().context("take what was handed over")?)?;
    let (mut inherited, mut caller) = (Inherited::default(), None);
    for (kind, file) in head.kinds.into_iter().zip(files) {
        match kind {
            Kind::Lock => inherited.lock = Some(file),
            Kind::Control(path) => inherited.controls.push((path, file)),
            Kind::Metrics(address) => inherited.metrics.push((address, file)),
            Kind::Caller => caller = Some(UnixStream::from_std(file.into())?),
            Kind::Waiting { given, force } => {
                let caller = Some(UnixStream::from_std(file.into())?);
                inherited.waiting.push(Wish { given, force, caller });
            }
        }
    }
    let Head { new, old, force, changes, .. } = head;
    Ok((Reload { new, old, force, changes, caller }, inherited))
}

impl Inherited {
    /// Lets go of the lock for this worker to take it: who looks for its holder finds a process.
    pub(super) fn unlock(&mut self) -> Result<()> {
        self.lock.take().map_or(Ok(()), Lock::give_up)
    }

    /// The control socket, listening already or opened now.
    pub(super) fn control(&mut self, socket: &Path, dir: &PinDir) -> Result<control::Listener> {
        match self.controls.iter().position(|(path, _)| path == socket) {
            Some(at) => {
                let (path, file) = self.controls.remove(at);
                control::Listener::inherit(file, &path, dir.root())
            }
            None => control::bind(socket, dir.root()),
        }
    }

    /// The port for metrics, listening already or opened now.
    pub(super) async fn metrics(&mut self, address: SocketAddr) -> Result<TcpListener> {
        match self.metrics.iter().position(|(other, _)| *other == address) {
            Some(at) => {
                let (_, file) = self.metrics.remove(at);
                TcpListener::from_std(file.into()).context("listen on for metrics")
            }
            None => export::bind(address).await,
        }
    }

    /// Closes what nobody wants any more; returns who waits.
    pub(super) fn close(self, dir: &PinDir) -> Result<Vec<Wish>> {
        for (path, file) in self.controls {
            control::Listener::inherit(file, &path, dir.root())?.keep();
        }
        Ok(self.waiting)
    }
}

impl Reload {
    /// Tells who asked, and the log, that it is in force.
    pub(super) async fn done(self) {
        let (file, n) = (self.new.file.display(), self.changes.len());
        log::info!(
            "reload: {file} is in force ({n} {})",
            if n == 1 { "change" } else { "changes" }
        );
        for change in &self.changes {
            log::info!("reload: {change}");
        }
        let reply = Reply::Reloaded { file: self.new.file, changes: self.changes };
        answer(self.caller, &reply).await;
    }

    /// Tells who asked why it is not in force.
    pub(super) async fn failed(self, error: &anyhow::Error) {
        answer(self.caller, &Reply::Refused { error: format!("{error:#}; nothing was changed") })
            .await;
    }

    /// What was in force before is so again. Who asked was told why, or that process broke off.
    pub(super) async fn undone(self) {
        let (new, old) = (self.new.file.display(), self.old.file.display());
        log::error!(
            "reload: {new} did not get through; the agent goes on with what it had of {old}"
        );
        let error = "the start with it broke off (the agent's log says why); nothing was changed";
        answer(self.caller, &Reply::Refused { error: error.to_owned() }).await;
    }
}

/// Tells who asked, and the log, that a file is refused.
pub(super) async fn refuse(wish: Wish, error: &anyhow::Error) {
    let text = format!("{error:#}");
    for line in text.lines() {
        log::error!("reload: {line}");
    }
    log::error!("reload: refused; the agent goes on with what it has");
    wish.refuse(&text).await;
}

/// Tells who asked, and the log, that a file says what is in force.
pub(super) async fn settled(file: PathBuf, wish: Wish) {
    log::info!("reload: {} changes nothing", file.display());
    answer(wish.caller, &Reply::Reloaded { file, changes: Vec::new() }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_certificate_in_the_same_file_is_a_difference() {
        let place = tempfile::tempdir().unwrap();
        let ca = place.path().join("ca.pem");
        let text = format!(
            "[[interface]]\nname = \"eth0\"\n[[vip]]\naddress = \"198.51.100.10:443\"\n\
             health = {{type = \"tls\", ca = {ca:?}}}\n[[vip.backend]]\naddress = \"10.0.0.1:443\"\n"
        );
        let config = Config::parse(Path::new("steer.toml"), &text).unwrap();
        fs::write(&ca, "old").unwrap();
        let before = Contents::of(&config);
        assert_eq!(before.differences(&Contents::of(&config)), [""; 0]);
        fs::write(&ca, "new").unwrap();
        let told = before.differences(&Contents::of(&config));
        assert_eq!(told, [format!("{} has other contents", ca.display())]);
        fs::remove_file(&ca).unwrap();
        assert_eq!(before.differences(&Contents::of(&config)).len(), 1);
    }
}
