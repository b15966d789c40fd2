//! What numbers in records stand for, and what the next hello with a session would get: by the
//! functions that the programs decide by ([`steer_common::decide`]), over the tables as they are.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use steer_common::{
    counters::Counter,
    decide::{self, Verdict},
    refusals::{self, Offer},
    rest,
    session::{Kind, LAYOUTS, LONGEST, NameLayout},
    shared::{
        Backend, BridgePath, Entrance, Flow, FlowKey, KEY_NAME_PROVEN, KEY_NAME_SHARED, KeyName,
        NO_BACKEND, Refusals, Rest, SWITCH_BYPASS, SWITCH_LEAVE, Session, SessionKey, VIP_BRIDGED,
        VIP_FALLBACK_FLOW, VIP_INLINE, VIP_OBSERVE, VIP_TELL_TICKETS, Vip, backend_bit,
    },
};

use super::BackendState;
use crate::{
    address::{address, endpoint, ip, socket},
    agent::Rules,
    clock,
    plane::Plane,
    service::Service,
};

/// Bytes of an identifier that are shown.
pub(super) const SHOWN: usize = 4;

/// The first bytes of an identifier, hexadecimal.
pub(super) fn shown(bytes: &[u8], len: u8) -> String {
    bytes.iter().take(SHOWN.min(len.into())).map(|byte| format!("{byte:02x}")).collect()
}

/// What is known of an identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// A session by itself.
    Session(Session),
    /// The name of a ticket's key.
    KeyName(KeyName),
}

impl Known {
    pub(super) fn owner(&self) -> u16 {
        match self {
            Self::Session(session) => session.owner,
            Self::KeyName(name) => name.owner,
        }
    }
}

/// Who sends the hello that is judged, as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sender {
    /// Its address.
    pub(super) client: Option<IpAddr>,
    /// The backend that its flow would come to first.
    pub(super) first: Option<u16>,
}

/// The tables that decide, but for those of flows and sessions.
pub(super) struct World {
    pub(super) now: u32,
    pub(super) rules: Rules,
    backends: HashMap<u16, Backend>,
    vips: HashMap<u16, (Service, Vip)>,
    /// VIPs that share the pool of another one, by their numbers.
    entrances: HashMap<u32, Entrance>,
    refusals: Vec<Refusals>,
    rests: Vec<Rest>,
    paths: Vec<BridgePath>,
    pub(super) bypass: bool,
    pub(super) leave: bool,
}

impl World {
    pub(super) fn read(plane: &Plane) -> Result<Self> {
        let (vips, backends) = (plane.vips()?, plane.backends()?);
        Ok(Self {
            now: clock::seconds(),
            rules: Rules::new(&vips, &backends),
            backends: backends.into_iter().map(|(id, backend)| (id as u16, backend)).collect(),
            vips: vips.into_iter().map(|(at, vip)| (vip.id, (Service::of(&at), vip))).collect(),
            entrances: plane.entrances()?.into_iter().collect(),
            refusals: plane.refusals()?,
            rests: plane.rests()?,
            paths: plane.bridge_paths()?,
            bypass: plane.switch(SWITCH_BYPASS)?,
            leave: plane.switch(SWITCH_LEAVE)?,
        })
    }

    pub(super) fn has_backend(&self, at: SocketAddr) -> bool {
        self.backends.values().any(|backend| backend.endpoint == endpoint(at))
    }

    pub(super) fn has_vip(&self, service: &Service) -> bool {
        self.vips.values().any(|(at, _)| at == service)
    }

    pub(super) fn backend_address(&self, id: u16) -> Option<SocketAddr> {
        self.backends.get(&id).map(|backend| socket(&backend.endpoint))
    }

    /// The backend, for sentences.
    pub(super) fn named(&self, id: u16) -> String {
        let address = self.backend_address(id);
        address.map_or_else(|| format!("a backend that is forgotten ({id})"), |at| at.to_string())
    }

    pub(super) fn vip(&self, id: u16) -> Option<&Vip> {
        self.vips.get(&id).map(|(_, vip)| vip)
    }

