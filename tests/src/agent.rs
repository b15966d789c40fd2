//! Runs steer in the gateway's namespace: its configuration, its agent as a process, its command
//! line.
//!
//! Only the network namespace is the gateway's: pins lie in the machine's /sys/fs/bpf, in a
//! directory of this agent's own.

mod config;
mod pins;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use steer_common::counters::Counter;
use steer_user::{control::ask_about, plane::PinDir};
use tempfile::TempDir;

pub use self::config::{Hook, Settings, Shape, pool_name};
use crate::{
    process::{self, Server, eventually, mortal},
    topology::Lab,
};

/// Longest wait for the agent to load its programs and see its backends up.
const START: Duration = Duration::from_secs(60);

/// A steer agent and its pins; both are gone when this is dropped.
pub struct Agent<'a> {
    lab: &'a Lab,
    steer: PathBuf,
    directory: TempDir,
    pin_dir: PathBuf,
    environment: Vec<(String, String)>,
    server: Option<Server>,
}

/// The counters of the programs at one moment.
#[derive(Clone, Debug)]
pub struct Counts(Value);

impl Counts {
    /// One of them, if `steer stats` knows it.
    pub fn of(&self, counter: Counter) -> Option<u64> {
        self.0["counters"][counter.word()].as_u64()
    }
}

impl<'a> Agent<'a> {
    /// Starts one that serves the lab's VIPs, both families, and waits until every backend is up.
    ///
    /// # Errors
    /// With the agent's own words when it does not come up.
    pub fn start(lab: &'a Lab, settings: &Settings) -> Result<Self> {
        let mut agent = Self::prepare(lab, settings)?;
        agent.launch()?;
        Ok(agent)
    }

