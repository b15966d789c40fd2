//! A test's setting in a few words: what differs from the ordinary, then [`Scenario::start`].
//!
//! ```no_run
//! # use steer_tests::{agent::Hook, scenario::Scenario, topology::Family};
//! # fn main() -> anyhow::Result<()> {
//! let run = Scenario::new(Hook::Tc, Family::V4).backend_sysctl(1, "ipv4/tcp_sack", "0").start()?;
//! let steer = run.agent()?;
//! let moved = run.resume_elsewhere(&run.new_client()?)?;
//! assert!(moved.resumed);
//! # drop(steer);
//! # Ok(())
//! # }
//! ```

mod run;

use std::{env, sync::Arc};

use anyhow::Result;

pub use self::run::{N_SOURCES, Run};
use crate::{
    agent::{Hook, Settings, Shape},
    l4::{self, Snat},
    nginx::{self, Nginx},
    pki::Pki,
    topology::{Family, Lab, Link, Offloads, Plan, backend},
};

/// What to build.
#[derive(Clone, Debug)]
pub struct Scenario {
    family: Family,
    plan: Plan,
    sysctls: Vec<(End, String, String)>,
    announced_mss: Vec<(usize, u32)>,
    nginx: nginx::Settings,
    /// What steer's configuration says.
    pub steer: Settings,
    /// What the balancer of nftables does with the clients' addresses, where there is one.
    balancer: Option<Snat>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Client,
    Gateway,
    Backend(usize),
}

impl Scenario {
    /// Three backends; on XDP, links that finish their checksums as a wire does. Steer has the VIPs,
    /// unless the environment variable `STEER_LAB_SHAPE` says `inline` or `bridge`.
    pub fn new(hook: Hook, family: Family) -> Self {
        let gateway = Self::gateway(hook, family);
        match env::var_os("STEER_LAB_SHAPE") {
            Some(shape) if shape == "inline" => gateway.inline(Snat::No),
            Some(shape) if shape == "bridge" => gateway.bridge(Snat::No),
            _ => gateway,
        }
    }

    fn gateway(hook: Hook, family: Family) -> Self {
        Self {
            family,
            plan: Plan { offloads: hook.offloads(), ..Plan::default() },
            sysctls: Vec::new(),
            announced_mss: Vec::new(),
            nginx: nginx::Settings::default(),
            steer: Settings::new(hook),
            balancer: None,
        }
    }

    /// How many backends.
    #[must_use]
    pub fn backends(mut self, n: usize) -> Self {
        self.plan.n_backends = n;
        self
    }

    /// A balancer stands in front of the gateway, which has pools without VIPs.
    #[must_use]
    pub fn inline(mut self, snat: Snat) -> Self {
        self.balancer = Some(snat);
        self.behind()
    }

    /// As [`Scenario::inline`], but the balancer's place is empty: it is for a
    /// [`crate::balancer::Balancer`].
    #[must_use]
    pub fn behind_stand_in(mut self) -> Self {
        self.balancer = None;
        self.behind()
    }

    fn behind(mut self) -> Self {
        self.plan.balancer = true;
        self.steer.shape = Shape::Inline;
        self
    }

    /// As [`Scenario::inline`], and the gateway is a bridge.
    #[must_use]
    pub fn bridge(self, snat: Snat) -> Self {
        let mut inline = self.inline(snat);
        inline.plan.bridge = true;
        inline.steer.shape = Shape::Bridge;
        inline
    }

    /// Offloads of all links.
    #[must_use]
    pub fn offloads(mut self, offloads: Offloads) -> Self {
        self.plan.offloads = offloads;
        self
    }

    /// MTU of the link to the clients.
    #[must_use]
    pub fn client_mtu(mut self, mtu: u32) -> Self {
        self.plan.client_mtu = mtu;
        self
    }

    /// MTU of the link to a backend.
    #[must_use]
    pub fn backend_mtu(mut self, backend: usize, mtu: u32) -> Self {
        self.plan.backend_mtu.push((backend, mtu));
        self
    }

    /// What the links are: the clients' first, then those of the backends.
    #[must_use]
    pub fn links(mut self, kinds: &[Link]) -> Self {
        self.plan.links = kinds.iter().copied().enumerate().collect();
        self
    }

    /// Neighbours are not known from the start.
    #[must_use]
    pub fn unknown_neighbours(mut self) -> Self {
        self.plan.neighbours_known = false;
        self
    }

    /// A sysctl of the clients, below /proc/sys/net.
    #[must_use]
    pub fn client_sysctl(mut self, path: &str, value: &str) -> Self {
        self.sysctls.push((End::Client, path.to_owned(), value.to_owned()));
        self
    }

    /// A sysctl of the gateway, below /proc/sys/net.
    #[must_use]
    pub fn gateway_sysctl(mut self, path: &str, value: &str) -> Self {
        self.sysctls.push((End::Gateway, path.to_owned(), value.to_owned()));
        self
    }

    /// A sysctl of a backend, below /proc/sys/net.
    #[must_use]
    pub fn backend_sysctl(mut self, backend: usize, path: &str, value: &str) -> Self {
        self.sysctls.push((End::Backend(backend), path.to_owned(), value.to_owned()));
        self
    }

    /// The MSS that a backend announces.
    #[must_use]
    pub fn backend_mss(mut self, backend: usize, mss: u32) -> Self {
        self.announced_mss.push((backend, mss));
        self
    }

    /// How the nginx are set up.
    #[must_use]
    pub fn nginx(mut self, settings: nginx::Settings) -> Self {
        self.nginx = settings;
        self
    }

    /// A line of every `[[vip]]` of steer's configuration.
    #[must_use]
    pub fn vip_setting(mut self, line: &str) -> Self {
        self.steer.vip.push(line.to_owned());
        self
    }

    /// A line of one `[[vip.backend]]` of steer's configuration.
    #[must_use]
    pub fn backend_setting(mut self, backend: usize, line: &str) -> Self {
        self.steer.backend.push((backend, line.to_owned()));
        self
    }

    /// A line of `[sizes]` of steer's configuration.
    #[must_use]
    pub fn size(mut self, line: &str) -> Self {
        self.steer.sizes.push(line.to_owned());
        self
    }

    /// Builds the lab and starts the backends; steer itself starts with [`Run::agent`].
    ///
    /// # Errors
    /// Without root, or when something does not come up.
    pub fn start(self) -> Result<Run> {
        let lab = Lab::build(&self.plan)?;
        self.apply_sysctls(&lab)?;
        for (index, mss) in &self.announced_mss {
            lab.announce_mss(*index, *mss)?;
        }
        if let Some(snat) = self.balancer {
            l4::set_up(&lab, snat)?;
        }
        let pki = Arc::new(Pki::make(self.plan.n_backends)?);
        let servers = (0..self.plan.n_backends)
            .map(|index| {
                Nginx::start(
                    lab.backend(index),
                    &pki,
                    index,
                    backend(self.family, index),
                    &self.nginx,
                )
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Run { family: self.family, steer: self.steer, servers, pki, lab })
    }

    fn apply_sysctls(&self, lab: &Lab) -> Result<()> {
        self.sysctls.iter().try_for_each(|(end, path, value)| {
            let ns = match end {
                End::Client => lab.client(),
                End::Gateway => lab.gateway(),
                End::Backend(index) => lab.backend(*index),
            };
            ns.sysctl(path, value)
        })
    }
}