    pub(super) fn service_of(&self, id: u16) -> Option<Service> {
        self.vips.get(&id).map(|(service, _)| *service)
    }

    /// The VIP or pool of a flow.
    pub(super) fn service(&self, key: &FlowKey) -> Option<Service> {
        self.service_of(self.rules.vip_id(key.service)?)
    }

    /// What a flow's client dialled: of several VIPs that share a pool the one that it came by.
    pub(super) fn dialled(&self, key: &FlowKey, flow: &Flow) -> Option<SocketAddr> {
        match (key.dialled(), flow.entrance()) {
            (Some(backend), _) => self.backend_address(backend),
            (None, 0) => self.service(key)?.address(),
            (None, entrance) => {
                self.entrances.get(&u32::from(entrance)).map(|at| socket(&at.endpoint))
            }
        }
    }

    /// The state of an owner with what else keeps flows from it, for sentences.
    pub(super) fn state(&self, id: u16, offer: Offer) -> String {
        let Some(backend) = self.backends.get(&id) else { return "is forgotten".to_owned() };
        let state = BackendState::of(backend);
        let mut told = match state {
            BackendState::Draining if backend.drain_until == 0 => {
                "is draining without end".to_owned()
            }
            BackendState::Draining => match backend.drain_until.saturating_sub(self.now) {
                0 => "is drained: its deadline is over".to_owned(),
                left => format!("is draining for {left}s more"),
            },
            BackendState::Removed => "is removed from its pool".to_owned(),
            state => format!("is {}", state.word()),
        };
        let rest = self.rest(id);
        if rest::rests(&rest, self.now) {
            told += &format!(
                ", rests for {}s more (it did not answer the last {} moves)",
                rest.until.wrapping_sub(self.now),
                rest.silent
            );
        }
        let refusals = self.refusals(id);
        if refusals::holds_back(&mut refusals.clone(), offer, self.now) {
            told += &format!(
                ", refuses (the last {} of such offers, and accepted none for an hour)",
                refusals.in_a_row[offer as usize]
            );
        }
        told
    }

    fn rest(&self, id: u16) -> Rest {
        self.rests.get(usize::from(id)).copied().unwrap_or_default()
    }

    fn refusals(&self, id: u16) -> Refusals {
        self.refusals.get(usize::from(id)).copied().unwrap_or_default()
    }

    /// What the next hello with this identifier gets; `None` where its VIP is gone.
    pub(super) fn next(&self, key: &SessionKey, known: &Known, sender: Sender) -> Option<Verdict> {
        let vip = self.vip(key.vip)?;
        let verdict = self.decide(vip, known, sender.first.unwrap_or(NO_BACKEND));
        Some(self.beyond(vip, verdict, offer(key), sender))
    }

    /// What the tables say of an owner, by the programs' own functions.
    fn decide(&self, vip: &Vip, known: &Known, first: u16) -> Verdict {
        let Some(backend) = self.backends.get(&known.owner()) else {
            return Verdict::First(Counter::OwnerDown);
        };
        match known {
            Known::Session(session) => decide::session(session, backend, vip, first, self.now),
            Known::KeyName(name) => decide::key_name(name, backend, vip, first, self.now),
        }
    }