    /// As [`Agent::start`], but its process is not started yet: nothing is pinned.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn prepare(lab: &'a Lab, settings: &Settings) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        process::require_root()?;
        pins::prepare()?;
        let agent = Self {
            lab,
            steer: binary()?,
            directory: tempfile::Builder::new().prefix("steer-agent-").tempdir()?,
            pin_dir: pins::directory(NUMBER.fetch_add(1, Ordering::Relaxed)),
            environment: settings.environment.clone(),
            server: None,
        };
        agent.configure(settings)?;
        Ok(agent)
    }

    /// From now on another binary is run, as agent and as command line; `None`: that of this
    /// version again.
    ///
    /// # Errors
    /// When that one is not built.
    pub fn use_binary(&mut self, path: Option<&Path>) -> Result<()> {
        self.steer = path.map_or_else(binary, |path| Ok(path.to_owned()))?;
        Ok(())
    }

    /// Writes the configuration anew; a running agent does not notice.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        let text = config::text(self.lab, settings, &self.pin_dir, &self.socket());
        fs::write(self.config_path(), text).context("write steer.toml")
    }

    /// Starts the agent's process, which adopts what is pinned, and waits until it answers.
    ///
    /// # Errors
    /// With the agent's own words when it does not come up.
    pub fn launch(&mut self) -> Result<()> {
        self.launch_by(&[])
    }

    /// As [`Agent::launch`], by the words of another command before its own.
    ///
    /// # Errors
    /// As [`Agent::launch`].
    pub fn launch_by(&mut self, before: &[&str]) -> Result<()> {
        self.server = Some(self.spawn(before, &[])?);
        self.await_up()
    }

    /// Starts the agent's process; how long until it answers at its socket.
    ///
    /// # Errors
    /// With the agent's own words when it does not come up.
    pub fn launch_timed(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.server = Some(self.spawn(&[], &[])?);
        let answered = eventually(START, || ask_about(&PinDir::new(&self.pin_dir), &self.socket()));
        answered.with_context(|| format!("the agent does not answer; its log: {}", self.log()))?;
        Ok(start.elapsed())
    }

    /// As [`Agent::launch`] with more words on its command line; does not wait for its backends.
    ///
    /// # Errors
    /// As [`Agent::launch`].
    pub fn launch_with(&mut self, words: &[&str]) -> Result<()> {
        self.server = Some(self.spawn_with(words, &[], &[])?);
        let dir = PinDir::new(&self.pin_dir);
        let answered = eventually(START, || ask_about(&dir, &self.socket()));
        answered
            .map(drop)
            .with_context(|| format!("the agent does not answer; its log: {}", self.log()))
    }

    /// The process that does the work of a running agent.
    pub fn worker(&self) -> Option<u32> {
        self.process_id().map(process::worker_of)
    }

    /// Starts the agent's process, by the words of another command before its own and with more
    /// variables in its environment, and waits until it ends by itself; its log says why.
    ///
    /// # Errors
    /// When it does not end.
    pub fn launch_to_end(
        &self,
        before: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<ExitStatus> {
        let mut server = self.spawn(before, environment)?;
        eventually(START, || server.ended())
            .with_context(|| format!("the agent does not end: {}", self.log()))
    }

    fn spawn(&self, before: &[&str], environment: &[(&str, &str)]) -> Result<Server> {
        self.spawn_with(&[], before, environment)
    }

    fn spawn_with(
        &self,
        words: &[&str],
        before: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Server> {
        let log = fs::File::create(self.log_path()).context("open the agent's log")?;
        let mut command = match before.split_first() {
            Some((program, words)) => {
                let mut command = mortal(program);
                command.args(words).arg(&self.steer);
                command
            }
            None => mortal(&self.steer),
        };
        command
            .arg("agent")
            .arg("--config")
            .arg(self.config_path())
            .args(words)
            .envs(self.environment.iter().cloned());
        command.envs(environment.iter().copied()).stdout(log.try_clone()?).stderr(log);
        self.lab.gateway().spawn(command)
    }

    /// Ends the agent's process with a signal; programs and maps stay.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        self.ended_by(signal).map(drop)
    }

    /// As [`Agent::end`]; how it ended.
    ///
    /// # Errors
    /// When it does not end.
    pub fn ended_by(&mut self, signal: Signal) -> Result<ExitStatus> {
        let worker = self.worker();
        let ended = self.server.take().context("no agent runs")?.end(signal)?;
        // The kernel ends the worker of a supervisor that was killed.
        let gone = || worker.is_none_or(|of| !process::works(of)).then_some(());
        eventually(START, gone).context("the agent's worker goes on")?;
        Ok(ended)
    }

    /// Its process id, while it runs: that of its supervisor.
    pub fn process_id(&self) -> Option<u32> {
        self.server.as_ref().map(Server::id)
    }

    /// Runs `steer` with these words on this agent's pins, and returns what it printed.
    ///
    /// # Errors
    /// With its own words when its exit code is not 0; of `status`, whose exit code tells of the
    /// gateway's health, when it printed nothing.
    pub fn steer(&self, words: &str) -> Result<String> {
        let mut command = self.command(words);
        let is_status = words.split_whitespace().any(|word| word == "status");
        self.lab.gateway().run(|| match is_status {
            true => process::run_telling(&mut command),
            false => process::run(&mut command),
        })
    }

    /// `steer` with these words on this agent's pins, to be run in the gateway.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(&self.steer);
        command.args(words.split_whitespace());
        command.arg("--pin-dir").arg(&self.pin_dir).arg("--socket").arg(self.socket());
        command
    }

    /// Runs `steer` with these words and `--json`, and reads what it printed.
    ///
    /// # Errors
    /// As [`Agent::steer`], and when it printed no JSON.
    pub fn json(&self, words: &str) -> Result<Value> {
        let text = self.steer(&format!("{words} --json"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("steer {words} --json printed {text:?}"))
    }

    /// One counter of the programs.
    ///
    /// # Errors
    /// When `steer stats` fails.
    pub fn count(&self, counter: Counter) -> Result<u64> {
        self.counts()?
            .of(counter)
            .with_context(|| format!("steer stats knows no counter {}", counter.word()))
    }

    /// Some counters of the programs with their words, for people.
    ///
    /// # Errors
    /// When `steer stats` fails.
    pub fn told(&self, counters: &[Counter]) -> Result<String> {
        let counts = self.counts()?;
        let told = counters
            .iter()
            .filter_map(|&counter| Some(format!("{} {}", counter.word(), counts.of(counter)?)));
        Ok(told.collect::<Vec<_>>().join(", "))
    }

    /// What `steer backends list` says of a backend.
    ///
    /// # Errors
    /// When it fails, or does not know the backend.
    pub fn backend(&self, address: std::net::SocketAddr) -> Result<Value> {
        let listed = self.json("backends list")?;
        let backends = listed["backends"].as_array().context("no list of backends")?;
        let found = backends.iter().find(|backend| backend["address"] == address.to_string());
        found.cloned().with_context(|| format!("no backend {address} in {listed}"))
    }

    /// All counters of the programs, as they stand now.
    ///
    /// # Errors
    /// When `steer stats` fails.
    pub fn counts(&self) -> Result<Counts> {
        Ok(Counts(self.json("stats")?))
    }

    /// The directory of its pins, as configured (maps lie below, in `v1`).
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The pin of a map.
    pub fn map_pin(&self, map: &str) -> PathBuf {
        self.pin_dir.join(format!("v{}", steer_common::shared::LAYOUT_VERSION)).join(map)
    }

    /// Changes its configuration file and has that put in force; what it says of it.
    ///
    /// # Errors
    /// When the change changes nothing, or is refused.
    pub fn reload(&self, change: impl FnOnce(&str) -> String) -> Result<String> {
        self.rewrite(change)?;
        self.steer("reload").with_context(|| self.log())
    }

    /// Changes its configuration file, which it does not read by itself.
    ///
    /// # Errors
    /// When the change changes nothing.
    pub fn rewrite(&self, change: impl FnOnce(&str) -> String) -> Result<()> {
        let old = fs::read_to_string(self.config_path())?;
        let new = change(&old);
        ensure!(new != old, "the change changes nothing of:\n{old}");
        fs::write(self.config_path(), new).context("write steer.toml")
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("steer.toml")
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("steer.sock")
    }

    /// What its process wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("agent.log")
    }

    fn await_up(&mut self) -> Result<()> {
        let up = eventually(START, || match self.server.as_mut().and_then(Server::ended) {
            Some(status) => Some(Err(anyhow!("the agent ended: {status}"))),
            None => self
                .socket()
                .exists()
                .then(|| self.is_ready())
                .filter(|ready| matches!(ready, Ok(true))),
        });
        match up {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.context(self.log())),
            None => {
                bail!(
                    "the agent does not come up; backends: {:?}; its log: {}",
                    self.json("backends list"),
                    self.log()
                )
            }
        }
    }

    /// The agent answers, so that its start is through; programs on every interface, both VIPs in
    /// the map, every backend up.
    fn is_ready(&self) -> Result<bool> {
        let status = self.json("status")?;
        let n = |list: &str| status[list].as_array().map_or(0, Vec::len);
        let list = self.json("backends list")?;
        let backends = list["backends"].as_array().context("steer backends list: no list")?;
        Ok(!status["agent"]["pid"].is_null()
            && n("interfaces") == self.lab.gateway_interfaces().len()
            && n("vips") == 2
            && backends.len() == 2 * self.lab.n_backends()
            && backends.iter().all(|backend| backend["state"] == "up"))
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        // The process first, then its pins; what detach leaves of them is removed by hand.
        if self.server.is_some() {
            drop(self.end(Signal::SIGKILL));
        }
        if let Err(error) = self.steer("detach") {
            eprintln!("steer detach failed: {error:#}");
        }
        drop(fs::remove_dir_all(&self.pin_dir));
    }
}

/// The binary `steer`: what `STEER_BIN` names, or the one beside the running program in its target
/// directory.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(named) = env::var_os("STEER_BIN") {
        return Ok(PathBuf::from(named));
    }
    let own = env::current_exe().context("find the running program")?;
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("steer"));
    beside.into_iter().find(|path| path.is_file()).context(
        "the binary `steer` is not built: run `cargo xtask build`, or name it in the environment variable STEER_BIN",
    )
}

/// The VIPs of `steer status`, but for what is open: that is known once an agent has looked.
#[must_use]
pub fn vips(status: &Value) -> Value {
    let mut vips = status["vips"].clone();
    for vip in vips.as_array_mut().into_iter().flatten() {
        vip.as_object_mut().map(|vip| vip.remove("open_flows"));
    }
    vips
}
