//! Two gateways of one service, of which one works at a time: what a failover costs, without
//! replication and with it.
//!
//! [`Cluster`] is the network with backends and a store, [`Gateway`] one of the two with its agent
//! and its keepalived; [`failover`] lets one fail under load and counts, [`show`] is that for
//! people.

pub mod failover;
mod keepalived;
mod load;
mod report;
mod store;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use self::keepalived::Keepalived;
pub use self::{
    failover::{Failure, Outcome},
    load::{Flows, Load, Phase, Sessions, Visits, Way},
    report::{Show, show},
    store::Store,
};
use crate::{
    agent::{Agent, Hook, Settings},
    netns::NetNs,
    nginx::{self, Nginx},
    payload,
    pki::Pki,
    scenario::Run,
    topology::{Family, Lab, Segment, Segments, backend, port},
};

/// Longest wait for a gateway to take over, or to be ready.
pub const LIMIT: Duration = Duration::from_secs(15);

/// How the two gateways are set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many backends.
    pub n_backends: usize,
    /// What clients dial.
    pub family: Family,
    /// Whether the gateways replicate.
    pub ha: bool,
}

impl Plan {
    /// Three backends and IPv4.
    pub fn new(ha: bool) -> Self {
        Self { n_backends: 3, family: Family::V4, ha }
    }
}

/// The network of two gateways, with its backends up and its store; the gateways start with
/// [`Cluster::gateway`].
pub struct Cluster {
    /// The lab as the first gateway sees it.
    pub run: Run,
    /// The store that the gateways replicate by; it runs without replication, too.
    pub store: Store,
    /// The lab as the second gateway sees it.
    second: Lab,
    switches: [NetNs; 2],
    directory: TempDir,
    ha: bool,
}

impl Cluster {
    /// Builds the network, and starts backends and store.
    ///
    /// # Errors
    /// Without root, or when something does not come up.
    pub fn start(plan: &Plan) -> Result<Self> {
        let ([first, second], switches) = Segments::build(plan.n_backends)?.into_labs();
        let pki = Arc::new(Pki::make(plan.n_backends)?);
        // Idle connections stay, and transfers are slow enough to be under way.
        let settings = nginx::Settings {
            keepalive: "75s".to_owned(),
            rate: load::RATE.to_owned(),
            ..nginx::Settings::default()
        };
        let start = |index| {
            let at = backend(plan.family, index);
            Nginx::start(first.backend(index), &pki, index, at, &settings)
        };
        let servers = (0..plan.n_backends).map(start).collect::<Result<Vec<_>>>()?;
        let directory = tempfile::Builder::new().prefix("steer-cluster-").tempdir()?;
        write_key(&directory)?;
        let store = Store::start(directory.path())?;
        let steer = Settings::new(Hook::Tc);
        let run = Run { family: plan.family, steer, servers, pki, lab: first };
        Ok(Self { run, store, second, switches, directory, ha: plan.ha })
    }

    /// Starts the agent of gateway 0 or 1, and waits until it works; its keepalived starts with
    /// [`Gateway::stand_by`].
    ///
    /// # Errors
    /// With the agent's own words when it does not come up.
    pub fn gateway(&self, number: usize) -> Result<Gateway<'_>> {
        let agent = Agent::start(self.lab(number), &self.settings(number))
            .with_context(|| format!("start the agent of gateway {}", port(number)))?;
        Ok(Gateway { cluster: self, number, agent, keepalived: None })
    }

    /// Both gateways; the first one is active.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn pair(&self) -> Result<[Gateway<'_>; 2]> {
        let (mut active, mut standby) = (self.gateway(0)?, self.gateway(1)?);
        active.stand_by()?;
        active.await_active()?;
        standby.stand_by()?;
        standby.await_ready()?;
        Ok([active, standby])
    }

    /// Whether the gateways replicate.
    pub fn is_replicated(&self) -> bool {
        self.ha
    }

    fn lab(&self, number: usize) -> &Lab {
        if number == 0 { &self.run.lab } else { &self.second }
    }

    /// Without a record flows go by the lookup table, in either's name; with replication those that
    /// it does not explain are known.
    fn settings(&self, number: usize) -> Settings {
        let mut settings = self.run.steer.clone();
        settings.top.push("[takeover]\nfor = \"10m\"".to_owned());
        if self.ha {
            let (key, name) = (self.directory.path().join(KEY), port(number));
            settings.top.push(format!(
                "[ha]\nservers = [\"{}\"]\ncluster = \"lab\"\nname = \"{name}\"\nkey_file = {key:?}",
                self.store.url()
            ));
        }
        settings
    }
}