    /// What keeps a flow from its owner beside the look-up, in the order in which the programs ask
    /// (`found`, `decided` and `open_owner` of steer-ebpf). The forwarding table is not asked here.
    fn beyond(&self, vip: &Vip, verdict: Verdict, offer: Offer, sender: Sender) -> Verdict {
        if self.bypass {
            return Verdict::First(Counter::Bypassed);
        }
        let Verdict::Owner(owner) = verdict else { return verdict };
        let is_client = |client| self.backend_address(owner).map(|at| at.ip()) == Some(client);
        Verdict::First(match () {
            () if refusals::holds_back(&mut self.refusals(owner), offer, self.now) => {
                Counter::OwnerRefuses
            }
            () if vip.flags & VIP_OBSERVE != 0 => Counter::Observed,
            () if sender.client.is_some_and(is_client) => Counter::OwnerIsClient,
            () if rest::rests(&self.rest(owner), self.now) => Counter::OwnerResting,
            () if vip.flags & VIP_BRIDGED != 0 => {
                let path = |id: u16| self.paths.get(usize::from(id)).copied().unwrap_or_default();
                let mixed = |id| path(id).is_mixed(self.now);
                match () {
                    () if mixed(owner) || sender.first.is_some_and(mixed) => Counter::VlanAmbiguous,
                    () if !path(owner).is_known(self.now) => Counter::OwnerNoRoute,
                    () => return verdict,
                }
            }
            () => return verdict,
        })
    }

    /// The first backend of a client's next flow; `None` where that follows from its port, or its
    /// client chooses it.
    pub(super) fn first_of(&self, plane: &Plane, vip: &Vip, client: IpAddr) -> Result<Option<u16>> {
        if vip.flags & (VIP_INLINE | VIP_FALLBACK_FLOW) != 0 {
            return Ok(None);
        }
        let slot = decide::slot(vip, &address(client), [0; 2]);
        let first = plane.lookup.read(vip.lookup_base.wrapping_add(slot))?;
        Ok((first != NO_BACKEND).then_some(first))
    }

    /// Looks an identifier up as the programs do (`look_up_ticket` of steer-ebpf): what it is known
    /// by, and what that is. `in_clear` says that it is no PSK identity, which clients offer once;
    /// `nameless`, that it is a key itself.
    pub(super) fn look_up(
        &self,
        plane: &Plane,
        key: &SessionKey,
        in_clear: bool,
        nameless: bool,
    ) -> Result<Option<(SessionKey, Known)>> {
        let Some(vip) = self.vip(key.vip) else { return Ok(None) };
        let by_itself = || Ok(plane.sessions.find(key)?.map(|found| (*key, Known::Session(found))));
        if key.kind != Kind::Ticket as u8 {
            return by_itself();
        }
        let named = !nameless && NameLayout::of(vip, 0).len != 0;
        let found = if in_clear || !named { by_itself()? } else { None };
        let is_fresh = |known: &Known| {
            self.decide(vip, known, NO_BACKEND) != Verdict::First(Counter::SessionExpired)
        };
        if !named || found.is_some_and(|(_, known)| is_fresh(&known)) {
            return Ok(found);
        }
        let searched = vip.flags & VIP_TELL_TICKETS != 0;
        let mut rejected_by = 0;
        for layout in (0..LAYOUTS).map(|i| NameLayout::of(vip, i)).take_while(|at| at.len != 0) {
            let from = usize::from(layout.at);
            let bytes = key.bytes.get(from..from + usize::from(layout.len));
            let Some(name) = bytes.and_then(|it| SessionKey::new(vip.id, Kind::KeyName, it)) else {
                continue;
            };
            if searched {
                let tried = plane.key_name_tries.find(&name)?.map_or(0, |tries| tries.tried);
                if layout.len == LONGEST || tried != 0 {
                    rejected_by = tried;
                }
            }
            let Some(known) = plane.key_names.find(&name)? else { continue };
            let rejected =
                known.flags & KEY_NAME_PROVEN == 0 && rejected_by & backend_bit(known.owner) != 0;
            if searched && (known.flags & KEY_NAME_SHARED != 0 || rejected) {
                continue;
            }
            return Ok(Some((name, Known::KeyName(known))));
        }
        Ok(found)
    }

    /// A client's address in `foreign`, and whom it dialled.
    pub(super) fn foreign_to(&self, key: &FlowKey) -> (IpAddr, String) {
        let to = match key.dialled() {
            Some(backend) => format!("{} itself", self.named(backend)),
            None => self.service(key).map_or("a VIP that is gone".to_owned(), |to| to.titled()),
        };
        (ip(&key.client), to)
    }
}

