//! A gateway on a street that is in use: three backends, clients at many addresses, and
//! conversations between them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Settings},
    setting::Setting,
    talk::{Conversation, Crowd, Peers},
    topology::{self, Family, Lab, Plan, source, vip},
};

/// Conversations that have to be whole, one of each client.
pub(crate) const CROWD: usize = 24;
/// How many clients are tried.
const CLIENTS: usize = 64;

pub(crate) struct Street {
    // Before the lab, whose namespaces the servers live in.
    pub(crate) peers: Peers,
    pub(crate) lab: Lab,
    pub(crate) family: Family,
    /// What steer's configuration will say.
    pub(crate) steer: Settings,
}

impl Street {
    /// With three backends.
    pub(crate) fn build(setting: Setting) -> Result<Self> {
        Self::of(setting, Plan::default())
    }

    /// With so many backends.
    pub(crate) fn with_backends(setting: Setting, n_backends: usize) -> Result<Self> {
        Self::of(setting, Plan { n_backends, ..Plan::default() })
    }

    pub(crate) fn of(setting: Setting, plan: Plan) -> Result<Self> {
        let lab = Lab::build(&Plan { offloads: setting.offloads, ..plan })?;
        let peers = Peers::start(&lab)?;
        Ok(Self { peers, lab, family: setting.family, steer: Settings::new(setting.hook) })
    }

    /// A line of every `[[vip]]` of steer's configuration.
    pub(crate) fn vip_setting(mut self, line: &str) -> Self {
        self.steer.vip.push(line.to_owned());
        self
    }

    /// A line of `[sizes]` of steer's configuration.
    pub(crate) fn size(mut self, line: &str) -> Self {
        self.steer.sizes.push(line.to_owned());
        self
    }

    /// No health checks: backends count as up.
    pub(crate) fn without_health_checks(mut self) -> Self {
        self.steer.health = vec!["enabled = false".to_owned()];
        self
    }

    pub(crate) fn agent(&self) -> Result<Agent<'_>> {
        Agent::start(&self.lab, &self.steer)
    }

    pub(crate) fn vip(&self) -> SocketAddr {
        vip(self.family)
    }

    pub(crate) fn backend(&self, index: usize) -> SocketAddr {
        topology::backend(self.family, index % self.lab.n_backends())
    }

    /// A client's address.
    pub(crate) fn client(&self, index: usize) -> IpAddr {
        source(self.family, index)
    }

    /// A client dials the VIP, or a backend's own address, from any port.
    pub(crate) fn dial(&self, client: usize, target: SocketAddr) -> Result<Conversation> {
        self.dial_from((self.client(client), 0).into(), target)
    }

    /// As [`Street::dial`], from an address and port.
    pub(crate) fn dial_from(&self, source: SocketAddr, target: SocketAddr) -> Result<Conversation> {
        self.peers.dial(self.lab.client(), source, target)
    }

    /// Clients that each dial a target of their own number.
    pub(crate) fn dials(
        &self,
        clients: std::ops::Range<usize>,
        target: impl Fn(usize) -> SocketAddr,
    ) -> Result<Vec<Conversation>> {
        clients.map(|client| self.dial(client, target(client))).collect()
    }

    /// Clients that dial backends' own addresses in turn, and talk on.
    pub(crate) fn direct(&self, clients: std::ops::Range<usize>) -> Result<Crowd> {
        Ok(Crowd::of(self.dials(clients, |client| self.backend(client))?))
    }

    /// Clients that dial the VIP, and talk on.
    pub(crate) fn to_vip(&self, clients: std::ops::Range<usize>) -> Result<Crowd> {
        Ok(Crowd::of(self.dials(clients, |_| self.vip())?))
    }

    /// A client whose new flows to the VIP go to this backend.
    pub(crate) fn client_of(&self, backend: usize) -> Result<usize> {
        let leads_there = |client: &usize| {
            self.dial(*client, self.vip()).is_ok_and(|it| it.server_name == backend)
        };
        (0..CLIENTS)
            .find(leads_there)
            .with_context(|| format!("no client is led to backend {backend}"))
    }
}

/// What steer counted since.
pub(crate) struct Since<'a> {
    steer: &'a Agent<'a>,
    before: steer_tests::agent::Counts,
}

impl<'a> Since<'a> {
    pub(crate) fn now(steer: &'a Agent<'a>) -> Result<Self> {
        Ok(Self { steer, before: steer.counts()? })
    }

    pub(crate) fn of(&self, counter: Counter) -> Result<u64> {
        Ok(self.steer.count(counter)? - self.before.of(counter).unwrap_or_default())
    }
}

/// Expects steer to have guessed at no packet since it was loaded.
pub(crate) fn nothing_was_guessed(steer: &Agent<'_>) -> Result<()> {
    for counter in
        [Counter::NoFlowTranslated, Counter::StrayBackend, Counter::FirstReset, Counter::OwnerReset]
    {
        let n = steer.count(counter)?;
        ensure!(n == 0, "{}: {n}", counter.word());
    }
    Ok(())
}
