//! Keeps the programs where they belong, interface by interface: one that is gone, or that refuses,
//! holds up no other.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, stream};
use rtnetlink::MulticastGroup;
use tokio::time;

use super::{
    Pools, addresses,
    interfaces::Interfaces,
    start::{present, set_xdp},
};
use crate::{
    config::{Config, Interface},
    plane::{self, Attachment, Kind, LinkState, PinDir, Programs, Xdp},
};

/// Longest time between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// Interfaces that come and go tell so, several times each: a look waits for the end of it.
const REST: Duration = Duration::from_millis(200);
/// How many looks pass between two looks at what other gateways do.
const OTHERS: u32 = 15;

/// What is known of the links.
pub(super) struct Links {
    config: Config,
    dir: PinDir,
    programs: Programs,
    pools: Arc<Mutex<Pools>>,
    /// How it stood at the last look.
    states: BTreeMap<(String, Kind), LinkState>,
    /// Interfaces, by index, at which XDP was tried that may be there.
    tried: HashMap<String, u32>,
    /// What went wrong last, by what it was: said once, not every time.
    trouble: HashMap<String, String>,
    told: HashSet<String>,
    looks: u32,
}

impl Links {
    pub(super) fn new(
        config: Config,
        dir: PinDir,
        programs: Programs,
        attached: &[Attachment],
        pools: Arc<Mutex<Pools>>,
    ) -> Self {
        let states = attached.iter().flat_map(|attachment| {
            let state = |is| if is { LinkState::Attached } else { LinkState::Detached };
            let xdp = attachment
                .xdp
                .then(|| ((attachment.interface.clone(), Kind::Xdp), LinkState::Attached));
            [Some(((attachment.interface.clone(), Kind::Tc), state(attachment.tc))), xdp]
                .into_iter()
                .flatten()
        });
        let index = |attachment: &Attachment| {
            Some((attachment.interface.clone(), plane::ifindex(&attachment.interface)?))
        };
        Self {
            states: states.collect(),
            tried: attached.iter().filter_map(index).collect(),
            config,
            dir,
            programs,
            pools,
            trouble: HashMap::new(),
            told: HashSet::new(),
            looks: 0,
        }
    }

    /// Looks for ever: when the kernel tells of an interface, and every two seconds, for it does
    /// not tell of everything.
    pub(super) async fn keep(mut self) -> Result<()> {
        let mut events = match events() {
            Ok(events) => events.boxed(),
            Err(error) => {
                log::warn!("{error:#}: interfaces are looked at every {} s", LOOK.as_secs());
                stream::pending().boxed()
            }
        };
        loop {
            self.look().await;
            let told = tokio::select! {
                () = time::sleep(LOOK) => false,
                event = events.next() => event.is_some(),
            };
            if told {
                time::sleep(REST).await;
                // All that was told meanwhile is seen by one look.
                while let Ok(Some(())) = time::timeout(Duration::ZERO, events.next()).await {}
            }
        }
    }

    async fn look(&mut self) {
        for interface in self.config.attached() {
            self.look_at(&interface).await;
        }
        let xdp = self
            .states
            .iter()
            .any(|((_, kind), state)| *kind == Kind::Xdp && *state == LinkState::Attached);
        let done = set_xdp(&mut self.pools.lock().unwrap_or_else(PoisonError::into_inner), xdp);
        self.tell("settings", done);
        let assigned = addresses::assign(&self.config).await;
        self.tell("addresses", assigned);
        let refreshed = self.refresh_mss().await;
        self.tell("MSS", refreshed);
        if self.looks.is_multiple_of(OTHERS) {
            self.look_at_others();
        }
        self.looks = self.looks.wrapping_add(1);
    }

    async fn look_at(&mut self, interface: &Interface) {
        let name = interface.name.as_str();
        for kind in [Kind::Tc, Kind::Xdp] {
            let key = (name.to_owned(), kind);
            let mut state = plane::state(&self.dir, name, kind, true);
            if kind == Kind::Xdp && !self.states.contains_key(&key) && state != LinkState::Attached
            {
                // It was never there: a new interface of this name may take it.
                let index = plane::ifindex(name);
                if index.is_none() || index == self.tried.get(name).copied() {
                    continue;
                }
            }
            if state == LinkState::Detached {
                let attached = self.attach(interface, kind).await;
                if matches!(attached, Ok(true)) {
                    log::warn!(
                        "{name}: {} was not attached any more, or never was: attached anew",
                        kind.word()
                    );
                    state = LinkState::Attached;
                }
                self.tell(&format!("{name} {}", kind.word()), attached.map(drop));
            }
            if kind == Kind::Xdp && state != LinkState::Attached && !self.states.contains_key(&key)
            {
                continue;
            }
            let before = self.states.insert(key, state.clone());
            if before.as_ref() != Some(&state) && state != LinkState::Attached {
                log::warn!("{name}: {} is not where it belongs: {state}", kind.word());
            }
        }
    }

    /// Attaches a program to an interface that is there; `false` where it is not asked for.
    async fn attach(&mut self, interface: &Interface, kind: Kind) -> Result<bool> {
        if kind == Kind::Xdp {
            let found = Interfaces::find(std::slice::from_ref(interface)).await?;
            let asked = found.targets.iter().any(|target| target.xdp != Xdp::Never);
            self.tried.extend(
                plane::ifindex(&interface.name).map(|index| (interface.name.clone(), index)),
            );
            if !asked {
                return Ok(false);
            }
        }
        self.programs.attach_anew(&self.dir, &interface.name, kind).map(|()| true)
    }

    /// Clients are told what the interfaces take as they are now.
    async fn refresh_mss(&mut self) -> Result<()> {
        let mtu = present(&self.config).await?.mtu;
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).refresh_mss(mtu)
    }

    fn look_at_others(&mut self) {
        let vips = self.config.addresses().collect::<Vec<_>>();
        let sentences = plane::shared(&self.dir, &vips).into_iter().collect::<HashSet<_>>();
        for sentence in sentences.difference(&self.told) {
            log::warn!("{sentence}");
        }
        self.told = sentences;
    }

    /// Says what went wrong, once, and when it is over.
    fn tell(&mut self, what: &str, done: Result<()>) {
        match done {
            Ok(()) => {
                if self.trouble.remove(what).is_some() {
                    log::warn!("{what}: in order again");
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                if self.trouble.insert(what.to_owned(), error.clone()).as_ref() != Some(&error) {
                    log::error!("{what}: {error}");
                }
            }
        }
    }
}

/// One for each time that the kernel tells of an interface, of an address, or of TC.
fn events() -> Result<impl stream::Stream<Item = ()> + Send> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Tc,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)
        .context("listen to what netlink tells of interfaces")?;
    tokio::spawn(connection);
    Ok(messages.map(move |_| {
        // The connection ends with its last handle.
        let _ = &handle;
    }))
}