/// By what a key leads to its owner.
pub(super) fn offer(key: &SessionKey) -> Offer {
    match Kind::from_number(key.kind) {
        Some(Kind::KeyName) => Offer::KeyName,
        Some(Kind::Ticket) => Offer::Ticket,
        Some(Kind::SessionId) | None => Offer::SessionId,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use steer_common::shared::{
        BACKEND_DRAINING, BACKEND_PRESENT, BACKEND_UP, Endpoint, KEY_NAME_CONFIGURED,
    };

    use super::*;

    /// When all tests take place, seconds.
    pub(in crate::report) const NOW: u32 = 100_000;

    /// What a world is made of.
    #[derive(Default)]
    pub(in crate::report) struct Build {
        pub(in crate::report) vips: Vec<(Endpoint, Vip)>,
        pub(in crate::report) backends: Vec<(u16, Backend)>,
        pub(in crate::report) entrances: Vec<(u32, Entrance)>,
        pub(in crate::report) refusals: Vec<Refusals>,
        pub(in crate::report) rests: Vec<Rest>,
        pub(in crate::report) paths: Vec<BridgePath>,
        pub(in crate::report) bypass: bool,
        pub(in crate::report) leave: bool,
    }

    impl Build {
        pub(in crate::report) fn build(self) -> World {
            let vips = self.vips.iter().map(|(_, vip)| (vip.id, *vip)).collect();
            let backends = self.backends.into_iter().collect::<HashMap<_, _>>();
            World {
                now: NOW,
                rules: Rules::at(NOW, vips, backends.clone()),
                backends,
                vips: self
                    .vips
                    .into_iter()
                    .map(|(at, vip)| (vip.id, (Service::of(&at), vip)))
                    .collect(),
                entrances: self.entrances.into_iter().collect(),
                refusals: self.refusals,
                rests: self.rests,
                paths: self.paths,
                bypass: self.bypass,
                leave: self.leave,
            }
        }

        /// One VIP, 0, with the backends 1 and 2, which are up.
        pub(in crate::report) fn two() -> Self {
            let vip = endpoint(SocketAddr::from(([198, 51, 100, 10], 443)));
            let backend = |n: u8| Backend {
                endpoint: endpoint(SocketAddr::from(([10, 0, 0, n], 443))),
                vip,
                vip_id: 0,
                flags: BACKEND_PRESENT | BACKEND_UP,
                weight: 1,
                ..Backend::default()
            };
            let settings = Vip {
                session_timeout: 600,
                name_timeout: 600,
                flow_timeout: 600,
                ..Vip::default()
            };
            Self {
                vips: vec![(vip, settings)],
                backends: vec![(1, backend(1)), (2, backend(2))],
                ..Self::default()
            }
        }
    }

    pub(in crate::report) fn session_key() -> SessionKey {
        SessionKey::new(0, Kind::SessionId, &[0xab; 32]).unwrap()
    }

    /// A session of backend 2.
    pub(in crate::report) fn session() -> Session {
        Session { owner: 2, flags: 0, first_seen: NOW - 90, last_seen: NOW - 4, uses: 3 }
    }

    /// What the next hello with the session gets.
    fn next(build: Build, sender: Sender) -> Verdict {
        let known = Known::Session(session());
        build.build().next(&session_key(), &known, sender).unwrap()
    }

    #[test]
    fn the_next_hello_gets_what_the_programs_would_say() {
        use Counter::*;
        let anyone = Sender::default();
        let with = |change: fn(&mut Build)| {
            let mut build = Build::two();
            change(&mut build);
            next(build, anyone)
        };
        assert_eq!(with(|_| {}), Verdict::Owner(2));
        for (change, reason) in [
            ((|build| build.bypass = true) as fn(&mut Build), Bypassed),
            (|build| build.vips[0].1.session_timeout = 3, SessionExpired),
            (|build| build.vips[0].1.session_limit = 80, SessionExpired),
            (|build| build.vips[0].1.flags = VIP_OBSERVE, Observed),
            (|build| build.backends[1].1.flags = BACKEND_PRESENT, OwnerDown),
            (|build| build.backends.truncate(1), OwnerDown),
            (
                |build| {
                    build.backends[1].1.flags |= BACKEND_DRAINING;
                    build.backends[1].1.drain_until = NOW - 1;
                },
                OwnerDrained,
            ),
            (|build| build.refusals = vec![refusing(); 3], OwnerRefuses),
            (
                |build| build.rests = vec![Rest { until: NOW + 5, silent: 2, last: 0 }; 3],
                OwnerResting,
            ),
            (|build| build.vips[0].1.flags = VIP_INLINE | VIP_BRIDGED, OwnerNoRoute),
            (
                |build| {
                    build.vips[0].1.flags = VIP_INLINE | VIP_BRIDGED;
                    build.paths = vec![BridgePath { mixed: NOW, ..BridgePath::default() }; 3];
                },
                VlanAmbiguous,
            ),
        ] {
            assert_eq!(with(change), Verdict::First(reason));
        }
        // A drain with time left, and rests and refusals that are over, keep nobody away.
        assert_eq!(
            with(|build| {
                build.backends[1].1.flags |= BACKEND_DRAINING;
                build.backends[1].1.drain_until = NOW + 60;
                build.rests = vec![Rest { until: NOW - 1, silent: 2, last: 0 }; 3];
                build.refusals = vec![Refusals { accepted: [NOW; 3], ..refusing() }; 3];
            }),
            Verdict::Owner(2)
        );
        let at = |first| next(Build::two(), Sender { client: None, first: Some(first) });
        assert_eq!((at(1), at(2)), (Verdict::Owner(2), Verdict::First(SessionHit)));
        let client = Some("10.0.0.2".parse().unwrap());
        let from_owner = next(Build::two(), Sender { client, first: Some(1) });
        assert_eq!(from_owner, Verdict::First(OwnerIsClient));
    }

    fn refusing() -> Refusals {
        Refusals { in_a_row: [refusals::REFUSED; 3], ..Refusals::default() }
    }

    #[test]
    fn a_key_name_that_is_shared_or_old_steers_no_more() {
        let key = SessionKey::new(0, Kind::KeyName, &[0xcd; 16]).unwrap();
        let next = |flags, idle| {
            let name = KeyName { owner: 2, flags, last_seen: NOW - idle, ..KeyName::default() };
            Build::two().build().next(&key, &Known::KeyName(name), Sender::default())
        };
        assert_eq!(next(0, 9), Some(Verdict::Owner(2)));
        assert_eq!(next(KEY_NAME_SHARED, 9), Some(Verdict::First(Counter::KeyNameShared)));
        assert_eq!(next(0, 601), Some(Verdict::First(Counter::SessionExpired)));
        assert_eq!(next(KEY_NAME_CONFIGURED, 601), Some(Verdict::Owner(2)));
    }

    #[test]
    fn an_owners_state_names_what_keeps_flows_from_it() {
        let state = |change: fn(&mut Build)| {
            let mut build = Build::two();
            change(&mut build);
            build.build().state(2, Offer::SessionId)
        };
        assert_eq!(state(|_| {}), "is up");
        assert_eq!(state(|build| build.backends[1].1.flags = BACKEND_PRESENT), "is down");
        assert_eq!(state(|build| build.backends[1].1.flags = 0), "is removed from its pool");
        assert_eq!(state(|build| build.backends.truncate(1)), "is forgotten");
        let drained = state(|build| {
            build.backends[1].1.flags |= BACKEND_DRAINING;
            build.backends[1].1.drain_until = NOW + 60;
        });
        assert_eq!(drained, "is draining for 60s more");
        let told = state(|build| {
            build.rests = vec![Rest { until: NOW + 5, silent: 2, last: 0 }; 3];
            build.refusals = vec![refusing(); 3];
        });
        assert_eq!(
            told,
            "is up, rests for 5s more (it did not answer the last 2 moves), refuses (the last 8 of such offers, and accepted \
             none for an hour)"
        );
    }
}
