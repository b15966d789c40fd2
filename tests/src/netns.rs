//! One network namespace, without a name: it lives as long as its guard and its processes, so that
//! nothing is left behind and parallel runs never collide.
//!
//! Only the network namespace changes. `ip netns exec` would remount /sys and hide the pins made
//! under it.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    process::{Child, Command},
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process;

/// A network namespace and the thread that lives in it.
///
/// Servers are spawned by that thread: they die with the guard at the latest (see
/// [`process::mortal`]).
#[derive(Debug)]
pub struct NetNs {
    file: File,
    resident: Option<Resident>,
}

#[derive(Debug)]
struct Resident {
    commands: Sender<Order>,
    thread: JoinHandle<()>,
}

/// A command to spawn, and where to send the child.
type Order = (Command, Sender<io::Result<Child>>);

impl NetNs {
    /// Creates a namespace with its loopback up.
    ///
    /// # Errors
    /// When the process may not.
    pub fn create() -> Result<Self> {
        let (commands, orders) = mpsc::channel::<Order>();
        let (born, birth) = mpsc::channel();
        let thread = thread::spawn(move || {
            let file = create_here();
            let lives = file.is_ok();
            if born.send(file).is_ok() && lives {
                serve(&orders);
            }
        });
        let file = birth
            .recv()
            .context("the namespace's thread ended")?
            .context("create a network namespace")?;
        let ns = Self { file, resident: Some(Resident { commands, thread }) };
        ns.ip("link set lo up\n")?;
        Ok(ns)
    }

    /// A path that names it to `ip link ... netns PATH` and `nsenter --net=PATH`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Moves the calling thread in, for good.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).context("enter a network namespace")
    }

    /// Runs `work` inside, on a thread of its own, and returns what it returns.
    ///
    /// # Errors
    /// Those of `work`, and when the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a server inside.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: Command) -> Result<process::Server> {
        let resident =
            self.resident.as_ref().ok_or_else(|| anyhow!("the namespace is being deleted"))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let (reply, answer) = mpsc::channel();
        resident
            .commands
            .send((command, reply))
            .map_err(|_| anyhow!("the namespace's thread ended"))?;
        let child = answer
            .recv()
            .context("the namespace's thread ended")?
            .with_context(|| format!("start {program}"))?;
        Ok(process::Server::new(child))
    }

    /// Runs a batch of `ip` commands, one a line without the word `ip`.
    ///
    /// # Errors
    /// At the first that fails.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.run(|| process::feed(Command::new("ip").args(["-batch", "-"]), batch)).map(drop)
    }

    /// Runs one tool inside, words separated by spaces, and returns what it printed.
    ///
    /// # Errors
    /// As [`process::run`].
    pub fn tool(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("no program named")?;
        self.run(|| process::run(Command::new(program).args(words)))
    }

    /// Loads an nftables ruleset inside.
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        self.run(|| process::feed(Command::new("nft").args(["-f", "-"]), ruleset)).map(drop)
    }

    /// Sets a network sysctl, named by its path below /proc/sys/net: `ipv4/tcp_sack`.
    ///
    /// # Errors
    /// When it does not exist or refuses the value.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.run(|| {
            fs::write(format!("/proc/sys/net/{path}"), value)
                .with_context(|| format!("set {path}={value}"))
        })
    }

    /// Reads a file of /proc/net as it stands inside: `netstat`, `snmp`.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn proc_net(&self, name: &str) -> Result<String> {
        let path = format!("/proc/thread-self/net/{name}");
        self.run(|| fs::read_to_string(&path).with_context(|| format!("read {path}")))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Some(Resident { commands, thread }) = self.resident.take() {
            drop(commands);
            drop(thread.join());
        }
    }
}

fn create_here() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    File::open("/proc/thread-self/ns/net")
}

fn serve(orders: &mpsc::Receiver<Order>) {
    while let Ok((mut command, reply)) = orders.recv() {
        // A caller that no longer waits has dropped the only use of the child: end it.
        if let Err(mpsc::SendError(Ok(child))) = reply.send(command.spawn()) {
            drop(process::Server::new(child));
        }
    }
}