/// One of the gateways; its processes end with it.
pub struct Gateway<'a> {
    /// Its agent.
    pub agent: Agent<'a>,
    cluster: &'a Cluster,
    number: usize,
    keepalived: Option<Keepalived>,
}

impl Gateway<'_> {
    /// Starts its keepalived: it takes the addresses of both segments where nobody else has them.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn stand_by(&mut self) -> Result<()> {
        let directory = self.cluster.directory.path();
        let script = self.agent.command(self.tracked()?);
        self.keepalived = Some(Keepalived::start(self.lab(), self.number, directory, &script)?);
        Ok(())
    }

    /// Whether it holds the addresses that clients and backends route by.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn is_active(&self) -> Result<bool> {
        let shown = self.lab().gateway().tool("ip -o -4 addr show")?;
        let holds = |segment: &Segment| {
            let address = segment.virtual_address(Family::V4);
            shown.contains(&format!(" {address}/{} ", segment.prefix(Family::V4)))
        };
        Ok(Segment::ALL.iter().all(holds))
    }

    /// Waits until it is active; when that was seen.
    ///
    /// # Errors
    /// When it does not become active.
    pub fn await_active(&self) -> Result<Instant> {
        let seen = until(LIMIT, || Ok(self.is_active()?.then(Instant::now)))?;
        seen.with_context(|| format!("{self} is not active; its keepalived: {}", self.said()))
    }

    /// Whether `steer ha ready` says that it knows what the other one knows; always without
    /// replication.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn is_ready(&self) -> Result<bool> {
        if !self.cluster.ha || !self.knows_ha()? {
            return Ok(true);
        }
        self.succeeds("ha ready")
    }

    /// Waits until it is ready; how long that took.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn await_ready(&self) -> Result<Duration> {
        let start = Instant::now();
        let ready = until(LIMIT, || Ok(self.is_ready()?.then_some(())))?;
        ready.with_context(|| {
            let status = self.agent.steer("ha status");
            format!("{self} is not ready: {status:?}; its log: {}", self.agent.log())
        })?;
        Ok(start.elapsed())
    }

    /// Lets it fail.
    ///
    /// # Errors
    /// When that does not work.
    pub fn fail(&mut self, how: Failure) -> Result<()> {
        match how {
            Failure::Machine => {
                // The links first: whatever its processes still say is not heard.
                self.lab().gateway().ip("link set front down\nlink set back down\n")?;
                self.keepalived.take().map_or(Ok(()), Keepalived::kill)?;
                self.agent.end(Signal::SIGKILL)
            }
            Failure::FrontLink => {
                let [front, _] = &self.cluster.switches;
                front.ip(&format!("link set {} down\n", port(self.number)))
            }
            Failure::StoreThenMachine => {
                self.cluster.store.stop()?;
                self.fail(Failure::Machine)
            }
        }
    }

    /// What its keepalived wrote.
    pub fn said(&self) -> String {
        let keepalived = self.keepalived.as_ref();
        keepalived.map_or("does not run".to_owned(), Keepalived::log)
    }

    fn lab(&self) -> &Lab {
        self.cluster.lab(self.number)
    }

    /// By what keepalived judges whether the gateway may be active.
    fn tracked(&self) -> Result<&'static str> {
        let replicates = self.cluster.ha && self.knows_ha()?;
        Ok(if replicates { "ha ready" } else { "stats" })
    }

    /// Whether the binary under test replicates at all.
    fn knows_ha(&self) -> Result<bool> {
        self.succeeds("ha --help")
    }

    fn succeeds(&self, words: &str) -> Result<bool> {
        let mut command = self.agent.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = |mut command: Command| Ok(command.status()?.success());
        self.lab().gateway().run(move || status(command)).with_context(|| format!("steer {words}"))
    }
}

impl std::fmt::Display for Gateway<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&port(self.number))
    }
}

/// Name of the file with the key of the gateways.
const KEY: &str = "ha.key";

fn write_key(directory: &TempDir) -> Result<()> {
    let path = directory.path().join(KEY);
    let digits = payload::bytes(32, 5)
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    fs::write(&path, digits + "\n").context("write the gateways' key")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("keep the key to root")
}

/// Asks again and again, with pauses that leave the processors to others.
fn until<T>(limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if start.elapsed() > limit {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
