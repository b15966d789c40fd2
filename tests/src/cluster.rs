//! Two gateways of one service, of which one works at a time: what a failover costs, without
//! replication and with it.
//!
//! [`Cluster`] is the network with backends and a store, [`Gateway`] one of the two with its agent
//! and its keepalived; [`fail_over`] lets one fail under load and counts, [`show`] is that for
//! people.

mod failover;
mod keepalived;
mod load;
mod report;
mod store;

use std::{
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
    failover::{Failure, Outcome, fail_over, fail_over_after},
    load::{Firsts, Flows, Holder, Load, Phase, Sessions, Visits, Way},
    report::{Show, show},
    store::Store,
};
use crate::{
    agent::{self, Agent, Hook, Settings},
    client::{Client, Offer},
    netns::NetNs,
    nginx::{self, Nginx, TicketKey},
    pki::Pki,
    process,
    scenario::Run,
    topology::{Family, Lab, Segment, Segments, address_gateway, backend, port},
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
    /// What clients' sessions are; each backend seals tickets by a key of its own.
    pub offer: Offer,
    /// Whether the gateways replicate.
    pub ha: bool,
}

impl Plan {
    /// Three backends, IPv4 and session IDs.
    pub fn new(ha: bool) -> Self {
        Self { n_backends: 3, family: Family::V4, offer: Offer::SessionId, ha }
    }

    /// Idle connections stay, and transfers are slow enough to be under way.
    fn servers(&self) -> nginx::Settings {
        let (keepalive, rate) = ("75s".to_owned(), load::RATE.to_owned());
        let ordinary = nginx::Settings { keepalive, rate, ..nginx::Settings::default() };
        if self.offer == Offer::SessionId {
            return ordinary;
        }
        let protocols = "TLSv1.2 TLSv1.3".to_owned();
        nginx::Settings { protocols, tickets: true, ticket_key: TicketKey::Named, ..ordinary }
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
    offer: Offer,
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
        let settings = plan.servers();
        let start = |index| {
            let at = backend(plan.family, index);
            Nginx::start(first.backend(index), &pki, index, at, &settings)
        };
        let servers = (0..plan.n_backends).map(start).collect::<Result<Vec<_>>>()?;
        let directory = tempfile::Builder::new().prefix("steer-cluster-").tempdir()?;
        make_key(&directory)?;
        let store = Store::start(directory.path())?;
        let steer = Settings::new(Hook::Tc);
        let run = Run { family: plan.family, steer, servers, pki, lab: first };
        let (offer, ha) = (plan.offer, plan.ha);
        Ok(Self { run, store, second, switches, directory, offer, ha })
    }

    /// Gateway 0 or 1; nothing of it runs yet.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn gateway(&self, number: usize) -> Result<Gateway<'_>> {
        let agent = Agent::prepare(self.lab(number), &self.settings(number))?;
        Ok(Gateway { agent, cluster: self, number, keepalived: None })
    }

    /// Both gateways, of which the first one is active and the second one stands by.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn pair(&self) -> Result<[Gateway<'_>; 2]> {
        let [active, mut standby] = self.lone()?;
        standby.start()?;
        standby.stand_by()?;
        Ok([active, standby])
    }

    /// Both gateways, of which the first one is active and nothing runs of the second one.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn lone(&self) -> Result<[Gateway<'_>; 2]> {
        let [mut active, other] = [self.gateway(0)?, self.gateway(1)?];
        active.start()?;
        active.stand_by()?;
        active.await_active()?;
        Ok([active, other])
    }

    /// A client without a session.
    ///
    /// # Errors
    /// When rustls refuses the certificates.
    pub fn new_client(&self) -> Result<Client> {
        self.run.new_client_offering(self.offer)
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
    /// Starts its agent, and waits until that works.
    ///
    /// # Errors
    /// With the agent's own words when it does not come up.
    pub fn start(&mut self) -> Result<()> {
        self.agent.launch().with_context(|| format!("start the agent of {}", port(self.number)))
    }

    /// Starts its agent, and waits until it answers, whatever else it has to do.
    ///
    /// # Errors
    /// With the agent's own words when it does not come up.
    pub fn begin(&mut self) -> Result<()> {
        self.agent.launch_with(&[]).with_context(|| format!("start the agent of {self}"))
    }

    /// Waits until it is ready, and starts its keepalived: it takes the addresses of both segments
    /// where nobody else has them. How long it was not ready.
    ///
    /// # Errors
    /// When it does not become ready, or keepalived cannot be started.
    pub fn stand_by(&mut self) -> Result<Duration> {
        let unready = self.await_ready()?;
        let directory = self.cluster.directory.path();
        let script = self.agent.command(READY);
        self.keepalived = Some(Keepalived::start(self.lab(), self.number, directory, &script)?);
        Ok(unready)
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

    /// Whether `steer ha ready` says that it knows what the other one knows.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn is_ready(&self) -> Result<bool> {
        let mut ready = self.agent.command(READY);
        ready.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.lab().gateway().run(move || Ok(ready.status()?.success()))
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
            Failure::Agent => self.agent.end(Signal::SIGKILL),
            Failure::StoreThenMachine => {
                self.cluster.store.stop()?;
                self.fail(Failure::Machine)
            }
        }
    }

    /// Its machine is there again, with nothing of steer's left on it; it stands by when it is
    /// ready.
    ///
    /// # Errors
    /// When that does not work.
    pub fn come_back(&mut self) -> Result<()> {
        let [front, _] = &self.cluster.switches;
        front.ip(&format!("link set {} up\n", port(self.number)))?;
        drop(self.keepalived.take());
        if self.agent.process_id().is_some() {
            self.agent.end(Signal::SIGKILL)?;
        }
        self.agent.steer("detach")?;
        address_gateway(self.lab().gateway(), self.number)?;
        self.start()?;
        self.stand_by().map(drop)
    }

    /// What its keepalived wrote.
    pub fn said(&self) -> String {
        let keepalived = self.keepalived.as_ref();
        keepalived.map_or("does not run".to_owned(), Keepalived::log)
    }

    fn lab(&self) -> &Lab {
        self.cluster.lab(self.number)
    }
}

impl std::fmt::Display for Gateway<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&port(self.number))
    }
}

/// By what keepalived judges whether a gateway may be active.
const READY: &str = "ha ready";
/// Name of the file with the key of the gateways.
const KEY: &str = "ha.key";

fn make_key(directory: &TempDir) -> Result<()> {
    let mut command = Command::new(agent::binary()?);
    command.args(["ha", "key"]).arg(directory.path().join(KEY));
    process::run(&mut command).map(drop).context("make the gateways' key")
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
