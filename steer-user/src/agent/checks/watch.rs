//! Looks around every few seconds for as long as the agent runs.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use steer_common::shared::{VIP_FALLBACK_FLOW, VIP_FALLBACK_FOUND, Vip};
use tokio::{task, time};

use super::{
    Kind, Machine, Standing, Warning, ambiguous, answers::Answers, bridges, ipsec, machine,
    options, programs, rotation::Rotation, source, takers, traffic,
};
use crate::{
    address,
    agent::{Pools, Swept, interfaces, state::Trouble, sweep::Opened},
    clock,
    config::{Config, Fallback, Pool},
    plane::{self, PinDir, Plane},
    report::{Backends, Keys, VipReport},
    service::Service,
};

/// Time between two looks: what is wrong is named within three of them.
const LOOK: Duration = Duration::from_secs(5);

/// What the watch goes by.
pub(in crate::agent) struct Watched {
    /// The configuration that is applied.
    pub(in crate::agent) config: Config,
    /// Where its state is.
    pub(in crate::agent) dir: PinDir,
    /// The pools, to be told how `fallback = "auto"` chooses.
    pub(in crate::agent) pools: Arc<Mutex<Pools>>,
    /// What the last sweep found.
    pub(in crate::agent) swept: Arc<Mutex<Swept>>,
    /// What is wrong, for log, metrics and control socket.
    pub(in crate::agent) standing: Standing,
    /// Why what is known would not outlast a reboot.
    pub(in crate::agent) unwritten: Trouble,
}

/// Watches for ever. What cannot be looked at is logged once and tried again.
pub(in crate::agent) async fn run(watched: Watched) -> Result<()> {
    let mut plane = Plane::open(&watched.dir)?;
    let (mut answers, mut choices) = (Answers::default(), source::Choices::default());
    let mut rotation = Rotation::default();
    let mut failures = BTreeSet::new();
    loop {
        let look = move || (read(&plane), plane);
        let (looked, given_back) = task::spawn_blocking(look).await.context("look at the maps")?;
        plane = given_back;
        let (mut failed, mut warnings) = (BTreeSet::new(), BTreeSet::new());
        match looked {
            Ok((vips, backends, keys)) => {
                warnings.extend(traffic(&vips, &backends, &keys));
                warnings.extend(answers.look(&backends));
                let opened = watched.opened();
                warnings.extend(options::warnings(&vips, &backends, &opened));
                warnings.extend(rotation.look(&vips, &backends, &opened, Instant::now()));
                note(watched.sources(&backends, &mut choices), &mut warnings, &mut failed);
                watched.around(&plane, &backends, &mut warnings, &mut failed).await;
            }
            Err(error) => drop(failed.replace(format!("{error:#}"))),
        }
        let unwritten = watched.unwritten.stands();
        warnings.extend(unwritten.map(|why| Warning::new(Kind::StateFile, why)));
        failed
            .difference(&failures)
            .for_each(|failure| log::error!("look for what is wrong: {failure}"));
        failures = failed;
        watched.standing.set(warnings);
        watched
            .standing
            .note_splices(watched.swept.lock().unwrap_or_else(PoisonError::into_inner).splices);
        time::sleep(LOOK).await;
    }
}

fn note(
    found: Result<Vec<Warning>>,
    warnings: &mut BTreeSet<Warning>,
    failed: &mut BTreeSet<String>,
) {
    match found {
        Ok(found) => warnings.extend(found),
        Err(error) => drop(failed.replace(format!("{error:#}"))),
    }
}

fn read(plane: &Plane) -> Result<(Vec<VipReport>, Backends, Keys)> {
    let backends = Backends::read(plane)?;
    Ok((VipReport::read(plane, &backends)?, backends, Keys::read(plane, None)?))
}

