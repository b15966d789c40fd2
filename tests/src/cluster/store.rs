//! The store of a cluster: a redis-server that keeps nothing on disk, at a socket of the file
//! system, which gateways in any network namespace reach.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{
    netns::NetNs,
    process::{Server, eventually, mortal},
};

/// A store; killed when dropped.
pub struct Store {
    server: Mutex<Option<Server>>,
    directory: PathBuf,
    ns: NetNs,
}

impl Store {
    /// Starts one whose files lie in `directory`, and waits until it answers.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let (directory, ns) = (directory.to_owned(), NetNs::create()?);
        let store = Self { server: Mutex::new(None), directory, ns };
        fs::write(store.path("redis.conf"), store.config()).context("write redis.conf")?;
        store.restart()?;
        Ok(store)
    }

    /// Starts it again after [`Store::stop`]: it is empty.
    ///
    /// # Errors
    /// With its own words when it does not answer.
    pub fn restart(&self) -> Result<()> {
        let mut command = mortal("redis-server");
        command.arg(self.path("redis.conf"));
        *self.server() = Some(self.ns.spawn(command)?);
        let answers = || self.ask("PING\r\n").ok().filter(|answer| answer.starts_with("+PONG"));
        let answered = eventually(Duration::from_secs(5), answers);
        let log = || fs::read_to_string(self.path("redis.log")).unwrap_or_default();
        answered.map(drop).with_context(|| format!("redis-server does not answer: {}", log()))
    }

    /// Kills it; what it held is lost.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self) -> Result<()> {
        let server = self.server().take();
        server.map_or(Ok(()), |mut server| server.end(Signal::SIGKILL).map(drop))
    }

    /// How `servers` of `[ha]` names it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// How many keys it holds.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn n_keys(&self) -> Result<u64> {
        let answer = self.ask("DBSIZE\r\n")?;
        let digits = answer.trim().trim_start_matches(':');
        digits.parse().with_context(|| format!("the store answered {answer:?}"))
    }

    /// The answer to one command, as far as it comes at once.
    fn ask(&self, command: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.socket()).context("connect to the store")?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(command.as_bytes())?;
        let mut buffer = [0; 256];
        let n = stream.read(&mut buffer).context("listen to the store")?;
        Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
    }

    fn config(&self) -> String {
        let (socket, directory) = (self.socket(), self.directory.display());
        let socket = socket.display();
        format!(
            "daemonize no\nport 0\nunixsocket {socket}\nunixsocketperm 700\n\
             dir {directory}\nlogfile {directory}/redis.log\n\
             save \"\"\nappendonly no\nmaxmemory 128mb\nmaxmemory-policy noeviction\n"
        )
    }

    fn socket(&self) -> PathBuf {
        self.path("redis.sock")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