impl Watched {
    /// What was opened lately, as the last sweep found it.
    fn opened(&self) -> Opened {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner).opened.clone()
    }

    /// What is wrong with the machine.
    async fn around(
        &self,
        plane: &Plane,
        backends: &Backends,
        warnings: &mut BTreeSet<Warning>,
        failed: &mut BTreeSet<String>,
    ) {
        let both_sides = self.both_sides(plane, backends).unwrap_or_default();
        let interfaces = self
            .config
            .interfaces
            .iter()
            .map(|interface| interface.name.clone())
            .collect::<Vec<_>>();
        let vips = self.config.addresses().collect::<Vec<_>>();
        let mut addresses = vips.iter().map(|vip| vip.ip()).collect::<BTreeSet<IpAddr>>();
        let bridged = self.config.bridged().map(Pool::service).collect::<HashSet<_>>();
        // Nothing is routed that passes a bridge.
        let routed = backends.backends.iter().filter(|backend| !bridged.contains(&backend.vip));
        addresses.extend(routed.map(|backend| backend.address.ip()));
        warnings.extend(programs(&self.dir, &vips));
        let addresses_here = addresses.iter().copied().collect();
        let here = Machine { interfaces, both_sides, addresses: addresses_here };
        warnings.extend(machine(&here));
        note(ipsec::policies(&addresses).await, warnings, failed);
        note(self.not_ethernet().await, warnings, failed);
        if !self.config.bridges.is_empty() {
            note(self.bridges(plane, backends, &bridged).await, warnings, failed);
        }
    }

    /// What is wrong with bridges and what comes by them.
    async fn bridges(
        &self,
        plane: &Plane,
        backends: &Backends,
        bridged: &HashSet<Service>,
    ) -> Result<Vec<Warning>> {
        let links = interfaces::links().await?;
        let members = backends.backends.iter().filter(|backend| bridged.contains(&backend.vip));
        let members = members.map(|backend| backend.address.ip()).collect::<Vec<_>>();
        let mut warnings = bridges(&self.config.bridges, &links, &members);
        let paths = plane.bridge_paths()?;
        warnings.extend(ambiguous(&plane.backends()?, &paths, clock::seconds()));
        Ok(warnings)
    }

    /// The managed interfaces that clients' packets come by and backends are behind.
    fn both_sides(&self, plane: &Plane, backends: &Backends) -> Result<Vec<String>> {
        let managed = &self.config.interfaces;
        if let [only] = &managed[..] {
            return Ok(vec![only.name.clone()]);
        }
        let mut behind = HashSet::new();
        for backend in &backends.backends {
            behind.insert(plane.backend_path(backend.id)?.hop.ifindex);
        }
        let swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let both = |index: &u32| behind.contains(index) && swept.client_interfaces.contains(index);
        let of = |name: &String| plane::ifindex(name).filter(both).is_some();
        Ok(managed
            .iter()
            .map(|interface| &interface.name)
            .filter(|name| of(name))
            .cloned()
            .collect())
    }

    /// An interface that came back may be another one.
    async fn not_ethernet(&self) -> Result<Vec<Warning>> {
        let links = interfaces::links().await?;
        let of = |name: &str| {
            Some(Warning::new(
                Kind::NotEthernet,
                interfaces::not_ethernet(name, interfaces::named(&links, name)?)?,
            ))
        };
        Ok(self.config.interfaces.iter().filter_map(|interface| of(&interface.name)).collect())
    }

    /// Where one source makes most flows: `auto` goes by it, `source` is warned of.
    fn sources(&self, backends: &Backends, choices: &mut source::Choices) -> Result<Vec<Warning>> {
        let sources = self.swept.lock().unwrap_or_else(PoisonError::into_inner).sources.clone();
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let mut warnings = Vec::new();
        for (at, vip) in pools.plane().vips()? {
            let address = Service::of(&at);
            let Some(sources) = sources.get(&vip.id).filter(|_| takers(backends, address) > 1)
            else {
                continue;
            };
            let by_flow = vip.flags & VIP_FALLBACK_FLOW != 0;
            match self
                .config
                .vips()
                .find(|configured| Service::Vip(configured.address) == address)
                .map(|vip| vip.fallback)
            {
                Some(Fallback::Auto) => {
                    match choices.look(vip.id, by_flow, sources, Instant::now()) {
                        Some(true) => {
                            let flags = vip.flags | source::BY_FLOW;
                            pools.plane_mut().set_vip(&at, &Vip { flags, ..vip })?;
                            let top = address::ip(&sources.top);
                            let (n, all) = (sources.of_top, sources.flows);
                            log::warn!(
                                "VIP {address}: {top} makes {n} of {all} flows: backends are chosen by flow from now on \
                             (fallback = \"auto\")"
                            );
                        }
                        Some(false) if vip.flags & VIP_FALLBACK_FOUND != 0 => {
                            let flags = vip.flags & !source::BY_FLOW;
                            pools.plane_mut().set_vip(&at, &Vip { flags, ..vip })?;
                            log::warn!(
                                "VIP {address}: no source makes many flows any more: backends are chosen by source from now on \
                             (fallback = \"auto\")"
                            );
                        }
                        Some(false) | None => {}
                    }
                }
                Some(Fallback::Source) => warnings.extend(source::warning(address, sources)),
                Some(Fallback::Flow) | None => {}
            }
        }
        Ok(warnings)
    }
}
